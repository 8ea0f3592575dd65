"""What is left of a network fitted to what the whole one computes: least squares, module by module, no gradients.

Teacher (whole) and student (pruned) walk side by side over a few images. Behind the first gap every layer of every
module is refitted in turn, on what the student, repaired up to there, feeds it:

    all but the last   towards what the teacher's layer gives, its batch norm included
    the last           towards the teacher's h(x) + F(x) less the student's h(x), so that the stream catches up

The last module, if only dropped ones followed it, aims at what the last of those gave. `ridge` has the maths. A module
stays as it was if on held-out images its output is no nearer to the teacher's.

Memory does not grow with the number of images: the rows of a layer are positions drawn evenly from all of them, and
what waits between two modules is in a temporary file, which has a bound: as many images walk along as fit; where maps
are smaller, more. Processes take a part of the batches each and add up what they find, so that the weights are those of
one process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedRandom
from operator import lt
from tempfile import TemporaryFile, gettempdir
from typing import NamedTuple

import torch
from torch import Tensor

from edgeres.core.config import Record
from edgeres.core.errors import InputError
from edgeres.core.processes import agreed, count, own, summed
from edgeres.core.progress import bar
from edgeres.core.spec import ModelSpec
from edgeres.data import Split
from edgeres.models.network import Network, live_in
from edgeres.refit.folded import FoldedModule, Look, drawn, folded_module, run
from edgeres.refit.ridge import Refit, Rows

_ROWS = 40_000  # of a layer: more gain nothing
_MOST_BYTES = 256 << 20  # of a layer's rows, and of what waits between two modules
_BATCH = 50
_FIRST = 32  # images that show how many fit
_HELD_OUT = 5  # one image in so many, where none are given


class Solved(Record):
    """Modules by name: refitted, no better on held-out images, and those there was no time for."""

    refitted: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()
    out_of_time: tuple[str, ...] = ()


@dataclass(frozen=True)
class Material:
    """Images to learn from and images held out; without the latter a part of the former is taken for it.

    shared: leading modules that are the teacher's own, as the stem then is.
    """

    learn: Split
    held_out: Split | None
    spec: ModelSpec
    shared: Collection[str] = ()
    seed: int = 0

    def first(self, most: int) -> tuple[Split, Split]:
        """The first of both, `most` in all, in their proportion."""
        learn, held_out, n = self.learn, self.held_out, len(self.learn)
        if held_out is None:
            cut = max(1, n // _HELD_OUT)
            learn, held_out = learn.subset(range(cut, n)), learn.subset(range(cut))
        share = min(1.0, most / (len(learn) + len(held_out)))
        counts = [max(1, int(share * len(split))) for split in (learn, held_out)]
        return learn.subset(range(counts[0])), held_out.subset(range(counts[1]))

    def __len__(self) -> int:
        return len(self.learn) + len(self.held_out or ())


@torch.no_grad()
def solve(
    student: Network,
    teacher: Network,
    material: Material,
    *,
    until_s: float | None = None,
    late: Collection[str] = (),
) -> Solved:
    """Refits `student` in place, on the device where both are; begins no module that would end after `until_s`.

    `until_s` is on time.perf_counter; there was no time for those in `late` when this was done before. To be called in
    all processes, which get the same.
    """
    last_s = 0.0
    solved: dict[str, tuple[str, ...]] = {}
    goals = goals_of(student, teacher)
    with bar("recover: solving") as shown, TemporaryFile(prefix="edgeres-") as file:
        shown.expect(len(goals))
        walk = _Walk(student.eval(), teacher.eval(), material, file)
        for name, goal in goals.items():
            begun_s = time.perf_counter()
            is_late = until_s is not None and agreed(partial(lt, until_s, begun_s + last_s))
            if is_late or name in late:
                became = "out_of_time"
            else:
                became = "refitted" if walk.refit(name, goal) else "left_alone"
                last_s = time.perf_counter() - begun_s
            solved[became] = (*solved.get(became, ()), name)
            shown.advance(1)
    return Solved(**solved)


def goals_of(student: Network, teacher: Network) -> dict[str, str]:
    """Module to refit -> the teacher's module whose output it aims at, in order of execution."""
    kept = {name for name, unit in student.units() if not unit.dropped}
    whole = [name for name, unit in teacher.units() if not unit.dropped]
    first = next((place for place, name in enumerate(whole) if name not in kept), len(whole))
    goals = {name: name for name in whole[first:] if name in kept}
    last = max((place for place, name in enumerate(whole) if name in kept), default=len(whole))
    behind = whole[last + 1 :]
    if behind and not {*behind} & {name for name, _ in student.units()}:  # nothing is left of them: shapes are the same
        goals[whole[last]] = behind[-1]
    return goals


