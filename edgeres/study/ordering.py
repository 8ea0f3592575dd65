"""`edgeres study ordering`: the five orderings of batch norm, activation and addition side by side.

Source: He et al. 2016, arXiv 1603.05027, section 4 and table 2 (ResNet-110 on CIFAR-10, medians of five runs).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeres.core.artifacts import StudyFile
from edgeres.core.metrics import Interval
from edgeres.core.stage import StageResult
from edgeres.models.family import ORDERINGS, Ordering
from edgeres.study.config import OrderingConfig
from edgeres.study.experiment import Experiment, Kind, Trained, trained
from edgeres.study.result import MIN_SEEDS, Claim, Picture, Row, Study, by_seed, difference, judged, points

PUBLISHED_ERROR_PERCENT: dict[str, float] = {
    "original": 6.61,
    "bn-after-add": 8.17,
    "relu-before-add": 7.84,
    "relu-only-preact": 6.71,
    "full-preact": 6.37,
}
# the sign of each published difference from the original; relu-only-preact's 0.10 is within its runs' spread
_SIGNS: dict[Ordering, int] = {"bn-after-add": 1, "relu-before-add": 1, "full-preact": -1}


def ordering(source: None, config: OrderingConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, .csv and .svg, and the networks, into `out_dir`; interrupted, the same call goes on."""
    experiment = Experiment("ordering", config, [_kind(order, config.depth) for order in ORDERINGS], out_dir)
    rows = tuple(
        {**row, "published_resnet110_cifar10_error_percent": PUBLISHED_ERROR_PERCENT[str(row["ordering"])]}
        for row in experiment.rows(Trained, trained)
    )
    claim, differences = compared(rows)
    summary = {"test_error_minus_original_points": differences, "published_error_percent": PUBLISHED_ERROR_PERCENT}
    return experiment.finish(claim, rows, summary, Picture(_draw, panels=2, width_in=8.4))


def _kind(order: Ordering, depth: int) -> Kind:
    options = {} if order == "original" else {"ordering": order}
    return Kind(order, f"resnet{depth} {order}", f"resnet{depth}cifar", {"ordering": order, "depth": depth}, options)


def compared(rows: Sequence[Row]) -> tuple[Claim, dict[Ordering, Interval]]:
    """The claim, and each ordering's test error minus the original's, paired by seed.

    Supported if all three differences have the published sign with their whole interval, not supported if one has the
    other sign with its whole interval.
    """
    original = by_seed(rows, "test_error_percent", ordering="original")
    differences: dict[Ordering, Interval] = {
        order: difference(by_seed(rows, "test_error_percent", ordering=order), original)
        for order in ORDERINGS
        if order != "original"
    }
    found = {order: int(one.low > 0) - int(one.high < 0) for order, one in differences.items()}  # 0: it holds zero
    signs = [wanted * found[order] for order, wanted in _SIGNS.items()]
    parts = ", ".join(f"{order} {points(change)}" for order, change in differences.items())
    claim = Claim(
        claim=(
            "full pre-activation has a lower test error than the original ordering,"
            " batch norm after the addition and ReLU before it have higher ones"
        ),
        source="He et al. 2016, arXiv 1603.05027, table 2",
        verdict=judged(enough=len(original) >= MIN_SEEDS, holds=min(signs) == 1, fails=min(signs) == -1),
        because=f"test error minus the original ordering's, 95 %, {len(original)} of each: {parts}",
    )
    return claim, differences


def _draw(axes: Any, study: Study) -> None:
    places = range(len(ORDERINGS))
    for place, order in zip(places, ORDERINGS, strict=True):
        values = by_seed(study.rows, "test_error_percent", ordering=order)
        axes[0].plot(values, [place] * len(values), "o", color="C0", alpha=0.5)
        axes[0].plot(sum(values) / len(values), place, "|", color="C0", markersize=16, markeredgewidth=2)
        axes[1].plot(PUBLISHED_ERROR_PERCENT[order], place, "D", color="C1")
    for panel in axes:
        panel.set(yticks=list(places), ylim=(len(ORDERINGS) - 0.5, -0.5), xlim=(0, None), xlabel="test error (%)")
    axes[0].set_yticklabels(ORDERINGS)
    axes[1].set_yticklabels([])
    depth = study.rows[0]["depth"]
    title = f"this run: ResNet-{depth}, {study.data}\n{len(study.seeds)} seeds and their mean, n = {study.n:,}"
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[1].set_title("published: ResNet-110, CIFAR-10\nmedians of 5 runs, n = 10,000", loc="left", fontsize=10)
