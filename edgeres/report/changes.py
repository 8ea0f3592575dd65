"""What changed between two runs: options, machine and versions, and the results of every stage.

Stages are matched by name and turn, the second `export` of A with the second `export` of B, with their like first: of
networks of one precision, both whole or both cut; what a board measured, by board and by what it measured. Before all
that stand sessions whose figures are compared: options are those of what the results show.
Accuracies are compared image by image where both have predictions of the same images, those of a board with those of
the same board. Latencies of two runs were never interleaved: they are compared only on one machine in one mode, and
even then what drifted between the sessions is in no interval; from different machines or modes only with `across`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from edgeres.core.config import Config, Record
from edgeres.core.lineage import advised
from edgeres.core.metrics import Interval, Latency
from edgeres.core.statistics import percentile_interval
from edgeres.evaluate.agreement import Pair
from edgeres.report.boards import boards_that_measured, machines_in, networks_on
from edgeres.report.findings import with_verdicts
from edgeres.report.folder import BOARD_STAGE, FinishedStage, RunFolder, run_folder_from, versions_in
from edgeres.report.networks import ENGINE_STAGE, StageNetwork, board_in, networks_in, pair_of
from edgeres.report.wording import count, doubt_in, size

T = TypeVar("T")
_MODE = ("machine", "runtime", "batch", "threads")


class Difference(Record):
    """One thing that is not the same; None where a run has no such thing."""

    absent: ClassVar[str] = "none"

    what: str
    a: Any
    b: Any

    def __str__(self) -> str:
        """`03-prune drop: 2 -> 4`."""
        return f"{self.what}: {_shown(self.a, self.absent)} -> {_shown(self.b, self.absent)}"


class OptionDifference(Difference):
    """Of an option, whose value may be `none` too."""

    absent: ClassVar[str] = "not given"


class StageChange(Record):
    """Results of one pair of stages, each a line; `pair` and `latency_ratio` (B over A) where they are known."""

    a: str
    b: str
    same_file: bool
    lines: tuple[str, ...]
    pair: Pair | None = None
    latency_ratio: Interval | None = None


class RunChanges(Record):
    """Run B against run A."""

    schema_version: int = 1
    a: str
    b: str
    recipe: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    results: tuple[StageChange, ...]
    problems: tuple[str, ...] = ()


def changes_between(a: Path, b: Path, *, across: bool = False) -> RunChanges:
    """What changed from the run in the folder `a` to the one in `b`; raises InputError if one cannot be read."""
    first, second = run_folder_from(a), run_folder_from(b)
    here = tuple(with_verdicts(networks_in(folder), folder) for folder in (first, second))
    networks, names = networks_matched(*here), dict.fromkeys([*boards_that_measured(a), *boards_that_measured(b)])
    seen = {
        name: networks_matched(*(networks_on(name, *each) for each in zip(here, (first, second), strict=True)))
        for name in sorted(names)
    }
    shown = _shown_together([networks, *seen.values()], first, second)
    return RunChanges(
        a=a.name,
        b=b.name,
        recipe=tuple(_recipe_differences(matched(first.stages, second.stages, shown), a.name, b.name)),
        environment=tuple(_environment_differences(first, second)),
        results=tuple(
            stage_change(*pair, {name: found[place] for name, found in seen.items()}, across=across)
            for place, pair in enumerate(networks)
            if pair[0] is not None and pair[1] is not None
        ),
        problems=tuple(f"{folder.path.name}: {problem}" for folder in (first, second) for problem in folder.problems),
    )


def _shown_together(
    networks: Iterable[Sequence[tuple[StageNetwork | None, StageNetwork | None]]], a: RunFolder, b: RunFolder
) -> list[tuple[FinishedStage, FinishedStage]]:
    """Stages of both runs that made, judged or timed what is held against each other of the pairs of `networks`."""
    whose, other = (
        {key: one for one in folder.stages for key in (one.path, *map(_timing, one.report.latency))}
        for folder in (a, b)
    )
    both = [(x, y) for pairs in networks for x, y in pairs if x and y]
    keys = [(of(x), of(y)) for x, y in both for of in (attrgetter("folder"), lambda one: _timing(one.latency))]
    pairs = ((whose[x], other[y]) for x, y in keys if x in whose and y in other)
    return list({(x.path, y.path): (x, y) for x, y in pairs if x.report.stage == y.report.stage}.values())


def _timing(latency: Latency | None) -> tuple[str, str] | None:
    return (latency.session, latency.artifact) if latency else None


def networks_matched(a: Sequence[StageNetwork], b: Sequence[StageNetwork]) -> list[tuple[Any, Any]]:
    """Networks of both runs: those alike by turn, what is left by stage and turn; None and order as in `matched`."""
    return _mated(a, b, (lambda one: (one.stage, one.precision, bool(one.dropped)), attrgetter("stage")))


def matched(
    a: Sequence[FinishedStage], b: Sequence[FinishedStage], shown: Sequence[tuple[FinishedStage, FinishedStage]] = ()
) -> list[tuple[Any, Any]]:
    """Stages of both runs, those `shown` together first, then of networks alike; in A's order, then B's own.

    None stands for what is missing. Of a stage `board` the kind is the board and the place of what it measured.
    """
    kinds = {id(one): kind for side in (a, b) for one, kind in _kinds_in(side)}
    left = [[one for one in side if all(one is not pair[at] for pair in shown)] for at, side in enumerate((a, b))]
    mated = _mated(left[0], left[1], (lambda one: kinds[id(one)], lambda one: kinds[id(one)][0]))
    place = {id(one): place for place, one in enumerate(a)}
    return sorted([*shown, *mated], key=lambda pair: place.get(id(pair[0]), len(place)))


def _mated(a: Sequence[T], b: Sequence[T], kinds: Iterable[Callable[[T], object]]) -> list[tuple[T | None, T | None]]:
    """Of both runs those of the first kind by turn, what is left by the next; in A's order, then B's own."""
    mates: dict[int, T] = {}
    for kind in kinds:
        taken = [id(mate) for mate in mates.values()]
        left = _by_turn((one for one in a if id(one) not in mates), kind)
        right = _by_turn((one for one in b if id(one) not in taken), kind)
        mates |= {id(one): right[key] for key, one in left.items() if key in right}
    taken = [id(mate) for mate in mates.values()]
    return [*((one, mates.get(id(one))) for one in a), *((None, one) for one in b if id(one) not in taken)]


def stage_change(
    a: StageNetwork, b: StageNetwork, on: Mapping[str, tuple[StageNetwork, StageNetwork]], *, across: bool = False
) -> StageChange:
    """The results of `b` against those of `a`; `on` has the two as each board has measured them."""
    pair = pair_of(a, b)
    boards = [line for board, both in on.items() for line in _board_lines(board, *both, across=across)]
    ratio, latency_line = latency_change(a.latency, b.latency, across=across)
    lost = [f"in {name} {why}" for name, one in (("A", a), ("B", b)) if (why := one.lost)]
    same = a.sha256 == b.sha256 and not lost
    sizes = f"not compared, {' and '.join(lost)}" if lost else f"{size(a.size_bytes)} -> {size(b.size_bytes)}"
    lines = [f"file: {'identical' if same else sizes}"]
    if a.macs != b.macs and a.macs and b.macs:
        lines.append(f"MACs: {count(a.macs)} -> {count(b.macs)} ({b.macs / a.macs:.3f}x)")
    if a.precision != b.precision:
        lines.append(f"precision: {a.precision} -> {b.precision}")
    if a.dropped != b.dropped:
        lines.append(f"dropped: {', '.join(a.dropped) or 'none'} -> {', '.join(b.dropped) or 'none'}")
    is_judged_there = any(": latency: " not in line for line in boards)
    if a.is_judged or b.is_judged or not is_judged_there:
        lines.append(accuracy_line(a, b, pair))
    if latency_line:
        lines.append(latency_line)
    lines += boards
    found = pair if isinstance(pair, Pair) else None
    return StageChange(a=a.name, b=b.name, same_file=same, lines=tuple(lines), pair=found, latency_ratio=ratio)


def _board_lines(board: str, a: StageNetwork, b: StageNetwork, *, across: bool) -> Iterator[str]:
    """What the board measured of the two, nothing if it measured neither."""

    def there(one: StageNetwork) -> StageNetwork:
        figures = {name: getattr(one, name) for name in ("accuracy", "closeness", "latency")}
        own: dict[str, Any] = {
            name: of if of and board_in(of.runtime) == board else None for name, of in figures.items()
        }
        return replace(one, **own)

    left, right = there(a), there(b)
    if left.is_judged or right.is_judged:
        yield f"on {board}: {accuracy_line(left, right, pair_of(left, right), board)}"
    _, line = latency_change(left.latency, right.latency, across=across)
    if line:
        yield f"on {board}: {line}"


def accuracy_line(a: StageNetwork, b: StageNetwork, pair: Pair | str, board: str = "") -> str:
    """`top-1: 91.20 -> 90.80 %, -0.40 points (95 %: -0.90 to 0.10), same guess on 97.00 %, n = 5,000`.

    Where one is missing it says how to judge it, on `board` if one is named; an engine's graph is judged for it.
    """
    near = a.closeness, b.closeness
    if near[0] and near[1]:
        if near[0].measure != near[1].measure:
            return f"closeness: not compared, {near[0].measure} and {near[1].measure}"
        worded = [f"{one.mean:.5f} (n = {one.n:,})" for one in near if one]
        return f"{near[0].measure} to the network each comes from: {' -> '.join(worded)}"
    missing = {name: one for name, one in (("A", a), ("B", b)) if not one.is_judged}
    if missing:
        said = f"top-1: not compared, not evaluated in {' and '.join(missing)}"
        how = [advised("edgeres eval", one.file, on=board) for one in missing.values() if one.stage != ENGINE_STAGE]
        return f"{said}: {' and '.join(dict.fromkeys(how))}" if how else said
    if isinstance(pair, str):
        return f"top-1: not compared, {pair}"
    assert a.accuracy is not None
    assert b.accuracy is not None
    head = f"top-1: {100 * a.accuracy.top1:.2f} -> {100 * b.accuracy.top1:.2f} %"
    if pair.same == pair.n:
        return f"{head}, every prediction the same, n = {pair.n:,}"
    points = pair.points
    return (
        f"{head}, {points.value:+.2f} points ({points.bounds('+.2f')}),"
        f" same guess on {100 * pair.agreement.value:.2f} %, n = {pair.n:,}"
    )


def latency_change(a: Latency | None, b: Latency | None, *, across: bool) -> tuple[Interval | None, str]:
    """(median of B over that of A, a line about it); no line if neither was timed."""
    if a is None or b is None:
        missing = " and ".join(name for name, one in (("A", a), ("B", b)) if one is None)
        return None, "" if a is b else f"latency: not compared, not timed in {missing}"
    differing = [f"{name} {x} and {y}" for name in _MODE if (x := getattr(a, name)) != (y := getattr(b, name))]
    if differing and not across:
        return None, f"latency: not compared, of {'; '.join(differing)} (all the same: --across)"
    ratio = _ratio_of_sessions(a, b)
    why = [f"ACROSS {'; '.join(differing)}"] if differing else []
    why += ["two sessions, drift between them is not in the interval"]
    why += [f"{name}: {doubt}" for name, one in (("A", a), ("B", b)) if (doubt := doubt_in(one))]
    said = "; ".join(why)
    return ratio, f"latency: p50 {a.p50_ms:.3f} -> {b.p50_ms:.3f} ms, {ratio.value:.3f}x ({ratio.bounds()}; {said})"


def _ratio_of_sessions(a: Latency, b: Latency) -> Interval:
    """Ratio of medians of separate sessions: the relative half-widths add as independent errors."""
    before, after = percentile_interval(a, 50), percentile_interval(b, 50)
    value = after.value / before.value
    down = math.hypot(1 - after.low / after.value, before.high / before.value - 1)
    up = math.hypot(after.high / after.value - 1, 1 - before.low / before.value)
    return Interval(value=value, low=value * (1 - down), high=value * (1 + up))


def _by_turn(items: Iterable[T], kind_of: Callable[[T], object]) -> dict[tuple[object, int], T]:
    """The first of a kind under (kind, 1), the second under (kind, 2)."""
    turns: Counter[object] = Counter()
    found: dict[tuple[object, int], T] = {}
    for item in items:
        turns[kind := kind_of(item)] += 1
        found[kind, turns[kind]] = item
    return found


def _kinds_in(stages: Iterable[FinishedStage]) -> Iterator[tuple[FinishedStage, tuple[str, str | None, bool]]]:
    """Each stage with its kind, and the precision of what it made or measured and whether that is cut.

    The kind is its name; of one that a board did also which board, and whose file of the run: what makes it at which
    turn.
    """
    makers: dict[str, tuple[str, int]] = {}
    likes: dict[str, tuple[str | None, bool]] = {}
    turns: Counter[str] = Counter()
    for stage in stages:
        report, kind = stage.report, stage.report.stage
        source = report.source.sha256 if report.source else ""
        like = (report.precision, bool(report.dropped)) if report.cost else likes.get(source, (None, False))
        if kind == BOARD_STAGE and source:
            board = report.results.get("board")
            name = board.get("name") if isinstance(board, dict) else None
            yield stage, (f"{kind} {name} {makers.get(source, source)}", *like)
            continue
        turns[kind] += 1
        if report.output:
            makers.setdefault(report.output.sha256, (kind, turns[kind]))
            likes.setdefault(report.output.sha256, like)
        yield stage, (kind, *like)


def _recipe_differences(
    stages: Iterable[tuple[FinishedStage | None, FinishedStage | None]], a: str, b: str
) -> Iterator[Difference]:
    for left, right in stages:
        if left is None or right is None:
            one = left or right
            assert one is not None
            yield Difference(what=one.name, a="done" if left else None, b="done" if right else None)
            continue
        ours, theirs = _options(left.report.config, a), _options(right.report.config, b)
        for name in dict.fromkeys([*ours, *theirs]):
            if ours.get(name) != theirs.get(name) and name not in Config.incidental:
                whose = left.name if left.name == right.name else f"{left.name} / {right.name}"
                yield OptionDifference(what=f"{whose} {name}", a=ours.get(name), b=theirs.get(name))


def _options(config: dict[str, Any], run: str) -> dict[str, Any]:
    """The options, paths into the run itself without the run's name."""
    inside = re.compile(rf"^(?:.*/)?{re.escape(run)}/(?=\d\d+-[a-z]+/)")
    return {name: inside.sub("", value) if isinstance(value, str) else value for name, value in config.items()}


def _environment_differences(a: RunFolder, b: RunFolder) -> Iterator[Difference]:
    left, right = (versions_in(stage.report.environment for stage in folder.stages) for folder in (a, b))
    boards = [machines_in(folder) for folder in (a, b)]
    for name in (one for one in boards[0] if one in boards[1]):
        left[f"board {name}"], right[f"board {name}"] = boards[0][name], boards[1][name]
    for name in dict.fromkeys([*left, *right]):
        values = [" / ".join(side[name]) if name in side else None for side in (left, right)]
        if values[0] != values[1]:
            yield Difference(what=name, a=values[0], b=values[1])


def _shown(value: Any, absent: str) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return absent if value is None else str(value)
