"""What `edgeres optimize` found: the networks it tried, loss against latency, the three handed over, their picture.

A loss is in points of top-1 on train images that were not chosen, refitted or calibrated on, paired with the whole
network, or, where no label says what is right, in hundredths of what its outputs are away from the whole network's
(`core.distances`). A latency is a share of the whole float network's, from a session in which both took turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgeres.core.amounts import Target, target_from
from edgeres.core.config import Record
from edgeres.core.lineage import advised
from edgeres.core.metrics import Interval, threads_text
from edgeres.core.pictures import draw_points, label_points, with_grid
from edgeres.core.runs import Run

FRONTIER_NAME = "frontier.json"
Precision = Literal["fp32", "int8"]
ResultName = Literal["accurate", "balanced", "fast"]
_MARKERS: dict[Precision, str] = {"fp32": "s", "int8": "o"}


class Tried(Record):
    """One network: what it lacks, what it lost, and its share of the whole float network's latency.

    `n`: images it was judged on. `refined`: the time it was given to be trained in after the refit, as options of
    `prune` have it; empty for none.
    """

    dropped: tuple[str, ...]
    refined: str = ""
    n: int = 0
    precision: Precision
    lost_points: Interval
    ratio: Interval
    latency_ms: Interval

    @property
    def name(self) -> str:
        """`less 8, int8`, `less 8 trained, int8`, `whole, fp32`."""
        less = f"less {len(self.dropped)}{' trained' if self.refined else ''}"
        return f"{less if self.dropped else 'whole'}, {self.precision}"


class Result(Record):
    """One of the three: which network it is and why, and what it lost on val.

    `folder` is a run of its own beside this file. `val_lost_points` is None where val was not judged, `top1` where no
    label says what is right. `val_all`: images there are in val, of which it was judged on `val_n`; 0 if not told.
    """

    name: ResultName
    tried: Tried
    folder: str
    file: str
    val_lost_points: Interval | None
    val_n: int
    val_all: int = 0
    top1: float | None
    why: str

    @property
    def val_images(self) -> str:
        """`n = 2,500`, or `n = 2,025 of 2,500 of val: the budget left no time for more`."""
        part = f" of {self.val_all:,} of val: the budget left no time for more" if self.val_n < self.val_all else ""
        return f"n = {self.val_n:,}{part}"


class Frontier(Record):
    """Content of frontier.json; the first of `tried` is the whole float network, which every share is of.

    `spent_s`: seconds by what they went for; `misses`: goals that were not reached, with what is nearest; `verdict`: of
    the session that the latencies are of.
    """

    kind: Literal["frontier"] = "frontier"
    schema_version: int = 1
    model_sha256: str
    dataset: str
    n: int
    is_labelled: bool
    lost_are: str = "points"
    runtime: str
    machine: str
    batch: int
    threads: int
    latency: str | None
    max_loss: float
    tried: tuple[Tried, ...]
    results: tuple[Result, ...]
    spent_s: dict[str, float]
    misses: tuple[str, ...] = ()
    verdict: str = ""

    @property
    def named(self) -> dict[Tried, str]:
        """Those that are handed over, by all their names."""
        names: dict[Tried, list[str]] = {}
        for one in self.results:
            names.setdefault(one.tried, []).append(one.name)
        return {tried: ", ".join(several) for tried, several in names.items()}

    @property
    def board(self) -> str:
        """The board that timed; empty for this machine."""
        return self.machine.partition(":")[0] if self.runtime.startswith("tensorrt") else ""

    @property
    def judged_here(self) -> str:
        """`, judged here` where a board timed: accuracies are always this machine's."""
        return ", judged here" if self.board else ""

    @property
    def timed_by(self) -> str:
        """`tensorrt 10.3.0 on desk`."""
        return self.runtime + (f" on {self.board}" if self.board else "")

    @property
    def doubt(self) -> str:
        """` in a doubtful measurement`, or an invalid one, where the session's verdict says so; empty where not."""
        word = self.verdict.partition(":")[0]
        article = {"invalid": "an", "doubtful": "a"}.get(word)
        return f" in {article} {word} measurement" if article else ""


