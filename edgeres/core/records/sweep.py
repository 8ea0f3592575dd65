"""What a sweep found: accuracy and latency for each number of modules, which are worth having, and their picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ConfigDict

from edgeres.core.config import Record, unless_usual
from edgeres.core.distances import LOST_OF
from edgeres.core.metrics import Accuracy, Closeness, Interval, Likened, threads_text
from edgeres.core.pictures import draw_points, label_points, with_grid

SWEEP_NAME = "sweep.json"
_QUALITY: dict[Likened, str] = {"cosine": "cosine", "error": "1 - error", "guess": "same guess"}
_LOST: dict[Likened, str] = {"cosine": LOST_OF["cosine"], "error": LOST_OF["error"], "guess": "points"}


class Judged(Record):
    """Top-1 on val and its change against the whole network, paired, in points.

    Without classes it is the closeness to the whole network, and a point a hundredth of cosine or of relative error.
    """

    accuracy: Accuracy | None
    change_points: float
    half_width_points: float
    closeness: Closeness | None = None

    _written = unless_usual("closeness")

    @property
    def quality(self) -> Interval:
        """What is to be large: top-1, cosine, or what the relative error leaves of 1."""
        if self.accuracy is not None:
            return self.accuracy.interval
        assert self.closeness is not None
        mean, half = self.closeness.mean, self.half_width_points / 100
        value = 1 - mean if self.closeness.measure == "error" else mean
        return Interval(value=value, low=value - half, high=value + half)

    @property
    def judged_on(self) -> Accuracy | Closeness:
        """What knows the images."""
        found = self.accuracy or self.closeness
        assert found is not None
        return found

    @property
    def lost_points(self) -> float:
        """Points lost, positive: without a minus before a zero."""
        return 0.0 - self.change_points


class SweepRow(Record):
    """One number of modules. `score` is the search's, on train; `ratio` is latency over the whole network's."""

    count: int
    dropped: tuple[str, ...]
    score: float | None
    params: int
    macs: int
    checkpoint: str
    bare: Judged
    recovered: Judged | None = None
    recovery_s: float | None = None
    latency_ms: Interval | None = None
    ratio: Interval | None = None

    @property
    def final(self) -> Judged:
        """After recovery if there was one."""
        return self.recovered or self.bare


class Sweep(Record):
    """Content of sweep.json; the first row is the whole network."""

    kind: Literal["sweep"] = "sweep"
    schema_version: int = 1
    model_sha256: str
    recover: tuple[str, ...]
    runtime: str
    machine: str
    batch: int
    threads: int
    rows: tuple[SweepRow, ...]


class SweepPoint(Record):
    """One number of modules; `is_best`: no other point is both as accurate and as fast, and better in one of them."""

    model_config = ConfigDict(allow_inf_nan=False)

    count: int
    dropped: tuple[str, ...]
    top1: Interval | None
    change_points: float
    half_width_points: float
    latency_ms: Interval
    ratio: Interval
    top1_bare: float | None
    is_best: bool = False
    closeness: Interval | None = None
    closeness_bare: float | None = None

    _written = unless_usual("closeness", "closeness_bare")

    @property
    def quality(self) -> Interval:
        """Top-1, or the closeness to the whole network: 1 where it is the same."""
        found = self.top1 or self.closeness
        assert found is not None
        return found

    @property
    def quality_bare(self) -> float:
        """The same before recovery."""
        found = self.top1_bare if self.closeness_bare is None else self.closeness_bare
        assert found is not None
        return found


class SweepFigure(Record):
    """All points, the whole network first; medians of one session, so they compare."""

    stage: str
    recover: tuple[str, ...]
    n: int
    dataset: str
    runtime: str
    machine: str
    batch: int
    threads: int
    points: tuple[SweepPoint, ...]
    measure: Likened | None = None

    _written = unless_usual("measure")

    @property
    def quality_is(self) -> str:
        """What is to be large, in words, as the page has it; top-1 is told in percent."""
        return _QUALITY[self.measure] if self.measure else "top-1 %"

    @property
    def lost_are(self) -> str:
        """What is lost."""
        return _LOST[self.measure] if self.measure else "points"


def lines_of(result: Sweep) -> list[str]:
    """The table for people, a line a row."""
    measure = _measure_of(result)
    head, unit = ("top-1 %", "points") if measure is None else (_QUALITY[measure], _LOST[measure])
    lost_wide = max(len(f"lost, {unit}"), 15)
    lines = [f"drop   {head:9}   {f'lost, {unit}':{lost_wide}} latency p50    of whole   modules of this size"]
    for row in result.rows:
        final, latency, ratio = row.final, row.latency_ms, row.ratio
        lost = f"{final.lost_points:6.2f} ± {final.half_width_points:.2f}" if row.count else ""
        time = f"{latency.value:8.3f} ms" if latency else "not timed"
        share = f"{ratio.value:.3f}" if ratio else ""
        names = ", ".join(row.dropped)
        good = final.quality.value
        shown = f"{100 * good:7.2f}" if measure is None else f"{good:7.5f}"
        lines.append(f"{row.count:4}   {shown:9}   {lost:{lost_wide}} {time:>11}   {share:>8}   {names}")
    how = f"recovered by {', '.join(result.recover)}" if result.recover else "without recovery"
    n = result.rows[0].bare.judged_on.n
    lines.append(f"{how}; n = {n:,} of val; {result.runtime}, batch {result.batch}, {threads_text(result.threads)}")
    return lines


def _measure_of(sweep: Sweep) -> Likened | None:
    """What the networks are judged by where it is not top-1."""
    near = sweep.rows[0].bare.closeness
    return None if near is None else near.measure


def figure_of(sweep: Sweep, stage: str) -> SweepFigure:
    """The points of a sweep that was timed; raises ValidationError for a figure that is missing or not finite."""
    points = [_point(row) for row in sweep.rows]
    best, judged = {point.count for point in best_of(points)}, sweep.rows[0].final.judged_on
    return SweepFigure(
        stage=stage,
        n=judged.n,
        dataset=f"{judged.dataset} {judged.split}",
        points=tuple(point.model_copy(update={"is_best": point.count in best}) for point in points),
        measure=_measure_of(sweep),
        **sweep.model_dump(include={"recover", "runtime", "machine", "batch", "threads"}),
    )


def best_of(points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """The Pareto front, fastest first: points that no other one beats in accuracy without being slower.

    It is made of the measured values themselves; points whose intervals overlap may change places.
    """
    front: list[SweepPoint] = []
    for point in sorted(points, key=lambda one: (one.latency_ms.value, -one.quality.value)):
        if not front or point.quality.value > front[-1].quality.value:
            front.append(point)
    return front


def _point(row: SweepRow) -> SweepPoint:
    final = row.final
    good, bare = final.quality, row.bare.quality.value
    is_top1 = final.accuracy is not None
    return SweepPoint(
        count=row.count,
        dropped=row.dropped,
        top1=good if is_top1 else None,
        top1_bare=bare if is_top1 else None,
        closeness=None if is_top1 else good,
        closeness_bare=None if is_top1 else bare,
        **final.model_dump(include={"change_points", "half_width_points"}),
        **row.model_dump(include={"latency_ms", "ratio"}),
    )


def draw_sweep(axes: Any, sweep: SweepFigure, *, ink: str, muted: str) -> None:
    """Each number of modules a point with whiskers: full on the Pareto front, hollow off it; `ink` is theirs."""
    scale = 100 if sweep.measure is None else 1
    spots = {one.count: (str(one.count), one.latency_ms, one.quality.times(scale)) for one in sweep.points}
    if sweep.recover:
        bare = [scale * point.quality_bare for point in sweep.points]
        x = [point.latency_ms.value for point in sweep.points]
        axes.plot(x, bare, "x", color=muted, markersize=5, label="before recovery")
    axes.plot(
        [point.latency_ms.value for point in best_of(sweep.points)],
        [scale * point.quality.value for point in best_of(sweep.points)],
        color=ink,
        linewidth=1.2,
        drawstyle="steps-post",
        label="Pareto front",
    )
    for is_best, label, fill in ((True, "on it", ink), (False, "beaten by another", "none")):
        shown = [spots[one.count] for one in sweep.points if one.is_best == is_best]
        if shown:
            draw_points(axes, shown, "o", ink=ink, muted=muted, label=label, markerfacecolor=fill)
    axes.set_xlabel(f"median latency of a call, ms\n({sweep.runtime}, batch {sweep.batch}, threads {sweep.threads})")
    said = "top-1, %" if sweep.measure is None else _QUALITY[sweep.measure]
    axes.set_ylabel(f"{said} (n = {sweep.n:,}, 95 % whiskers)")
    axes.margins(x=0.12, y=0.14)
    with_grid(axes)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    label_points(axes, list(spots.values()))
