"""Rules a run must keep, for the CI of users' own models: the newest evaluated network against the run's first.

A rule is kept if the measured value keeps it; with `strict` the whole 95 % interval must. What was not measured breaks
its rule and says how to measure it, as does what does not count, such as of a file that is gone; a newer stage that is
damaged or unfinished breaks a rule of its own. Latency may be of an engine compiled from the network judged, if one was
timed; a speed-up is against the first network timed in the same session on the same runtime. Where a board measured the
network judged, its figures are judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from pydantic import Field

from edgeres.core.config import Config, Record
from edgeres.core.errors import InputError
from edgeres.core.files import write_text
from edgeres.core.lineage import advised
from edgeres.core.metrics import Interval
from edgeres.core.stage import TWO_NETWORKS
from edgeres.report.folder import STUDIES
from edgeres.report.gate_figures import FIGURES, GateFigure, NotMeasured, Subject, figure_of, subject_in
from edgeres.report.networks import base_of, making_int8, others_in, timed_of

_MOST_PLACES = 15  # decimals of a float near 1
_WHOLE = "newest network readable"
_MEASURING = STUDIES | {"bench", "board", "calibrate", "latency", "lesion", "optimize", "sweep"}  # make no network
_LATENCY = {"us": 1e-3, "ms": 1.0, "s": 1e3}, "a latency; write it as 5ms, 800us or 0.02s"
_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_BY_ACCURACY = {"max_loss", "min_top1", "min_agreement", "min_closeness"}
_SIZE = _BYTES, "a file size; write it as 2MB, 800kB or 1.5MiB"
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


class GateConfig(Config):
    """The rules; at least one."""

    max_loss: float | None = Field(None, ge=0, description="points of top-1 that may be lost against the first network")
    min_top1: float | None = Field(None, gt=0, le=100, description="top-1 in percent, at least")
    min_agreement: float | None = Field(
        None, gt=0, le=1, description="share of images with the first network's top-1, at least"
    )
    min_closeness: float | None = Field(
        None,
        gt=0,
        le=1,
        description="mean closeness to the run's float network, at least: cosine of an embedding, 1 - relative error of"
        " tensors, or without labels the share of images with its first guess",
    )
    max_p50: str | None = Field(None, description="median latency, at most, such as 3ms")
    max_p99: str | None = Field(None, description="99th percentile of latency, at most, such as 5ms")
    min_speedup: float | None = Field(None, gt=0, description="times as fast as the first network, at least")
    max_size: str | None = Field(None, description="size of the file, at most, such as 2MB")
    on: str | None = Field(
        None,
        description="by what this board measured, or `here`; if not given, by the board that measured it, if one did",
    )
    strict: bool = Field(False, description="the whole 95 % interval must keep the limit, not only the value")

    def check(self) -> None:
        """There is a rule, and amounts can be read."""
        if not self.rules:
            raise InputError("no rule given; name one, such as --max-loss 0.5 (see: edgeres gate --help)")
        if self.min_top1 is not None and self.min_top1 <= 1:
            percent = f"{100 * self.min_top1:g}"
            raise InputError(f"--min-top1 {self.min_top1:g} is in percent; did you mean {percent}?")

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules given, in the order of the fields; raises InputError for an amount that cannot be read."""
        given = ((name, getattr(self, name)) for name in FIGURES)
        return tuple(_rule_from(name, value) for name, value in given if value is not None)


class Rule(NamedTuple):
    """One option as it was given, `--max-p99 5ms`, and its limit in the unit of the rule's figure."""

    name: str
    option: str
    limit: float

    def keeps(self, value: float) -> bool:
        """Whether `value` is on the right side of the limit."""
        return value <= self.limit if self.name.startswith("max") else value >= self.limit


def _rule_from(name: str, given: float | str) -> Rule:
    option = f"--{name.replace('_', '-')}"
    if isinstance(given, float):
        return Rule(name, f"{option} {given:g}", given)
    units, what = _SIZE if name == "max_size" else _LATENCY
    match = _AMOUNT.fullmatch(given.strip())
    limit = float(match[1]) * units.get(match[2], 0) if match else 0.0
    if limit <= 0:
        raise InputError(f"{option}: {given!r} is not {what}")
    return Rule(name, f"{option} {given}", limit)


class Outcome(Record):
    """One rule judged: `figure` is None if it was not measured, `text` says what was seen.

    `is_valid` is false for a latency of a session that its own verdict calls invalid, None where that is not known.
    """

    rule: str
    passed: bool
    stage: str
    limit: float
    figure: Interval | None
    text: str
    is_valid: bool | None = None


class GateReport(Record):
    """All rules of one run; `notes` say what the verdict leaves out, `board` whose figures they are if a board's.

    `first` and `judged` are empty where nothing is evaluated or timed.
    """

    schema_version: int = 1
    run: str
    board: str = ""
    first: str
    judged: str
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """Rules that were not kept."""
        return tuple(outcome for outcome in self.outcomes if not outcome.passed)


def gate(run: Path, config: GateConfig) -> GateReport:
    """Judges the run in the folder `run`; raises InputError if nothing in it is finished or no rule is given."""
    config.check()
    try:
        subject = subject_in(run, config.on, rules=[rule.name for rule in config.rules])
    except NotMeasured as why:
        outcomes = tuple(_broken(rule.option, run.name, f"{why.said}: {why}", rule.limit) for rule in config.rules)
        return GateReport(run=run.name, first="", judged="", outcomes=outcomes)
    judged = [_outcome(rule, subject, strict=config.strict) for rule in config.rules]
    return GateReport(
        run=run.name,
        board=subject.board,
        first=subject.first.name,
        judged=subject.end.name,
        outcomes=(*judged, *_unread_in(subject)),
        notes=(*_notes_on(subject), *_whole_instead(subject, judged, config)),
    )


