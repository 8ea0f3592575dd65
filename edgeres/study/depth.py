"""`edgeres study depth`: residual and plain networks of growing depth.

Source: He et al. 2015, arXiv 1512.03385, section 4.2 and figure 6. A deeper plain network could copy a shallower one
and pass the rest on, yet is found to have a higher TRAINING error: what fails is the optimisation, not generalisation.
So the verdict is about the training error; the test error stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.core.artifacts import StudyFile
from edgeres.core.metrics import Interval
from edgeres.core.stage import StageResult
from edgeres.study.config import DepthConfig
from edgeres.study.experiment import Experiment, Kind, Trained, trained
from edgeres.study.result import Claim, Picture, Row, Study, by_seed, difference, integers, points, within

FAMILIES = ("plain", "resnet")
TOLERANCE_POINTS = 1.0  # a rise of the training error that is no degradation: figure 6 cannot be read closer
_PUBLISHED_TEST_ERROR = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43}  # residual, table 6
_HE_2015 = "He et al. 2015, arXiv 1512.03385, section 4.2"


def depth(source: None, config: DepthConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, .csv and .svg, and the networks, into `out_dir`; interrupted, the same call goes on."""
    kinds = [
        Kind(f"{f}{depth}", f"{f}{depth}", f"{f}{depth}cifar", {"family": f, "depth": depth})
        for depth in config.depths
        for f in FAMILIES
    ]
    experiment = Experiment("depth", config, kinds, out_dir)
    rows = experiment.rows(Trained, trained)
    claim, changes = degradation(rows)
    summary = {
        "change_of_training_error_points": changes,
        "tolerance_points": TOLERANCE_POINTS,
        "published_test_error_percent": {f"resnet{depth}": error for depth, error in _PUBLISHED_TEST_ERROR.items()},
    }
    return experiment.finish(claim, rows, summary, Picture(_draw, panels=2, width_in=8.4))


def degradation(rows: Sequence[Row]) -> tuple[Claim, dict[str, Interval]]:
    """The claim, and each family's change of the training error from the shallowest to the deepest network.

    The plain networks' has to be above zero, the residual networks' below the tolerance.
    """
    depths = integers(rows, "depth")
    shallow, deep = (
        {family: by_seed(rows, "train_error_percent", family=family, depth=depth) for family in FAMILIES}
        for depth in (depths[0], depths[-1])
    )
    changes = {family: difference(deep[family], shallow[family]) for family in FAMILIES}
    plain, residual, seeds = changes["plain"], changes["resnet"], len(shallow["plain"])
    claim = Claim(
        claim="deeper plain networks have a higher training error, deeper residual networks have not",
        source=_HE_2015,
        verdict=within([(plain, 0, math.inf), (residual, -math.inf, TOLERANCE_POINTS)], seeds),
        because=(
            f"training error from depth {depths[0]} to {depths[-1]}: plain {points(plain)}, residual"
            f" {points(residual)}; 95 %, seeds: {seeds}"
        ),
    )
    return claim, changes


def _draw(axes: Any, study: Study) -> None:
    depths = integers(study.rows, "depth")
    for panel, column, text in zip(
        axes, ("train_error_percent", "test_error_percent"), ("training", "test"), strict=True
    ):
        for family, name, style in (("plain", "plain", "s--"), ("resnet", "residual", "o-")):
            values = [by_seed(study.rows, column, family=family, depth=depth) for depth in depths]
            (line,) = panel.plot(depths, [sum(each) / len(each) for each in values], style, label=name)
            for depth, each in zip(depths, values, strict=True):
                panel.plot([depth] * len(each), each, ".", color=line.get_color(), alpha=0.5)
        panel.set(xlabel="depth (layers)", ylabel=f"{text} error (%)", ylim=(0, None), xticks=depths)
    axes[0].legend()
    axes[0].set_title(f"{study.trained}", loc="left", fontsize=10)
    axes[1].set_title(f"n = {study.n:,} images", loc="left", fontsize=10)
