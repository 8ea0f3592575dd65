"""Is B faster than A? Several interleaved sessions, and a verdict in words.

    r[s, k] = median of A's calls / median of B's calls    in round k of session s; above 1 B is faster
    speed   = median of r over all rounds

The interval draws sessions with replacement, then rounds within each (a two-level bootstrap): both sides of a round
shared what disturbed it, which cancels, and every session starts its processes anew, so that the luck of one start
(memory layout) is in the interval too. A verdict is passed only outside 1 +- `RESOLUTION`: below 1 % the luck of
process starts is all there is to see. One session on a busy machine, by the rule of `edgeres bench`, makes it invalid.

Source: Kalibera & Jones 2013, doi:10.1145/2464157.2464160 (levels of repetition); Efron & Tibshirani 1993, chapter 8.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgeres.bench.config import BenchConfig
from edgeres.bench.stage import Session, measure
from edgeres.bench.tasks import label_of, reason_to_skip
from edgeres.bench.validity import INVALID
from edgeres.core.artifacts import Model
from edgeres.core.config import Record, command_with
from edgeres.core.environment import Environment, environment
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval, Latency
from edgeres.core.records.latency import SessionConfig
from edgeres.core.statistics import percentile_interval, resampled_interval, round_medians

VerdictWord = Literal["faster", "slower", "not distinguishable", "open", "invalid"]
Ratios = NDArray[np.float64]

RESOLUTION = 0.01  # differences that are smaller are not told apart
_RESAMPLES = 2000
_DRIFT = 1.25  # slowest over fastest session of one model; the ratio survives it, the milliseconds do not


class VersusConfig(SessionConfig):
    """How to hold models against each other; rounds and seconds are those of one session."""

    sessions: int = Field(3, ge=2, description="sessions of so many rounds and seconds: process starts of each model")
    include_qdq: bool = Field(False, description="time Q/DQ graphs on the CPU too")
    any_load: bool = Field(False, description="pass a verdict even if other programs keep the machine busy")

    def bench_config(self, session: int) -> BenchConfig:
        """The options of one session; each has its own order of turns."""
        own = self.model_dump(include={*SessionConfig.model_fields, "include_qdq"})
        return BenchConfig.model_validate({**own, "samples": self.rounds, "seed": self.seed + session})


class Timing(Record):
    """One model over all sessions."""

    path: str
    artifact: str
    runtime: str
    batch: int
    threads: int
    p50_ms: Interval
    p99_ms: Interval
    samples: int


class Verdict(Record):
    """B against A: `speed` is how many times as fast B is; `sentence` says it."""

    a: str
    b: str
    word: VerdictWord
    speed: Interval
    sentence: str


class Versus(Record):
    """Models in the order given, and each from the second on against the first."""

    schema_version: int = 1
    models: tuple[Timing, ...]
    verdicts: tuple[Verdict, ...]
    sessions: int
    rounds: int
    resolution: float
    busy_cores: float | None
    warnings: tuple[str, ...]
    environment: Environment


def versus(models: Sequence[Model], config: VersusConfig) -> Versus:
    """Times `models` against the first of them; the same file may be listed twice.

    Raises InputError for fewer than two models, or one that does not run here or says nothing here.
    """
    if len(models) < 2:
        raise InputError("name two models or more: edgeres compare A.onnx B.onnx")
    for model in models:
        if reason := reason_to_skip(model, config.bench_config(0)):
            raise InputError(f"{model.path}: {reason}")
    again = command_with(shlex.join(["edgeres", "compare", *(str(one.path) for one in models)]), config)
    done = [measure(models, config.bench_config(index), command=again) for index in range(config.sessions)]
    series = [[session.latencies[index] for session in done] for index in range(len(models))]
    names = _names_of(models)
    warned = [f"{_session_name(index, done)}: {line}" for index, one in enumerate(done) for line in one.warnings]
    overload = "" if config.any_load else why_invalid(done)
    verdicts = tuple(
        verdict_on((names[0], names[index]), ratios_of(series[0], series[index]), config, invalid=overload)
        for index in range(1, len(models))
    )
    return Versus(
        models=tuple(_timing(*pair) for pair in zip(models, series, strict=True)),
        verdicts=verdicts,
        sessions=config.sessions,
        rounds=config.rounds,
        resolution=RESOLUTION,
        busy_cores=max((load for one in done if (load := one.around.busy_cores) is not None), default=None),
        warnings=(*warned, *_drifts(names, series)),
        environment=environment(),
    )


def ratios_of(before: Sequence[Latency], after: Sequence[Latency]) -> list[Ratios]:
    """For each session the ratio of the medians of every round: float64 (rounds,)."""
    return [round_medians(a) / round_medians(b) for a, b in zip(before, after, strict=True)]


def verdict_on(names: tuple[str, str], ratios: Sequence[Ratios], config: VersusConfig, *, invalid: str = "") -> Verdict:
    """What `ratios` allow to say; `invalid` is the reason why nothing may be said."""
    a, b = names
    speed = speed_interval(ratios, config.seed)
    word = "invalid" if invalid else word_for(speed)
    return Verdict(a=a, b=b, word=word, speed=speed, sentence=_sentence(names, word, speed, config, invalid))


def speed_interval(ratios: Sequence[Ratios], seed: int = 0) -> Interval:
    """The median of all rounds and its interval over sessions and rounds; every session has as many rounds."""
    table = np.stack(ratios)
    sessions, rounds = table.shape
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, sessions, (_RESAMPLES, sessions, 1))
    within = generator.integers(0, rounds, (_RESAMPLES, sessions, rounds))
    return resampled_interval(float(np.median(table)), np.median(table[chosen, within], axis=(1, 2)))


def word_for(speed: Interval) -> VerdictWord:
    """`open` if the interval is too wide to tell: neither outside 1 +- RESOLUTION nor inside it."""
    low, high = 1 / (1 + RESOLUTION), 1 + RESOLUTION
    if speed.low > high:
        return "faster"
    if speed.high < low:
        return "slower"
    return "not distinguishable" if speed.low >= low and speed.high <= high else "open"


def why_invalid(sessions: Sequence[Session]) -> str:
    """What the first session that is not valid says against itself, or an empty string."""
    for index, session in enumerate(sessions):
        if session.verdict.startswith(INVALID):
            return f"{session.verdict.removeprefix(f'{INVALID}: ')} ({_session_name(index, sessions)})"
    return ""


def _session_name(index: int, sessions: Sequence[Session]) -> str:
    return f"session {index + 1} of {len(sessions)}"


def _sentence(names: tuple[str, str], word: VerdictWord, speed: Interval, config: VersusConfig, invalid: str) -> str:
    a, b = names
    percent, figure = f"{100 * RESOLUTION:g} %", f"{speed.value:.3f}x, {speed.bounds()}"
    if word == "invalid":
        return f"invalid: {invalid}; measure again, or judge all the same with --any-load ({b} against {a} {figure})"
    if word in {"faster", "slower"}:
        factor = speed if speed.value >= 1 else speed.inverse()
        return f"{b} is {factor.value:.2f}x {word} than {a} ({factor.bounds()})"
    seen = f"{b} against {a}: {figure}"
    if word == "open":
        return f"undecided at {percent}: {seen}; measure longer: --sessions {2 * config.sessions}"
    return f"not distinguishable at {percent}: {seen}"


def _timing(model: Model, latencies: Sequence[Latency]) -> Timing:
    first = latencies[0]
    whole = first.model_copy(
        update={
            "samples_ms": tuple(sample for one in latencies for sample in one.samples_ms),
            "rounds": tuple(count for one in latencies for count in one.rounds),
        }
    )
    return Timing(
        path=str(model.path),
        artifact=model.sha256,
        p50_ms=percentile_interval(whole, 50),
        p99_ms=percentile_interval(whole, 99),
        samples=len(whole.samples_ms),
        **first.model_dump(include={"runtime", "batch", "threads"}),
    )


def _names_of(models: Sequence[Model]) -> list[str]:
    """As short as tells them apart; a file listed twice is numbered."""
    labels = [label_of(model.path) for model in models]
    paths = [str(model.path) for model in models]
    names = labels if len(set(labels)) == len(set(paths)) else paths
    turns = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [name if turn == 1 else f"{name} ({turn})" for name, turn in zip(names, turns, strict=True)]


def _drifts(names: Sequence[str], series: Sequence[Sequence[Latency]]) -> list[str]:
    found = []
    for name, latencies in zip(names, series, strict=True):
        medians = [latency.p50_ms for latency in latencies]
        if max(medians) > _DRIFT * min(medians):
            found.append(
                f"{name}: medians of the sessions from {min(medians):.3f} to {max(medians):.3f} ms: the machine's"
                " speed changed; the ratio holds, the milliseconds do not"
            )
    return found
