"""As many modules as can go while no more than so many points are lost, after the recovery asked for.

Points are of top-1, without classes hundredths of cosine or of relative error to the whole network.

The loss is judged on train images that were neither chosen nor recovered on, paired with the whole network. It is
taken to rise with the number of modules: numbers are doubled until the loss is passed, then halved in between.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from edgeres.core.amounts import counted
from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import Record
from edgeres.core.errors import InputError
from edgeres.core.resuming import Kept
from edgeres.data import Dataset
from edgeres.data.split import OWN_GUESSES
from edgeres.prune.choose import Chooser
from edgeres.prune.config import FEWEST_TO_CHOOSE_ON, PruneConfig
from edgeres.prune.cut import WHOLE_NAME, Cut, cut_and_recovered, judged
from edgeres.prune.goals import count_goal
from edgeres.prune.sets import Searched

log = logging.getLogger(__name__)
_MOST_IMAGES = 5000
_FEWEST_IMAGES = 200  # one of them is half a point


class Try(Record):
    """One number of modules: what it cost, in points, with the half-width of the 95 % interval, of top-1 paired."""

    count: int
    dropped: tuple[str, ...]
    lost_points: float
    half_width_points: float
    recovery: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def within_loss(source: Checkpoint, config: PruneConfig, chooser: Chooser, path: Path) -> tuple[Searched, Cut]:
    """The largest number of modules that costs no more than `config.max_loss`, at `path`, and how it was found.

    Interrupted, the same call goes on from the numbers tried. Raises InputError if one module is too many.
    """
    assert config.max_loss is not None
    count_goal(1, chooser.candidates, source.spec)  # refuses a network that has nothing to drop
    judge = _Judge(source, chooser, config, path.parent)
    best = _largest(lambda count: judge.tried(count).lost_points, config.max_loss, len(chooser.candidates))
    one, images = judge.tried(best or 1), f"{judge.images:,} train images"
    cost = f"{one.lost_points:.2f} ± {one.half_width_points:.2f} {chooser.lost_are}"
    if best == 0:
        own = f"; {OWN_GUESSES}" if chooser.counts_own_guesses else ""
        raise InputError(
            f"--max-loss {config.max_loss:g}: dropping {one.dropped[0]} alone costs {cost} ({images}{own}); allow more,"
            " or recover longer"
        )
    found = chooser.choose(count_goal(best, chooser.candidates, source.spec))
    said = (
        f"dropping {counted(best, 'module')} costs {cost} on {images} neither chosen nor recovered on; --max-loss"
        f" {config.max_loss:g}"
    )
    tries = sorted(judge.kept.records.values(), key=lambda one: one.count)
    results: dict[str, Any] = {"tries": [one.model_dump(mode="json", exclude={"notes", "warnings"}) for one in tries]}
    if source.spec.task != "classes":
        results["lost_are"] = chooser.lost_are
    if one.recovery:
        results["recovery"] = one.recovery
    judge.path(best).replace(path)
    for left in (*path.parent.glob("try-*"), path.parent / WHOLE_NAME):
        left.unlink(missing_ok=True)
    judge.kept.clear()
    return found, Cut(Checkpoint(path), results, (said, *one.notes), (*judge.doubts_on(one), *one.warnings))


def _largest(lost: Callable[[int], float], most: float, modules: int) -> int:
    """The largest number up to `modules` that has not `lost` more than `most`, 0 if 1 has."""
    low, high = 0, 1
    while high <= modules and lost(high) <= most:
        low, high = high, 2 * high
    high = min(high, modules + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if lost(middle) <= most else (low, middle)
    return low


class _Judge:
    """Cuts, recovers and judges one number of modules after another; each lies in a file of its own."""

    def __init__(self, source: Checkpoint, chooser: Chooser, config: PruneConfig, out_dir: Path) -> None:
        self._source, self._chooser, self._config, self._out_dir = source, chooser, config, out_dir
        self.kept: Kept[Try] = Kept(out_dir / "tries.json", source.sha256, Try)
        self._dataset = _unused(chooser)
        self.images = len(self._dataset.train)
        (out_dir / WHOLE_NAME).unlink(missing_ok=True)
        judged(source, source, self._dataset, out_dir, "train")

    def path(self, count: int) -> Path:
        """Where the network without `count` modules lies."""
        return self._out_dir / f"try-{count:02}.safetensors"

    def doubts_on(self, one: Try) -> list[str]:
        """A warning where the interval of what was lost is wider than the limit, with how many images would do."""
        most, half = self._config.max_loss or 0.0, one.half_width_points
        if half <= most:
            return []
        lost = f"{one.lost_points:.2f} ± {half:.2f} {self._chooser.lost_are}"
        told = f"{lost} on {self.images:,} images are too few for --max-loss {most:g}"
        needed = math.ceil(self.images * (half / most) ** 2)
        left = len(self._chooser.dataset.train) - needed
        if left >= FEWEST_TO_CHOOSE_ON and needed <= _MOST_IMAGES:
            return [f"{told}: about {needed:,} are needed, which --images {left} leaves"]
        return [
            f"{told}: about {needed:,} are needed; name a larger data set, or allow {half:.1f} {self._chooser.lost_are}"
        ]

    def tried(self, count: int) -> Try:
        """Without the best `count` modules: what an interrupted call left of this try, or the try made now."""
        dropped = self._chooser.choose(count_goal(count, self._chooser.candidates, self._source.spec)).best.dropped
        known = self.kept.records.get(str(count))
        if known is not None and known.dropped == dropped and self.path(count).is_file():
            return known
        cut = cut_and_recovered(self._source, dropped, self._config, self.path(count))
        found = judged(cut.output, self._source, self._dataset, self._out_dir, "train")
        tried = Try(
            count=count,
            dropped=dropped,
            lost_points=found.lost_points,
            half_width_points=found.half_width_points,
            recovery=cut.results.get("recovery", {}),
            notes=cut.notes,
            warnings=cut.warnings,
        )
        log.info("%s: %.2f %s lost", counted(count, "module"), tried.lost_points, self._chooser.lost_are)
        return self.kept.keep(str(count), tried)


def leaving_some(config: PruneConfig, train_images: int) -> PruneConfig:
    """`config` with fewer --images if none were asked for and all would leave none to judge on."""
    most = train_images - _FEWEST_IMAGES
    used = config.images if config.recover else min(config.images, config.choose_on)
    if "images" in config.model_fields_set or used <= most or most < FEWEST_TO_CHOOSE_ON:
        return config
    log.info("--images %d, so that %d of the %d train images are left to judge on", most, _FEWEST_IMAGES, train_images)
    return config.model_copy(update={"images": most})


def _unused(chooser: Chooser) -> Dataset:
    """The data set, its train split cut down to images that nothing else looks at."""
    train, used = chooser.dataset.train, set(chooser.used.ids)
    left = train.subset([place for place, name in enumerate(train.ids) if name not in used])
    if len(left) >= _FEWEST_IMAGES:
        return replace(chooser.dataset, train=left.sample(min(_MOST_IMAGES, len(left)), 0))
    most = len(train) - _FEWEST_IMAGES
    advice = (
        f"say --images {most} or fewer ({len(used)} used)"
        if most >= FEWEST_TO_CHOOSE_ON
        else f"{len(train)} exist in all, too few: name a larger data set, or another goal such as --drop 2"
    )
    raise InputError(
        f"--max-loss is judged on train images not used otherwise: {len(left)} of {len(train)} are left,"
        f" {_FEWEST_IMAGES} are needed; {advice}"
    )
