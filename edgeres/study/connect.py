"""`edgeres study connect`: what a shortcut should span, and what it should be made of.

    one layer     y = W x + x alone is a linear layer: no advantage over a plain network was seen
    connected     the shortcut serves fully connected layers as it does convolutions
    projections   A zero-pad, B projection where shapes differ, C projection everywhere: the differences are small

Source: He et al. 2015, arXiv 1512.03385, sections 3.2 and 4.1 with table 3 (ResNet-34 on ImageNet, where A, B and C
have 25.03, 24.52 and 24.19 % top-1 error). Here all networks are of the CIFAR kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeres.core.artifacts import StudyFile
from edgeres.core.errors import InputError
from edgeres.core.stage import StageResult
from edgeres.models.network import Network
from edgeres.models.resnet_net import Residual
from edgeres.study.config import ConnectConfig
from edgeres.study.experiment import Experiment, Kind, Trained, trained
from edgeres.study.result import MIN_SEEDS, Claim, Picture, Row, Study, by_seed, difference, joined, judged, points

ADVANTAGE_POINTS = 1.0  # of test error: what is smaller does not count as one; table 3's largest difference is 0.84
_HE_2015 = "He et al. 2015, arXiv 1512.03385"
_PUBLISHED_ERROR_PERCENT = {"A": 25.03, "B": 24.52, "C": 24.19}
_PANELS = {
    "one layer": ("test_error_percent", "layers in a module"),
    "connected": ("train_error_percent", "fully connected"),
    "projections": ("test_error_percent", "shortcuts"),
}


def connect(source: None, config: ConnectConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, .csv and .svg, and the networks, into `out_dir`; interrupted, the same call goes on."""
    experiment = Experiment("connect", config, kinds_of(config.depth, config.fc_lr), out_dir)
    rows = experiment.rows(Trained, trained)
    claims = list(claims_of(rows).values())
    summary = {
        "claims": claims,
        "advantage_points": ADVANTAGE_POINTS,
        "published_resnet34_imagenet_error_percent": _PUBLISHED_ERROR_PERCENT,
    }
    picture = Picture(_draw, panels=len(_PANELS), width_in=11.0)
    return experiment.finish(joined(claims, f"{_HE_2015}, sections 3.2 and 4.1"), rows, summary, picture)


def kinds_of(depth: int, fc_lr: float = 0.02) -> list[Kind]:
    """All kinds of networks of that depth, by the claims (keys of the table above) they serve."""
    plain, residual, connected = f"plain{depth}cifar", f"resnet{depth}cifar", f"fcresnet{depth}"
    linear = replace(
        _kind("connected", "fc residual", connected),
        training={"lr": fc_lr, "augment": "none"},  # fully connected layers know no shifted images
    )
    return [
        _kind("one layer", "plain", plain),
        _kind("one layer", "1 layer", residual, layers=1),
        _kind("one layer", "2 layers", residual),
        replace(
            linear,
            folder=f"{connected}-without-skips",
            label="fc plain",
            row={"claim": "connected", "network": "fc plain"},
            change=without_skips,
        ),
        linear,
        _kind("projections", "A", residual),
        *(_kind("projections", option, residual, shortcut=option) for option in "BC"),
    ]


def _kind(claim: str, label: str, arch: str, **options: str | int) -> Kind:
    """A network that serves two claims has one name, and is trained once."""
    folder = "-".join([arch, *(f"{name}-{value}" for name, value in options.items())])
    return Kind(folder, label, arch, {"claim": claim, "network": label}, options)


def without_skips(network: Network) -> None:
    """Makes a residual network plain: only the branches are left, projections go."""
    for name, unit in network.units():
        if not isinstance(unit, Residual):
            raise InputError(f"{name} has no skip to remove")
        unit.skips, unit.downsample = False, None


def claims_of(rows: Sequence[Row]) -> dict[str, Claim]:
    """The claims with their verdicts."""
    return {
        "one layer": _no_advantage_of_one_layer(rows),
        "connected": _gain_of_connected(rows),
        "projections": _small_differences(rows),
    }


def _no_advantage_of_one_layer(rows: Sequence[Row]) -> Claim:
    """Supported if plain networks are worse by less than ADVANTAGE_POINTS, not if by more, with the whole interval."""
    values = {name: _errors(rows, "one layer", name) for name in ("plain", "1 layer", "2 layers")}
    gain = difference(values["plain"], values["1 layer"])
    verdict = judged(
        enough=len(values["plain"]) >= MIN_SEEDS, holds=gain.high < ADVANTAGE_POINTS, fails=gain.low > ADVANTAGE_POINTS
    )
    two = difference(values["plain"], values["2 layers"])
    return Claim(
        claim="modules of one layer have no advantage over a plain network",
        source=f"{_HE_2015}, section 3.2",
        verdict=verdict,
        because=f"test error of plain minus residual {points(gain)} with one layer, {points(two)} with two",
    )


def _gain_of_connected(rows: Sequence[Row]) -> Claim:
    """Supported if shortcuts lower the training error, not supported if they raise it, with the whole interval."""
    plain, residual = _errors(rows, "connected", "fc plain"), _errors(rows, "connected", "fc residual")
    gain = difference(plain, residual)
    verdict = judged(enough=len(plain) >= MIN_SEEDS, holds=gain.low > 0, fails=gain.high < 0)
    return Claim(
        claim="shortcuts serve fully connected layers too",
        source=f"{_HE_2015}, section 3.2",
        verdict=verdict,
        because=f"training error of fully connected plain minus residual {points(gain)}",
    )


def _small_differences(rows: Sequence[Row]) -> Claim:
    """Supported if B and C differ from A by less than ADVANTAGE_POINTS, not if one by more, with the whole interval."""
    option_a = _errors(rows, "projections", "A")
    changes = {name: difference(_errors(rows, "projections", name), option_a) for name in "BC"}
    verdict = judged(
        enough=len(option_a) >= MIN_SEEDS,
        holds=all(max(abs(each.low), abs(each.high)) < ADVANTAGE_POINTS for each in changes.values()),
        fails=any(each.low > ADVANTAGE_POINTS or each.high < -ADVANTAGE_POINTS for each in changes.values()),
    )
    return Claim(
        claim="projection shortcuts are not essential",
        source=f"{_HE_2015}, section 4.1 and table 3",
        verdict=verdict,
        because="test error minus A's: " + ", ".join(f"{name} {points(each)}" for name, each in changes.items()),
    )


def _errors(rows: Sequence[Row], claim: str, network: str) -> list[float]:
    return by_seed(rows, _PANELS[claim][0], claim=claim, network=network)


def _draw(axes: Any, study: Study) -> None:
    for panel, (claim, (column, title)) in zip(axes, _PANELS.items(), strict=True):
        names = list(dict.fromkeys(str(row["network"]) for row in study.rows if row["claim"] == claim))
        for place, name in enumerate(names):
            values = by_seed(study.rows, column, claim=claim, network=name)
            panel.plot([place] * len(values), values, "o", color="C0", alpha=0.5)
            panel.plot(place, sum(values) / len(values), "_", color="C0", markersize=24, markeredgewidth=2)
        of = "training" if column.startswith("train") else "test"
        panel.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, None), ylabel=f"{of} error (%)")
        panel.set_xticks(range(len(names)), names)
        panel.set_title(title, loc="left", fontsize=10)
    axes[1].set_xlabel(f"{study.data}, {len(study.seeds)} seeds and their mean, n = {study.n:,}")
