"""What the rules of `edgeres gate` are judged by: one figure each, or the reason why it was not measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeres.core.errors import InputError
from edgeres.core.metrics import Latency
from edgeres.core.statistics import P99_CALLS, Interval, percentile_interval, ratio_interval
from edgeres.evaluate.agreement import Pair
from edgeres.report.folder import run_folder_from
from edgeres.report.networks import ENGINE_STAGE, Network, networks_in, newest_evaluated, pair_of
from edgeres.report.wording import size

_P50, _P99 = 50, 99


@dataclass(frozen=True)
class Subject:
    """What is judged: `first` and `end` by accuracy, `timed` by latency; `problems`: what could not be read."""

    run: Path
    networks: Sequence[Network]
    first: Network
    end: Network
    timed: Network
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A measured value and how it reads."""

    stage: str
    interval: Interval
    text: str


def subject_in(run: Path) -> Subject:
    """The networks of the run in the folder `run`; raises InputError if none is evaluated."""
    folder = run_folder_from(run)
    networks = networks_in(folder)
    end = newest_evaluated(networks)
    if end is None:
        unread = f"; {'; '.join(folder.problems)}" if folder.problems else ""
        raise InputError(f"{run} holds no evaluated network; evaluate one: edgeres eval --run {run.name}{unread}")
    engines = (one for one in reversed(networks) if one.stage == ENGINE_STAGE and one.parent == end.sha256)
    timed = next((engine for engine in engines if engine.latency), end)
    return Subject(run, networks, networks[0], end, timed, folder.problems)


def _loss(subject: Subject) -> Figure | str:
    pair = _pair_in(subject)
    if isinstance(pair, str):
        return pair
    gain = pair.points
    loss = Interval(value=0.0 - gain.value, low=0.0 - gain.high, high=0.0 - gain.low)
    text = f"lost {loss.value:.2f} points {_range(loss, '.2f')}{_against(subject.first, pair.n)}"
    return Figure(subject.end.name, loss, text)


def _agreement(subject: Subject) -> Figure | str:
    pair = _pair_in(subject)
    if isinstance(pair, str):
        return pair
    same = pair.agreement
    text = f"same top-1 on {same.value:.4f} {_range(same, '.4f')}{_against(subject.first, pair.n)}"
    return Figure(subject.end.name, same, text)


def _pair_in(subject: Subject) -> Pair | str:
    """The pair, or why there is none and what to do."""
    first, end = subject.first, subject.end
    if end is first:
        return f"only {first.name} is evaluated, nothing to hold against it: edgeres eval --run {subject.run.name}"
    pair = pair_of(first, end)
    if isinstance(pair, str):
        return f"{pair}: {_how_to_judge(subject)}"
    return pair


def _how_to_judge(subject: Subject) -> str:
    """The command after which the two were judged on the same images: on the larger set, where they are two."""
    first, end = subject.first, subject.end
    if first.accuracy is None or end.accuracy is None or first.accuracy.dataset == end.accuracy.dataset:
        which = first if first.predictions is None else end
        return f"edgeres eval {subject.run / which.path}"
    fewer, more = sorted((first, end), key=lambda one: one.accuracy.n if one.accuracy else 0)
    assert more.accuracy is not None
    return f"edgeres eval {subject.run / fewer.path} --data {more.accuracy.dataset}"


def _top1(subject: Subject) -> Figure | str:
    accuracy = subject.end.accuracy
    assert accuracy is not None
    low, high = accuracy.interval
    top1 = Interval(value=100 * accuracy.top1, low=100 * low, high=100 * high)
    text = f"top-1 {top1.value:.2f} % {_range(top1, '.2f')}, n = {accuracy.n:,}, {accuracy.dataset} {accuracy.split}"
    return Figure(subject.end.name, top1, text)


def _p50(subject: Subject) -> Figure | str:
    return _quantile(subject, _P50)


def _p99(subject: Subject) -> Figure | str:
    latency = subject.timed.latency
    if latency is not None and len(latency.samples_ms) < P99_CALLS:
        return (
            f"{len(latency.samples_ms)} calls are too few for a p99:"
            f" edgeres bench --run {subject.run.name} --samples {P99_CALLS}"
        )
    return _quantile(subject, _P99)


def _quantile(subject: Subject, q: int) -> Figure | str:
    latency = subject.timed.latency
    if latency is None:
        return _how_to_time(subject)
    found = percentile_interval(latency, q)
    text = f"p{q} {found.value:.3f} ms {_range(found, '.3f')}, {_conditions(latency)}"
    return Figure(subject.timed.name, found, text)


def _speedup(subject: Subject) -> Figure | str:
    after = subject.timed.latency
    if after is None:
        return _how_to_time(subject)
    for one in subject.networks:
        before = one.latency
        if one is not subject.timed and before and _is_comparable(before, after):
            ratio = ratio_interval(before, after)
            faster = Interval(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low)
            text = f"{faster.value:.3f} times as fast {_range(faster, '.3f')} as {one.name}, {_conditions(after)}"
            return Figure(subject.timed.name, faster, text)
    return f"no other network was timed in its session on {after.runtime}: edgeres bench --run {subject.run.name}"


def _file_size(subject: Subject) -> Figure | str:
    end = subject.end
    exact = Interval(value=end.size_bytes, low=end.size_bytes, high=end.size_bytes)
    return Figure(end.name, exact, f"{size(end.size_bytes)} ({end.size_bytes:,} bytes), {end.path}")


def _is_comparable(a: Latency, b: Latency) -> bool:
    return (a.session, a.runtime, a.machine, a.batch, a.threads) == (
        b.session,
        b.runtime,
        b.machine,
        b.batch,
        b.threads,
    )


def _how_to_time(subject: Subject) -> str:
    reason, run = subject.timed.not_timed, subject.run.name
    if reason == "not timed":
        return f"{subject.timed.name} was not timed: edgeres bench --run {run}"
    return reason.replace("--include-qdq", f"edgeres bench --run {run} --include-qdq")


def _conditions(latency: Latency) -> str:
    text = f"n = {len(latency.samples_ms):,}, batch {latency.batch}, {latency.threads} threads, {latency.runtime}"
    return f"{text}; {latency.note}" if latency.note else text


def _against(first: Network, n: int) -> str:
    return f" against {first.name}, n = {n:,}"


def _range(interval: Interval, form: str) -> str:
    return f"(95 %: {interval.low:{form}} to {interval.high:{form}})"


FIGURES: dict[str, Callable[[Subject], Figure | str]] = {
    "max_loss": _loss,
    "min_top1": _top1,
    "min_agreement": _agreement,
    "max_p50": _p50,
    "max_p99": _p99,
    "min_speedup": _speedup,
    "max_size": _file_size,
}
