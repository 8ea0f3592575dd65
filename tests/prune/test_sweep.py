"""A sweep judges every number of modules on val and times all of them in one session."""

from __future__ import annotations

import re

import pytest

from edgeres.bench.stage import Session
from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.metrics import Latency
from edgeres.core.records.sweep import Sweep
from edgeres.data import dataset_for
from edgeres.data.split import OWN_GUESSES
from edgeres.evaluate.stage import accuracy_of
from edgeres.prune import sweep as stage
from edgeres.prune.config import SweepConfig, counts_from
from edgeres.prune.sweep import sweep


@pytest.fixture
def checkpoint(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet14", width=4))


@pytest.fixture(autouse=True)
def fake_clock(monkeypatch):
    """Fake latencies: a millisecond for each module that is left; the session itself is tested in tests/bench."""

    def timed(checkpoints, out_dir):
        shared = {"batch": 1, "runtime": "fake", "threads": 1, "session": "s", "warmup": 1, "machine": "fake"}
        return Session(
            tuple(
                Latency(samples_ms=(6.0 - len(c.spec.dropped),) * 10, artifact=c.sha256, **shared) for c in checkpoints
            ),
        )

    monkeypatch.setattr(stage, "_timed", timed)


def test_without_labels_points_are_of_first_guesses_that_changed(checkpoint, unlabelled, tmp_path):
    result = sweep(checkpoint, SweepConfig(sweep="1..2", data=unlabelled, images=60), tmp_path / "out")
    whole, *cut = (row.bare for row in record_from_json(Sweep, result.output.path).rows)
    assert whole.lost_points == 0  # nobody agrees more with a network than itself
    assert all(one.accuracy is None and one.closeness.measure == "guess" for one in (whole, *cut))
    assert all(one.lost_points == pytest.approx(100 - 100 * one.closeness.mean) for one in cut)
    assert OWN_GUESSES in result.report.notes


def test_each_row_is_a_network_on_disk_with_its_accuracy_on_val(checkpoint, tmp_path, caplog):
    out = tmp_path / "out"
    with caplog.at_level("INFO", "edgeres"):
        result = sweep(checkpoint, SweepConfig(sweep="1..3", data="digits", images=60), out)
    told = [message for message in caplog.messages if message.startswith("sweep: ")]
    assert told[0] == "sweep: without 0 of 3"
    assert all(re.fullmatch(r"sweep: without [123] of 3; about \d+s left", line) for line in told[1:])
    found = record_from_json(Sweep, result.output.path)
    dataset = dataset_for(checkpoint.spec, "digits")
    assert [row.count for row in found.rows] == [0, 1, 2, 3]
    assert [row.ratio.value for row in found.rows] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6])
    for row in found.rows[1:]:
        network = Checkpoint(out / row.checkpoint)
        assert network.spec.dropped == tuple(sorted(row.dropped))
        assert row.bare.accuracy.correct_top1 == accuracy_of(network, dataset).correct_top1
    names = [
        "drop-01.safetensors",
        "drop-02.safetensors",
        "drop-03.safetensors",
        "sweep.csv",
        "sweep.json",
        "sweep.svg",
    ]
    assert sorted(path.name for path in out.iterdir()) == names
    assert (out / "sweep.csv").read_text().count("\n") == 5


def test_an_interrupted_sweep_judges_no_network_twice(checkpoint, tmp_path, monkeypatch):
    from edgeres.prune import cut as stage

    config, out, judged = SweepConfig(sweep="1..3", data="digits", images=60), tmp_path / "out", []

    def counting(model, dataset, **options):
        judged.append(model.path.name)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return original(model, dataset, **options)

    original = stage.accuracy_of
    monkeypatch.setattr(stage, "accuracy_of", counting)
    with pytest.raises(KeyboardInterrupt):
        sweep(checkpoint, config, out)
    sweep(checkpoint, config, out)
    assert judged == ["model.safetensors", *(f"drop-{count:02}.safetensors" for count in (1, 2, 2, 3))]


def test_recovered_networks_stand_beside_the_bare_ones(checkpoint, tmp_path):
    config = SweepConfig(sweep="1..1", data="digits", images=60, recover=("bn",))
    rows = record_from_json(Sweep, sweep(checkpoint, config, tmp_path / "out").output.path).rows
    assert rows[1].recovered is not None
    assert rows[1].final is rows[1].recovered
    assert rows[0].recovered is None


@pytest.mark.parametrize("text", ["12", "1-12", "a..b", "1.."])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(InputError, match=r"say a range such as 1\.\.12"):
        counts_from(text)


@pytest.mark.parametrize(
    ("text", "message"), [("3..1", r"--sweep 3\.\.1: the range runs backwards; say 1\.\.3"), ("0..3", "begin with 1")]
)
def test_a_range_that_cannot_be_says_why(text, message):
    with pytest.raises(InputError, match=message):
        counts_from(text)


def test_more_than_there_are_modules_is_refused(checkpoint, tmp_path):
    with pytest.raises(InputError, match="cannot drop 7 modules: resnet14 has 6"):
        sweep(checkpoint, SweepConfig(sweep="1..7", data="digits"), tmp_path / "out")
