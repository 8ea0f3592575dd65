"""`edgeres study connect`: what a shortcut should span, and what it should be made of.

    one layer     y = W x + x alone is a linear layer: no advantage over a plain network was seen
    connected     the shortcut serves fully connected layers as it does convolutions
    projections   A zero-pad, B projection where shapes differ, C projection everywhere: the differences are small

Source: He et al. 2015, arXiv 1512.03385, sections 3.2 and 4.1 with table 3 (ResNet-34 on ImageNet, where A, B and C
have 25.03, 24.52 and 24.19 % top-1 error). Here all networks are of the CIFAR kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeres.core.artifacts import StudyFile
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval
from edgeres.core.stage import StageResult
from edgeres.models.network import Network
from edgeres.models.own_networks import Residual
from edgeres.study.config import ConnectConfig
from edgeres.study.experiment import Experiment, Kind, Trained, trained
from edgeres.study.result import Claim, Picture, Row, Study, by_seed, difference, draw_strips, joined, points, within

ADVANTAGE_POINTS = 1.0  # of test error: what is smaller does not count as one; table 3's largest difference is 0.84
_HE_2015 = "He et al. 2015, arXiv 1512.03385"
_PUBLISHED_ERROR_PERCENT = {"A": 25.03, "B": 24.52, "C": 24.19}
_PANELS = {"one layer": "test_error_percent", "connected": "train_error_percent", "projections": "test_error_percent"}


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
    """The claims with their verdicts: which differences, in points, have to lie between which bounds."""

    def change(claim: str, network: str, base: str) -> Interval:
        after, before = (by_seed(rows, _PANELS[claim], claim=claim, network=name) for name in (network, base))
        return difference(after, before)

    seeds = len({row["seed"] for row in rows})
    one, two = (change("one layer", "plain", layers) for layers in ("1 layer", "2 layers"))
    connected = change("connected", "fc plain", "fc residual")
    projections = {name: change("projections", name, "A") for name in "BC"}
    return {
        "one layer": Claim(
            claim="modules of one layer have no advantage over a plain network",
            source=f"{_HE_2015}, section 3.2",
            verdict=within([(one, -math.inf, ADVANTAGE_POINTS)], seeds),
            because=f"test error of plain minus residual {points(one)} with one layer, {points(two)} with two",
        ),
        "connected": Claim(
            claim="shortcuts serve fully connected layers too",
            source=f"{_HE_2015}, section 3.2",
            verdict=within([(connected, 0, math.inf)], seeds),
            because=f"training error of fully connected plain minus residual {points(connected)}",
        ),
        "projections": Claim(
            claim="projection shortcuts are not essential",
            source=f"{_HE_2015}, section 4.1 and table 3",
            verdict=within(((one, -ADVANTAGE_POINTS, ADVANTAGE_POINTS) for one in projections.values()), seeds),
            because="test error minus A's: "
            + ", ".join(f"{name} {points(each)}" for name, each in projections.items()),
        ),
    }


def _draw(axes: Any, study: Study) -> None:
    for panel, (claim, column) in zip(axes, _PANELS.items(), strict=True):
        names = dict.fromkeys(str(row["network"]) for row in study.rows if row["claim"] == claim)
        values = {name: by_seed(study.rows, column, claim=claim, network=name) for name in names}
        draw_strips(panel, values, f"{column.partition('_')[0]} error (%)")
        panel.set_title(claim, loc="left", fontsize=10)
    axes[1].set_title(f"connected: {study.trained}, n = {study.n:,}", loc="left", fontsize=10)
