"""`edgeres study depth`: residual and plain networks of growing depth.

Source: He et al. 2015, arXiv 1512.03385, section 4.2 and figure 6. A deeper plain network could copy a shallower one
and pass the rest on, yet is found to have a higher TRAINING error: what fails is the optimisation, not generalisation.
So the verdict is about the training error; the test error stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from edgeres.core.artifacts import StudyFile
from edgeres.core.errors import InputError
from edgeres.core.stage import Recorder, StageResult
from edgeres.core.statistics import Interval
from edgeres.study.result import Study, Verdict, finish
from edgeres.study.seeds import Row, by_seed, difference, judged, shown
from edgeres.study.training import Job, TrainingConfig, spec_on, train_all

if TYPE_CHECKING:
    from edgeres.data import Dataset

Family = Literal["plain", "resnet"]
FAMILIES: tuple[Family, ...] = ("plain", "resnet")
TOLERANCE_POINTS = 1.0  # a rise of the training error that is no degradation: figure 6 cannot be read closer
_PUBLISHED_TEST_ERROR = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43}  # residual, table 6


class DepthConfig(TrainingConfig):
    """Which depths; the rest is the training."""

    paper: ClassVar[dict[str, Any]] = {**TrainingConfig.paper, "lr": 0.1, "depths": (20, 32, 44, 56, 110)}

    depths: tuple[int, ...] = Field((8, 20, 32), description="6n + 2, from shallow to deep; with --full 20 to 110")

    lr: float = Field(0.03, gt=0, description="learning rate after the warm-up; with --full 0.1")

    def check(self) -> None:
        """The networks exist, and there are two depths to compare."""
        from edgeres.models import spec_from_arch

        if len(set(self.depths)) < 2 or list(self.depths) != sorted(set(self.depths)):
            raise InputError(f"--depths {_listed(self.depths)}: give at least two, rising, such as 8,20,32")
        for depth in self.depths:
            spec_from_arch(f"resnet{depth}cifar", num_classes=2)


def depth(source: None, config: DepthConfig, out_dir: Path) -> StageResult[StudyFile]:
    """Writes study.json, .csv and .svg, and the networks, into `out_dir`; interrupted, the same call goes on."""
    from edgeres.data import dataset_from

    recorder = Recorder("depth", config, source)
    dataset = dataset_from(config.data, download=config.download)
    rows = _all_rows(dataset, config, out_dir)
    verdict, because, changes = degradation(rows)
    study = Study(
        name="depth",
        claim="deeper plain networks have a higher training error, deeper residual networks have not",
        source="He et al. 2015, arXiv 1512.03385, section 4.2",
        verdict=verdict,
        because=because,
        setting=config.setting,
        data=dataset.name,
        n=len(dataset.val),
        seeds=tuple(range(config.seeds)),
        networks=tuple(f"{family}{depth}" for depth in config.depths for family in FAMILIES),
        rows=rows,
        summary={
            "change_of_training_error_points": changes,
            "tolerance_points": TOLERANCE_POINTS,
            "published_test_error_percent": {f"resnet{depth}": error for depth, error in _PUBLISHED_TEST_ERROR.items()},
        },
    )
    return finish(study, recorder, out_dir, lambda axes: _draw(axes, study), panels=2, width_in=8.4)


def _all_rows(dataset: Dataset, config: DepthConfig, out_dir: Path) -> tuple[Row, ...]:
    cases = [(family, depth, seed) for depth in config.depths for family in FAMILIES for seed in range(config.seeds)]
    jobs = [
        Job(f"{family}{depth}-seed{seed}", spec_on(dataset, f"{family}{depth}cifar"), config.loop(seed))
        for family, depth, seed in cases
    ]
    networks = train_all(jobs, dataset, out_dir)
    return tuple(
        {"family": family, "depth": depth, "seed": seed, **one.figures}
        for (family, depth, seed), one in zip(cases, networks, strict=True)
    )


def degradation(rows: Sequence[Row]) -> tuple[Verdict, str, dict[str, dict[str, float]]]:
    """The verdict, its reason, and the change of the training error from the shallowest to the deepest network.

    Supported if the plain networks' change is above zero and the residual networks' below the tolerance, both with
    their whole interval; not supported if either interval lies wholly on the other side.
    """
    depths = sorted({int(str(row["depth"])) for row in rows})
    changes = {family: _change(rows, family, depths) for family in FAMILIES}
    plain, residual = changes["plain"], changes["resnet"]
    seeds = len(by_seed(rows, "seed", family="plain", depth=depths[0]))
    verdict = judged(
        holds=plain.low > 0 and residual.high < TOLERANCE_POINTS,
        fails=plain.high <= 0 or residual.low > TOLERANCE_POINTS,
        seeds=seeds,
    )
    because = (
        f"training error from depth {depths[0]} to {depths[-1]}: plain {shown(plain)}, residual {shown(residual)};"
        f" 95 %, seeds: {seeds}"
    )
    return verdict, because, {family: change.model_dump() for family, change in changes.items()}


def _change(rows: Sequence[Row], family: Family, depths: Sequence[int]) -> Interval:
    shallow, deep = (
        by_seed(rows, "train_error_percent", family=family, depth=depth) for depth in (depths[0], depths[-1])
    )
    return difference(deep, shallow)


def _draw(axes: Any, study: Study) -> None:
    for panel, (column, text) in zip(
        axes, (("train_error_percent", "training error"), ("test_error_percent", "test error")), strict=True
    ):
        for family in FAMILIES:
            _draw_family(panel, study, family, column)
        panel.set(xlabel="depth (layers)", ylabel=f"{text} (%)", ylim=(0, None), xticks=_depths(study))
    axes[0].legend()
    axes[0].set_title(f"{study.data}, {len(study.seeds)} seeds", loc="left", fontsize=10)
    axes[1].set_title(f"n = {study.n:,} images", loc="left", fontsize=10)


def _draw_family(panel: Any, study: Study, family: Family, column: str) -> None:
    depths = _depths(study)
    values = [by_seed(study.rows, column, family=family, depth=depth) for depth in depths]
    (line,) = panel.plot(
        depths,
        [sum(each) / len(each) for each in values],
        "o-" if family == "resnet" else "s--",
        label="residual" if family == "resnet" else "plain",
    )
    for depth, each in zip(depths, values, strict=True):
        panel.plot([depth] * len(each), each, ".", color=line.get_color(), alpha=0.5)


def _depths(study: Study) -> list[int]:
    return sorted({int(str(row["depth"])) for row in study.rows})


def _listed(depths: Sequence[int]) -> str:
    return ",".join(map(str, depths))