class Waiting:
    """What passes between two modules, of some images, in a file from `put` to `get`."""

    def __init__(self, file: BufferedRandom) -> None:
        self._file, self._start, self._room = file, 0, 0

    def put(self, x: Tensor) -> None:
        """In place of what was there."""
        self._device, self._is_one, dense = x[0].device, isinstance(x, Tensor), list[Tensor]()
        self._orders = [sorted(range(one.ndim), key=one.stride, reverse=True) for one in live_in(x)]
        for one, order in zip(live_in(x), self._orders, strict=True):
            dense.append(one.permute(order).contiguous().cpu())  # as it lies in memory
        self._like = [(one.shape, one.dtype) for one in dense]
        try:
            self._write(dense)
        except OSError as err:
            where = f"{gettempdir()}, where solve keeps what waits (TMPDIR names another folder)"
            raise InputError(f"cannot write to {where}: {err.strerror}") from err

    def _write(self, dense: Sequence[Tensor]) -> None:
        if (size := sum(one.nbytes for one in dense)) > self._room:
            self._start, self._room = self._file.seek(0, os.SEEK_END), size
        self._file.seek(self._start)
        for one in dense:
            self._file.write(one.numpy().data)
        self._file.flush()

    def get(self) -> Tensor:
        """What `put` got last."""
        self._file.seek(self._start)
        found = []
        for order, (shape, dtype) in zip(self._orders, self._like, strict=True):
            dense = torch.empty(shape, dtype=dtype)
            self._file.readinto(dense.numpy().data)
            found.append(dense.permute([order.index(axis) for axis in range(len(order))]).to(self._device))
        return found[0] if self._is_one else tuple(found)  # type: ignore[return-value]


class _Batch(NamedTuple):
    """What the next module gets in teacher and student, and what its output is to be of images held out.

    seed: of what is drawn.
    """

    seed: int
    is_held_out: bool
    theirs: Waiting
    mine: Waiting
    goal: Waiting


class _Target(NamedTuple):
    """What the teacher gives at some positions."""

    positions: Tensor
    rows: Tensor


