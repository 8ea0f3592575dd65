"""As many modules as can go while no more than so many points of accuracy are lost, after the recovery asked for.

The loss is judged on train images that were neither chosen nor recovered on, paired with the whole network. It is
taken to rise with the number of modules: numbers are doubled until the loss is passed, then halved in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import Record
from edgeres.core.errors import InputError
from edgeres.core.kept import Kept
from edgeres.core.metrics import paired_difference
from edgeres.prune.choose import Chooser
from edgeres.prune.config import FEWEST_TO_CHOOSE_ON, PruneConfig
from edgeres.prune.cut import Cut, cut_and_recovered
from edgeres.prune.goals import count_goal
from edgeres.prune.sets import Searched

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeres.data import Dataset

log = logging.getLogger(__name__)
_MOST_IMAGES = 5000
_FEWEST_IMAGES = 200  # one of them is half a point


class Try(Record):
    """One number of modules: what it cost, in points, with the half-width of the paired 95 % interval."""

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
    best = _largest(judge.lost, config.max_loss, len(chooser.candidates))
    tries, images = [judge.tries[count] for count in sorted(judge.tries)], f"{judge.images:,} train images"
    if best == 0:
        raise InputError(
            f"--max-loss {config.max_loss:g}: dropping {tries[0].dropped[0]} alone costs {tries[0].lost_points:.2f}"
            f" points ({images}); allow more, or recover longer"
        )
    found, one = chooser.choose(count_goal(best, chooser.candidates, source.spec)), judge.tries[best]
    said = (
        f"{best} modules cost {one.lost_points:.2f} ± {one.half_width_points:.2f} points on {images} neither chosen nor"
        f" recovered on; --max-loss {config.max_loss:g}"
    )
    results: dict[str, Any] = {"tries": [one.model_dump(mode="json", exclude={"notes", "warnings"}) for one in tries]}
    if one.recovery:
        results["recovery"] = one.recovery
    judge.path(best).replace(path)
    for left in path.parent.glob("try-*"):
        left.unlink()
    judge.kept.clear()
    return found, Cut(Checkpoint(path), results, (said, *one.notes), one.warnings)


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
        self.tries: dict[int, Try] = {}
        self._dataset = _unused(chooser)
        self.images = len(self._dataset.train)
        self._whole = self._right(source)

    def path(self, count: int) -> Path:
        """Where the network without `count` modules lies."""
        return self._out_dir / f"try-{count:02}.safetensors"

    def lost(self, count: int) -> float:
        """Points lost without the best `count` modules."""
        if count not in self.tries:
            dropped = self._chooser.choose(count_goal(count, self._chooser.candidates, self._source.spec)).best.dropped
            self.tries[count] = self._tried(count, dropped)
            log.info("%d modules: %.2f points lost", count, self.tries[count].lost_points)
        return self.tries[count].lost_points

    def _tried(self, count: int, dropped: tuple[str, ...]) -> Try:
        """What an interrupted call left of this try, or the try made now."""
        known = self.kept.records.get(str(count))
        if known is not None and known.dropped == dropped and self.path(count).is_file():
            return known
        cut = cut_and_recovered(self._source, dropped, self._config, self.path(count))
        change, half = paired_difference(list(self._whole), list(self._right(cut.output)))
        tried = Try(
            count=count,
            dropped=dropped,
            lost_points=-100 * change,
            half_width_points=100 * half,
            recovery=cut.results.get("recovery", {}),
            notes=cut.notes,
            warnings=cut.warnings,
        )
        return self.kept.keep(str(count), tried)

    def _right(self, checkpoint: Checkpoint) -> NDArray[np.bool_]:
        import torch

        from edgeres.models.fold import load_folded

        network, split = load_folded(checkpoint), self._dataset.train
        with torch.inference_mode():
            right = [
                network(torch.from_numpy(images)).argmax(1).numpy() == labels
                for images, labels in split.batches(checkpoint.spec, self._config.batch)
            ]
        return np.concatenate(right)


def leaving_some(config: PruneConfig, train_images: int) -> PruneConfig:
    """`config` with fewer --images if none were asked for and all would leave none to judge on."""
    most = train_images - _FEWEST_IMAGES
    if "images" in config.model_fields_set or config.images <= most or most < FEWEST_TO_CHOOSE_ON:
        return config
    log.info("--images %d, so that %d of the %d train images are left to judge on", most, _FEWEST_IMAGES, train_images)
    return config.model_copy(update={"images": most})


def _unused(chooser: Chooser) -> Dataset:
    """The data set, its train split cut down to images that nothing else looks at."""
    train, used = chooser.dataset.train, set(chooser.sample.ids)
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