class GoalOutcome(NamedTuple):
    """A goal as it was asked for, whether it was kept, and by which figure."""

    option: str
    is_kept: bool
    figure: str

    @property
    def verdict(self) -> str:
        """`--latency 0.5x kept`."""
        return f"{self.option} {'kept' if self.is_kept else 'missed'}"

    @property
    def text(self) -> str:
        """The same with its figure."""
        return f"{self.verdict}: {self.figure}"


def goals_of(found: Frontier) -> Iterator[GoalOutcome]:
    """Each goal; none of a plan alone, nor of a loss where nothing is handed over."""
    if not found.results and not found.misses:
        return
    if found.latency is not None:
        yield _latency_goal(found, target_from(found.latency, "--latency"))
    if found.results:
        yield _loss_goal(found)


def told_of(found: Frontier) -> Iterator[str]:
    """The goals for people, and where a board's session was doubtful, which its results repeat, what measures anew."""
    yield from (goal.text for goal in goals_of(found))
    runs = {one.name: Run(Path(one.folder)) for one in found.results}
    if found.board and found.doubt and runs:
        name = "balanced" if "balanced" in runs else [*runs][-1]
        anew = advised("edgeres bench", runs[name], on=found.board)
        told = "which this search goes on telling; its own run, and gate of that, tell what times it anew"
        yield f"{name} was timed{found.doubt}, {told}: {anew}"
    yield from needless_cuts(found)


def needless_cuts(found: Frontier) -> Iterator[str]:
    """A line for each network handed over that is not measurably faster than the whole one in its precision."""
    whole = {one.precision: one for one in found.tried if not one.dropped}
    cut = {one.tried.name: one.tried for one in found.results if one.tried.dropped}
    for name, one in cut.items():
        other = whole.get(one.precision)
        if other is not None and other.ratio.low <= one.ratio.high:
            shares = " and ".join(f"{x.ratio.value:.3f} ({x.ratio.bounds()})" for x in (one, other))
            yield f"{name} is not measurably faster than {other.name}, {shares}: its modules are left out for no time"


def missed_in(found: Frontier) -> list[str]:
    """What was asked for and not reached, a few words each; nothing is of a plan alone."""
    missed = [goal.verdict for goal in goals_of(found) if not goal.is_kept]
    is_empty = bool(found.misses) and not found.results
    return missed or (["no network that was tried is worth handing over"] if is_empty else [])


def meets(one: Tried, target: Target) -> bool:
    """Whether it is as fast as asked for."""
    return time_of(one, target).value <= target.value


def time_of(one: Tried, target: Target) -> Interval:
    """What it takes, in what is asked for: its share of the whole float network's latency, or milliseconds."""
    return one.ratio if target.is_ratio else one.latency_ms


def _latency_goal(found: Frontier, target: Target) -> GoalOutcome:
    """By `balanced`, which is there for it, or else by the fastest network that was tried."""
    balanced = next((one.tried for one in found.results if one.name == "balanced"), None)
    one = balanced or min(found.tried, key=lambda one: one.ratio.value)
    time, unit = time_of(one, target), "of the whole" if target.is_ratio else "ms"
    figure = (
        f"{'balanced' if balanced else 'the fastest'} ({one.name}) takes {time.value:.3f} {unit} ({time.bounds()}),"
        f" measured by {found.timed_by}{found.doubt}"
    )
    return GoalOutcome(f"--latency {target}", meets(one, target), figure + _unsure(time, target.value))


def _loss_goal(found: Frontier) -> GoalOutcome:
    """By the network handed over that loses most, on val where that was judged."""
    told = [(one.val_lost_points or one.tried.lost_points, one) for one in found.results]
    lost, one = max(reversed(told), key=lambda pair: pair[0].value)
    images = f"val ({one.val_images})" if one.val_lost_points else f"{one.tried.n:,} train images"
    images += found.judged_here
    kept = [other.name for of, other in told if of.value <= found.max_loss]
    others = f"; kept by {' and '.join(kept)}" if kept and one.name not in kept else ""
    figure = f"{one.name} ({one.tried.name}) loses {lost.plus_minus()} {found.lost_are} on {images}"
    is_kept = lost.value <= found.max_loss
    return GoalOutcome(f"--max-loss {found.max_loss:g}", is_kept, figure + _unsure(lost, found.max_loss) + others)