class _Walk:
    """Where teacher and student are on their way: the next module is the teacher's number `_place`."""

    def __init__(self, student: Network, teacher: Network, material: Material, file: BufferedRandom) -> None:
        self._student, self._teacher, self._material, self._file = student, teacher, material, file
        self._mine, self._theirs = dict(student.units()), dict(teacher.units())
        self._names = list(self._theirs)
        self._device = next(student.parameters()).device
        self._place, self._n, self._batches = 0, 0, list[_Batch]()

    def refit(self, name: str, goal: str) -> bool:
        """Whether module `name`, aimed at the teacher's `goal`, gets nearer to it on held-out images."""
        self._go_to(self._names.index(name))
        unit = self._mine[name]
        module = folded_module(unit)
        if not 0 < len(module.layers) == len(folded_module(self._theirs[name]).layers):
            return False
        targets, before = self._targets(module, name, goal), self._error(module.end)
        fits: list[Refit] = []
        for number, layer in enumerate(module.layers):
            learn, judge = (self._rows(module, number, targets[number], held_out=part) for part in (False, True))
            fits.append(module.refitted(number, learn, judge, summed))
            layer.take(fits[-1])
        is_better = self._error(module.end) < before
        if is_better:
            for layer, fit in zip(module.layers, fits, strict=True):
                layer.write_back(fit, module.carrier if layer is module.layers[-1] else None)
        for batch in self._batches:
            batch.mine.put(unit(batch.mine.get()))
        self._place += 1
        return is_better

    def _rows(self, module: FoldedModule, number: int, targets: Sequence[_Target], *, held_out: bool) -> Rows:
        pairs = zip(self._batches, targets, strict=True)
        chosen = [(batch, target) for batch, target in pairs if batch.is_held_out is held_out]
        n = sum(target.rows.shape[1] for _, target in chosen)
        return module.rows(number, (Look(batch.mine.get(), *target) for batch, target in chosen), n)

    def _targets(self, module: FoldedModule, name: str, goal: str) -> list[list[_Target]]:
        """For each layer and batch what the teacher gives at the positions looked at; the teacher goes past `name`."""
        taught, aimed = folded_module(self._theirs[name]), folded_module(self._theirs[goal])
        between = self._names[self._names.index(name) + 1 : self._names.index(goal)]
        found: list[list[_Target]] = [[] for _ in module.layers]
        for batch in self._batches:
            x = batch.theirs.get()
            wanted, total = taught.goals(x)
            end = taught.after(total)
            batch.theirs.put(x := taught.parts.leave(x, end))
            if goal != name:
                (*_, last), beyond = aimed.goals(run([self._theirs[passed] for passed in between], x))
                if beyond.shape == total.shape:
                    wanted[-1], end = last, aimed.after(beyond)
            if batch.is_held_out:
                batch.goal.put(end)
            for layer, y, targets in zip(module.layers, wanted, found, strict=True):
                rows = min(_ROWS, _MOST_BYTES // (layer.columns * y.element_size()))
                positions = drawn(y, rows // self._n, batch.seed)
                targets.append(_Target(positions, layer.outputs(y, positions)))
        return found

    def _error(self, module: Callable[[Tensor], Tensor]) -> float:
        """How far from its goal is what `module` makes of the held-out images."""
        held_out = [batch for batch in self._batches if batch.is_held_out]
        squares = [(module(batch.mine.get()) - batch.goal.get()).double().square().sum() for batch in held_out]
        return float(summed(torch.stack(squares).sum()))

    def _go_to(self, place: int) -> None:
        """Brings all before the teacher's module number `place`, and more images if they fit by now."""
        for batch in self._batches:
            theirs, mine = self._advanced(batch.theirs.get(), batch.mine.get(), range(self._place, place))
            batch.theirs.put(theirs)
            batch.mine.put(mine)
        self._place = place
        if not self._batches:
            self._begin(_FIRST)
        most, first = len(self._material), self._batches[0]
        waiting = (*live_in(first.theirs.get()), *live_in(first.mine.get()))
        fit = min(most, _MOST_BYTES // sum(x[0].numel() * x.element_size() for x in waiting))
        if fit >= min(most, 2 * self._n) > self._n:
            self._begin(fit)

    def _begin(self, most: int) -> None:
        """The first `most` images, this process's part of them, from the start to where the walk is."""
        self._batches, self._n, seed = [], 0, self._material.seed
        self._file.truncate(0)
        stem_is_shared = bool(self._material.shared)
        for split, is_held_out in zip(self._material.first(most), (False, True), strict=True):
            every = range(-(-len(split) // _BATCH))
            numbers = own(every) if len(every) >= count() else every  # fewer than processes are for all
            ours = split.subset([place for place in range(len(split)) if place // _BATCH in numbers])
            for number, (images, _) in zip(numbers, ours.batches(self._material.spec, _BATCH), strict=True):
                x = torch.from_numpy(images).to(self._device).contiguous(memory_format=torch.channels_last)
                theirs = self._teacher.stem(x)
                mine = theirs if stem_is_shared else self._student.stem(x)
                theirs, mine = self._advanced(theirs, mine, range(self._place))
                waiting = [Waiting(self._file) for _ in range(3)]
                self._batches.append(batch := _Batch(seed + number, is_held_out, *waiting))
                batch.theirs.put(theirs)
                batch.mine.put(mine)
            self._n, seed = self._n + len(split), seed - (-len(split) // _BATCH)

    def _advanced(self, theirs: Tensor, mine: Tensor, places: Iterable[int]) -> tuple[Tensor, Tensor]:
        """Both after the modules at `places`, computed once where they are the same."""
        for name in (self._names[place] for place in places):
            is_same = mine is theirs and name in self._material.shared
            theirs = self._theirs[name](theirs)
            if is_same:
                mine = theirs
            elif name in self._mine:
                mine = self._mine[name](mine)
        return theirs, mine
