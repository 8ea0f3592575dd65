"""`edgeres study ordering`: the five orderings of batch norm, activation and addition side by side.

Source: He et al. 2016, arXiv 1603.05027, section 4 and table 2 (ResNet-110 on CIFAR-10, medians of five runs).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from edgeres.core.artifacts import StudyFile
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import Interval
from edgeres.models.family import ORDERINGS, Ordering
from edgeres.study.result import Study, Verdict, finish
from edgeres.study.seeds import Row, by_seed, difference, judged, shown
from edgeres.study.training import Job, TrainingConfig, spec_on, train_all

if TYPE_CHECKING:
    from edgeres.data import Dataset

PUBLISHED_ERROR_PERCENT: dict[Ordering, float] = {
    "original": 6.61,
    "bn-after-add": 8.17,
    "relu-before-add": 7.84,
    "relu-only-preact": 6.71,
    "full-preact": 6.37,
}
# the sign of each published difference from the original; relu-only-preact's 0.10 is within its runs' spread
_SIGNS: dict[Ordering, int] = {"bn-after-add": 1, "relu-before-add": 1, "full-preact": -1}


class OrderingConfig(TrainingConfig):
    """Which network; the rest is the training."""

    paper: ClassVar[dict[str, Any]] = {**TrainingConfig.paper, "depth": 110, "seeds": 5}

    depth: int = Field(20, ge=8, description="of every network, 6n + 2; with --full 110")

    def check(self) -> None:
        """The network exists."""
        from edgeres.models import spec_from_arch

        spec_from_arch(f"resnet{self.depth}cifar", num_classes=2)


def ordering(source: None, config: OrderingConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, .csv and .svg, and the networks, into `out_dir`; interrupted, the same call goes on."""
    from edgeres.data import dataset_from

    recorder = Recorder("ordering", config, source)
    dataset = dataset_from(config.data, download=config.download)
    rows = _all_rows(dataset, config, out_dir)
    verdict, because, differences = compared(rows)
    study = Study(
        name="ordering",
        claim=(
            "full pre-activation has a lower test error than the original ordering,"
            " batch norm after the addition and ReLU before it have higher ones"
        ),
        source="He et al. 2016, arXiv 1603.05027, table 2",
        verdict=verdict,
        because=because,
        setting=config.setting,
        data=dataset.name,
        n=len(dataset.val),
        seeds=tuple(range(config.seeds)),
        networks=tuple(f"resnet{config.depth} {order}" for order in ORDERINGS),
        rows=rows,
        summary={
            "test_error_minus_original_points": differences,
            "published_error_percent": dict(PUBLISHED_ERROR_PERCENT),
        },
    )
    return finish(study, recorder, out_dir, lambda axes: _draw(axes, study), panels=2, width_in=8.4)


def _all_rows(dataset: Dataset, config: OrderingConfig, out_dir: Path) -> tuple[Row, ...]:
    cases = [(order, seed) for order in ORDERINGS for seed in range(config.seeds)]
    arch = f"resnet{config.depth}cifar"
    jobs = [
        Job(f"{order}-seed{seed}", spec_on(dataset, arch, **_option(order)), config.loop(seed)) for order, seed in cases
    ]
    networks = train_all(jobs, dataset, out_dir)
    return tuple(
        {
            "ordering": order,
            "depth": config.depth,
            "seed": seed,
            **one.figures,
            "published_resnet110_cifar10_error_percent": PUBLISHED_ERROR_PERCENT[order],
        }
        for (order, seed), one in zip(cases, networks, strict=True)
    )


def compared(rows: Sequence[Row]) -> tuple[Verdict, str, dict[str, dict[str, float]]]:
    """The verdict, its reason, and each ordering's test error minus the original's, paired by seed.

    Supported if all three differences have the published sign with their whole interval, not supported if one has the
    other sign with its whole interval.
    """
    original = by_seed(rows, "test_error_percent", ordering="original")
    differences: dict[Ordering, Interval] = {
        order: difference(by_seed(rows, "test_error_percent", ordering=order), original)
        for order in ORDERINGS
        if order != "original"
    }
    signs = {order: _sign(differences[order]) for order in _SIGNS}
    verdict = judged(
        holds=all(signs[order] == wanted for order, wanted in _SIGNS.items()),
        fails=any(signs[order] == -wanted for order, wanted in _SIGNS.items()),
        seeds=len(original),
    )
    parts = ", ".join(f"{order} {shown(change)}" for order, change in differences.items())
    because = f"test error minus the original ordering's, 95 %, {len(original)} of each: {parts}"
    return verdict, because, {order: change.model_dump() for order, change in differences.items()}


def _sign(interval: Interval) -> int:
    """1 or -1 where the whole interval lies, 0 if it holds zero."""
    return int(interval.low > 0) - int(interval.high < 0)


def _option(order: Ordering) -> dict[str, str]:
    return {} if order == "original" else {"ordering": order}


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
