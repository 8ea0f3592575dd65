"""From a scale table and a configuration to what is written: bounds, improved weights and biases, what stays float.

    bounds    one calibrator for all tensors, or `auto`
    effort    what is learned (`improving`), from the same calibration images
    min_sqnr  skips to leave float, measured on other train images than those
    max_loss  modules to leave out of INT8, measured on the same other images

The calibration images are found again by the table's data set, number and seed, and are the same to the id.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.names import name_from_file
from edgeres.core.records.scales import ScaleTable
from edgeres.data import Dataset, dataset_for
from edgeres.quantize.config import FEWEST_IMAGES
from edgeres.quantize.decision import Decision

if TYPE_CHECKING:  # they need torch
    from edgeres.quantize.kept_float import MixedChoice

Images = NDArray[np.float32]
FEWEST_HELD_OUT = 200
_HELD_OUT = 1000
_LEARNED = 2560


@dataclass(frozen=True)
class CalibrationImages:
    """The images `table` was made from, and others of train; nothing is read before it is asked for."""

    source: OnnxModel
    table: ScaleTable
    data: str | None = None

    @cached_property
    def same(self) -> Images:
        """float32 (N, C, H, W), normalised; raises InputError if they are not the very same images."""
        return self._pixels(self._split)

    @property
    def others(self) -> Images:
        """The same of train images that were not calibrated on; raises InputError if there are too few."""
        if len(self._others) < FEWEST_HELD_OUT:
            raise InputError(
                f"{self._dataset.name} has {len(self._others)} train images beside those calibrated on; a loss is"
                f" measured on {FEWEST_HELD_OUT} or more: calibrate with fewer --images"
            )
        return self._pixels(self._others)

    def to_learn(self, most: int) -> Images:
        """The calibration images, then train images that are neither among those nor among the others, `most` in all.

        There are no more than the data set has, and at least the fewest to calibrate with.
        """
        more = min(most, _LEARNED) - self.table.n
        rest = self._without({*self._split.ids, *self._others.ids}) if more > 0 else None
        if rest is None or not len(rest):
            return self.same[: max(most, FEWEST_IMAGES)]
        return np.concatenate([self.same, self._pixels(rest.sample(min(more, len(rest)), self.table.seed))])

    @cached_property
    def _others(self) -> Any:
        rest = self._without(set(self._split.ids))
        return rest.sample(min(_HELD_OUT, len(rest)), self.table.seed) if len(rest) else rest

    def _without(self, used: set[str]) -> Any:
        train = self._dataset.train
        return train.subset([index for index, name in enumerate(train.ids) if name not in used])

    @property
    def _name(self) -> str:
        return self.data or name_from_file(self.table.dataset, "the scale table")

    @cached_property
    def _dataset(self) -> Dataset:
        return dataset_for(self.source.spec, self._name)

    @cached_property
    def _split(self) -> Any:
        name, train = self._name, self._dataset.train
        split = train.sample(min(self.table.n, len(train)), self.table.seed)
        if split.ids_sha256 != self.table.ids_sha256:
            raise InputError(
                f"{name} does not hold the {self.table.n} images the scale table was made from; calibrate again, name"
                " their data set: --data, or do without: --effort quick"
            )
        return split

    def _pixels(self, split: Any) -> Images:
        return np.concatenate([x for x, _ in split.batches(self.source.spec, 64)])


@dataclass
class Chosen:
    """What was decided, and what there is to say about it."""

    decision: Decision
    keep: tuple[str, ...] = ()
    results: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_scaled(self) -> bool:
        """Whether tensors of the file hold other multiples of the channels than the float network's."""
        return "channels" in self.results.get("improve", ())

    def leave(self, found: MixedChoice, name: str, rows: str) -> None:
        """Leaves the units of `found` float; the report has them as `name`, and what was known of each as `rows`."""
        self.keep = (*self.keep, *found.keep)
        self.results |= {name: list(found.keep), rows: [asdict(row) for row in found.rows]}
        self.notes.append(found.reason)


def bounds_by(table: ScaleTable, method: str, tensors: tuple[str, ...]) -> dict[str, float]:
    """Tensor -> amax by `method`, where the table has one; tensors that were always zero are left at 0."""
    found = {name: table.tensors[name].amax.get(method) for name in tensors if name in table.tensors}
    return {name: bound for name, bound in found.items() if bound is not None}
