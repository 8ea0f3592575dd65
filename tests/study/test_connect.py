"""The connect study: three claims, each with its own verdict."""

from __future__ import annotations

import pytest
import torch

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.models import network_from
from edgeres.study.connect import ConnectConfig, claims_of, connect, kinds_of, without_skips
from edgeres.study.result import Study

SPREAD = (-0.1, 0.0, 0.1)


def rows_with(**means):
    """Made-up errors of three seeds about each network's mean (5 where none is given)."""
    return [
        {
            **kind.row,
            "seed": seed,
            "test_error_percent": means.get(kind.label.replace(" ", "_"), 5.0) + spread * (1 + 0.1 * len(kind.label)),
            "train_error_percent": means.get(kind.label.replace(" ", "_"), 5.0) + spread * (1 + 0.1 * len(kind.label)),
        }
        for kind in kinds_of(20)
        for seed, spread in enumerate(SPREAD)
    ]


@pytest.mark.parametrize(
    ("claim", "means", "verdict"),
    [
        ("one layer", {}, "supported"),
        ("one layer", {"plain": 9.0}, "not supported"),
        ("one layer", {"plain": 6.0}, "undecided"),
        ("connected", {"fc_plain": 9.0}, "supported"),
        ("connected", {"fc_plain": 1.0}, "not supported"),
        ("connected", {}, "undecided"),
        ("projections", {}, "supported"),
        ("projections", {"C": 1.0}, "not supported"),
        ("projections", {"B": 6.0}, "undecided"),
    ],
)
def test_each_claims_verdict_follows_from_its_rows(claim, means, verdict):
    rows = rows_with(**means)
    for row in rows:  # a spread that is not the same in both networks, so that "about 1 point" cannot be decided
        if row["network"] in {"plain", "B", "fc plain"} and row["seed"] == 2:
            row["test_error_percent"] += 0.2
            row["train_error_percent"] += 0.2
    assert claims_of(rows)[claim].verdict == verdict


def test_a_network_without_skips_is_its_branches_alone(spec_of):
    torch.manual_seed(0)
    network = network_from(spec_of("fcresnet8")).eval()
    without_skips(network)
    assert not [key for key in network.state_dict() if "downsample" in key]
    x = torch.rand(4, 1, 8, 8)
    expected = network.stem(x)
    for _, unit in network.units():
        expected = torch.relu(unit.branch(expected))
    assert torch.equal(network(x), network.classify(expected))


def test_only_residual_networks_have_skips_to_remove(spec_of):
    with pytest.raises(InputError, match="no skip to remove"):
        without_skips(network_from(spec_of("vgg11")))


def test_the_study_covers_all_kinds_and_keeps_what_a_spec_describes(tmp_path):
    result = connect(None, ConnectConfig(depth=8, epochs=1, batch=256, seeds=1), tmp_path)
    study = record_from_json(Study, result.output.path)
    assert [row["network"] for row in study.rows] == [
        "plain", "1 layer", "2 layers", "fc plain", "fc residual", "A", "B", "C",
    ]  # fmt: skip
    assert [claim["verdict"] for claim in study.summary["claims"]] == ["undecided"] * 3  # one seed
    assert study.verdict == "undecided"
    assert (tmp_path / "study.svg").exists()
    networks = {path.parent.name for path in tmp_path.rglob("model.safetensors")}
    assert "fcresnet8-seed0" in networks
    assert "fcresnet8-without-skips-seed0" not in networks
    assert (tmp_path / "networks" / "fcresnet8-without-skips-seed0" / "trained.json").exists()
    assert len(list((tmp_path / "networks").iterdir())) == 7  # two layers and option A are one network