def _unsure(figure: Interval, limit: float) -> str:
    return "; the limit lies within the interval" if figure.low <= limit < figure.high else ""


def on_front(tried: Sequence[Tried]) -> list[Tried]:
    """Those that no other beats in latency without losing more, fastest first, by the values as measured."""
    front: list[Tried] = []
    for one in sorted(tried, key=lambda one: (one.ratio.value, one.lost_points.value)):
        if not front or one.lost_points.value < front[-1].lost_points.value:
            front.append(one)
    return front


def lines_of(found: Frontier) -> Iterable[str]:
    """The tables for people, a line a row: what was tried, then the three."""
    front, named = on_front(found.tried), found.named
    width = max(len(head := f"{found.lost_are} lost"), 15)
    yield f"{'network':<22}{'of whole':>9}{'p50':>11}   {head:<{width}} front"
    for one in sorted(found.tried, key=lambda one: -one.ratio.value):
        lost = "" if one is found.tried[0] else one.lost_points.plus_minus()
        mark = ("*" if one in front else " ") + f" {named.get(one, '')}"
        time = f"{one.latency_ms.value:8.3f} ms"
        yield f"{one.name:<22}{one.ratio.value:9.3f}{time:>11}   {lost:<{width}} {mark}".rstrip()
    right = "" if found.is_labelled else "; held against the whole float network, as no label says what is right"
    right += f"; like val by this machine, not by {found.board}" if found.board else ""
    yield (
        f"judged on {found.n:,} train images not chosen, refitted or calibrated on ({found.dataset}){right};"
        f" {', '.join(filter(None, (found.timed_by, f'batch {found.batch}', threads_text(found.threads))))}"
    )
    told: dict[Tried, str] = {}
    for result in found.results:
        twin = told.setdefault(result.tried, result.name)
        same = "" if twin == result.name else f"; the same network as {twin}"
        on_val, ratio = "not judged on val", result.tried.ratio
        if result.val_lost_points is not None:
            on_val = f"{result.val_lost_points.plus_minus()} {found.lost_are} lost on val ({result.val_images})"
        yield (
            f"{result.name}: {result.tried.name}, {ratio.value:.3f} of the latency ({ratio.bounds()}){found.doubt},"
            f" {on_val}; {result.why}: {result.folder}/{same}"
        )
    yield from found.misses
    yield from told_of(found)


def draw_frontier(axes: Any, found: Frontier, *, ink: str, muted: str) -> None:
    """Points lost against the share of the latency: full on the front, hollow off it; the three by name."""
    front, named = on_front(found.tried), found.named
    for precision, marker in _MARKERS.items():
        for is_best, fill in ((True, ink), (False, "none")):
            shown = [
                (named.get(one, ""), one.ratio, one.lost_points)
                for one in found.tried
                if one.precision == precision and (one in front) == is_best
            ]
            label = {"label": precision} if is_best or not any(one.precision == precision for one in front) else {}
            if shown:
                draw_points(axes, shown, marker, ink=ink, muted=muted, markerfacecolor=fill, **label)
    axes.plot(
        [one.ratio.value for one in front],
        [one.lost_points.value for one in front],
        color=ink,
        linewidth=1.2,
        drawstyle="steps-post",
    )
    axes.invert_yaxis()
    axes.set_xlabel(f"share of the whole float network's latency\n({found.timed_by}, batch {found.batch})")
    axes.set_ylabel(f"{found.lost_are} lost (n = {found.n:,} train images, 95 %)")
    axes.margins(x=0.1, y=0.14)
    with_grid(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    label_points(axes, [(named.get(one, ""), one.ratio, one.lost_points) for one in found.tried])
