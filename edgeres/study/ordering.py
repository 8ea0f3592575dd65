"""`edgeres study ordering`: the five orderings of batch norm, activation and addition side by side.

Source: He et al. 2016, arXiv 1603.05027, section 4 and table 2 (ResNet-110 on CIFAR-10, medians of five runs).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.core.artifacts import StudyFile
from edgeres.core.metrics import Interval
from edgeres.core.stage import StageResult
from edgeres.models.family import ORDERINGS, Ordering
from edgeres.study.config import OrderingConfig
from edgeres.study.experiment import Experiment, Kind, Trained, trained
from edgeres.study.result import Claim, Picture, Row, Study, by_seed, difference, draw_strips, points, within

PUBLISHED_ERROR_PERCENT: dict[str, float] = {
    "original": 6.61,
    "bn-after-add": 8.17,
    "relu-before-add": 7.84,
    "relu-only-preact": 6.71,
    "full-preact": 6.37,
}
_HIGHER, _LOWER = (0.0, math.inf), (-math.inf, 0.0)
# where each published difference from the original lies; relu-only-preact's 0.10 is within its runs' spread
_SIGNS: dict[Ordering, tuple[float, float]] = {
    "bn-after-add": _HIGHER,
    "relu-before-add": _HIGHER,
    "full-preact": _LOWER,
}


def ordering(source: None, config: OrderingConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, .csv and .svg, and the networks, into `out_dir`; interrupted, the same call goes on."""
    experiment = Experiment("ordering", config, [_kind(order, config.depth) for order in ORDERINGS], out_dir)
    rows = experiment.rows(Trained, trained)
    claim, differences = compared(rows)
    summary = {"test_error_minus_original_points": differences, "published_error_percent": PUBLISHED_ERROR_PERCENT}
    return experiment.finish(claim, rows, summary, Picture(_draw, panels=2, width_in=8.4))


def _kind(order: Ordering, depth: int) -> Kind:
    options = {} if order == "original" else {"ordering": order}
    return Kind(order, f"resnet{depth} {order}", f"resnet{depth}cifar", {"ordering": order, "depth": depth}, options)


def compared(rows: Sequence[Row]) -> tuple[Claim, dict[Ordering, Interval]]:
    """The claim, and each ordering's test error minus the original's, paired by seed: three have a published sign."""
    original = by_seed(rows, "test_error_percent", ordering="original")
    differences: dict[Ordering, Interval] = {
        order: difference(by_seed(rows, "test_error_percent", ordering=order), original)
        for order in ORDERINGS
        if order != "original"
    }
    parts = ", ".join(f"{order} {points(change)}" for order, change in differences.items())
    claim = Claim(
        claim=(
            "full pre-activation has a lower test error than the original ordering,"
            " batch norm after the addition and ReLU before it have higher ones"
        ),
        source="He et al. 2016, arXiv 1603.05027, table 2",
        verdict=within(((differences[order], *bounds) for order, bounds in _SIGNS.items()), len(original)),
        because=f"test error minus the original ordering's, 95 %, {len(original)} of each: {parts}",
    )
    return claim, differences


def _draw(axes: Any, study: Study) -> None:
    ours: dict[str, list[float]] = {
        order: by_seed(study.rows, "test_error_percent", ordering=order) for order in ORDERINGS
    }
    published: dict[str, list[float]] = {order: [PUBLISHED_ERROR_PERCENT[order]] for order in ORDERINGS}
    for panel, values in zip(axes, (ours, published), strict=True):
        draw_strips(panel, values, "test error (%)")
    axes[1].set_yticklabels([])
    depth = study.rows[0]["depth"]
    title = f"this run: ResNet-{depth}, {study.trained}\nand their mean, n = {study.n:,}"
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[1].set_title("published: ResNet-110, CIFAR-10\nmedians of 5 runs, n = 10,000", loc="left", fontsize=10)