def write_junit(report: GateReport, path: Path) -> None:
    """The report as JUnit XML: one test case a rule."""
    counts = {"tests": str(len(report.outcomes)), "failures": str(len(report.broken)), "errors": "0"}
    suite = ElementTree.Element("testsuite", {"name": f"edgeres gate {report.run}", **counts})
    for outcome in report.outcomes:
        case = ElementTree.SubElement(suite, "testcase", {"classname": outcome.stage, "name": outcome.rule})
        if not outcome.passed:
            ElementTree.SubElement(case, "failure", {"message": outcome.text})
        ElementTree.SubElement(case, "system-out").text = outcome.text
    ElementTree.indent(suite)
    write_text(path, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, "unicode") + "\n")


def _unread_in(subject: Subject) -> list[Outcome]:
    """A broken rule for each newer stage that may have made a network and cannot be judged."""
    newer = [problem for problem in subject.folder.problems if _is_newer(problem, subject)]
    return [_broken(_WHOLE, subject.end.name, f"judged, but there is {problem}") for problem in newer]


def _is_newer(problem: str, subject: Subject) -> bool:
    """Than what is judged, and than what the same stage made; `problem` begins with the folder's name, NN-STAGE."""
    number, _, stage = problem.partition(":")[0].partition("-")
    done = [int(one.name.partition("-")[0]) for one in subject.networks if one is subject.end or one.stage == stage]
    return number.isdecimal() and int(number) > max(done) and stage not in _MEASURING


def _notes_on(subject: Subject) -> list[str]:
    others, first = others_in(subject.networks), subject.first
    newest = [one for one in subject.networks if one is subject.end or one in others][-1]
    others_told = [one for one in subject.folder.problems if not _is_newer(one, subject)]
    same = (f"{one.name} is the {one.told_same}" for one in (first, subject.end, subject.timed) if one.told_same)
    unread = [*dict.fromkeys(same)]
    unread += [one if TWO_NETWORKS in one else f"not judged, {one}" for one in others_told]
    if first is not subject.end and first.lost:
        unread.append(f"{first.path}: {first.lost}; what was measured of it before is what it is held against")
    if newest is subject.end:
        return unread
    how = subject.bench if subject.unjudged else advised("edgeres eval", subject.run / newest.path)
    lacks = f"{'timed' if subject.unjudged else 'evaluated'}: {how}"
    return [f"{subject.end.name} was judged; {newest.name} is newer and not {lacks}", *unread]


def _whole_instead(subject: Subject, judged: Sequence[Outcome], config: GateConfig) -> Iterator[str]:
    """A line where a cut network breaks a rule by its accuracy that the whole one in INT8 keeps, or may keep."""
    first, end, networks = subject.first, subject.end, subject.networks
    broken = [rule.name for rule, one in zip(config.rules, judged, strict=True) if one.figure and not one.passed]
    if _BY_ACCURACY.isdisjoint(broken) or len(end.dropped) <= len(first.dropped):
        return
    whole = [one for one in others_in(networks) if one.dropped == first.dropped and "int8" in (one.precision or "")]
    if not whole:
        yield f"the whole network was not tried in INT8: {making_int8(first, networks, subject.folder)}"
    elif not whole[-1].is_judged:
        how = advised("edgeres eval", subject.run / whole[-1].path, on=subject.board)
        yield f"the whole network in INT8, {whole[-1].name}, was not tried: {how}"
    else:
        end = whole[-1]
        other = replace(subject, first=base_of(end, networks), end=end, timed=timed_of(end, networks))
        if all(_outcome(rule, other, strict=config.strict).passed for rule in config.rules):
            yield f"the whole network in INT8, {end.name}, keeps {' and '.join(one.rule for one in judged)}"


def _outcome(rule: Rule, subject: Subject, *, strict: bool) -> Outcome:
    try:
        found = figure_of(rule.name, subject)
    except NotMeasured as why:
        return _broken(rule.option, subject.end.name, f"{why.said}: {why}", rule.limit)
    found = replace(found, text=found.text + _told_apart(rule, found))
    seen = _broken(rule.option, found.stage, found.text, rule.limit)
    seen = seen.model_copy(update={"figure": found.interval, "is_valid": found.is_valid})
    if strict and (why_not := _why_not_strictly(found, subject)):
        return seen.model_copy(update={"text": f"{found.text}; {why_not}"})
    ends = {rule.keeps(found.interval.low), rule.keeps(found.interval.high)}
    passed = ends == {True} if strict else rule.keeps(found.interval.value)
    text = found.text + ("; the limit lies within the interval" if len(ends) > 1 else "")
    return seen.model_copy(update={"passed": passed, "text": text})


def _told_apart(rule: Rule, found: GateFigure) -> str:
    """The figure with as many digits as tell it from the limit, where those it is shown with do not."""
    value, places = found.interval.value, found.places
    while places < _MOST_PLACES and rule.keeps(round(value, places)) != rule.keeps(value):
        places += 1
    return (
        f"; {value:.{places}f} is {'under' if value < rule.limit else 'over'} the limit"
        if places > found.places
        else ""
    )


def _broken(rule: str, stage: str, text: str, limit: float = 0.0) -> Outcome:
    return Outcome(rule=rule, passed=False, stage=stage, limit=limit, figure=None, text=text)


def _why_not_strictly(found: GateFigure, subject: Subject) -> str:
    """Why --strict does not take the figure, whatever the limit; empty if it may."""
    if found.is_valid is False:
        return f"--strict takes no invalid session: on a quiet machine: {subject.bench}"
    return "" if found.has_interval else "no interval is kept of it, as --strict asks: judge it without --strict"
