"""Rules a run must keep, for the CI of users' own models: the newest evaluated network against the run's first.

A rule is kept if the measured value keeps it; with `strict` the whole 95 % interval must. What was not measured breaks
its rule and says how to measure it, as does what does not count, such as of a file that is gone; a newer stage that is
damaged or unfinished breaks a rule of its own. Latency may be of an engine compiled from the network judged, if one was
timed; a speed-up is against the first network timed in the same session on the same runtime. Where a board measured the
network judged, its figures are judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from edgeres.core.amounts import counted
from edgeres.core.config import Record, record_from_json
from edgeres.core.errors import EdgeresError
from edgeres.core.files import write_text
from edgeres.core.lineage import advised
from edgeres.core.metrics import Interval
from edgeres.core.records.frontier import FRONTIER_NAME, Frontier
from edgeres.core.stage import TWO_NETWORKS
from edgeres.evaluate.stage import OTHER_ORDER
from edgeres.report.folder import STUDIES
from edgeres.report.gate_figures import GateFigure, NotMeasured, Subject, figure_of, subject_in
from edgeres.report.gate_rules import GateConfig, Rule
from edgeres.report.networks import answers_in, base_of, making_int8, others_in, timed_of

_MOST_PLACES = 15  # decimals of a float near 1
_WHOLE = "newest network readable"
_MEASURING = STUDIES | {"bench", "board", "calibrate", "latency", "lesion", "optimize", "sweep"}  # make no network
_BY_ACCURACY = {"max_loss", "min_top1", "min_agreement", "min_closeness"}


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
        subject = subject_in(run, config)
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
        notes=(*_notes_on(subject), *_misordered(subject, config), *_whole_instead(subject, judged, config)),
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
    others, first = answers_in(subject.networks), subject.first
    newest = [one for one in subject.networks if one is subject.end or one in others][-1]
    others_told = [one for one in subject.folder.problems if not _is_newer(one, subject)]
    same = (f"{one.name} is the {one.told_same}" for one in (first, subject.end, subject.timed) if one.told_same)
    unread = [*dict.fromkeys(same)]
    unread += [one if TWO_NETWORKS in one else f"not judged, {one}" for one in others_told]
    told_of = {one.sha256 for one in (first, subject.end, subject.timed)}
    for one in (one for one in subject.networks if one.sha256 in told_of and one is not subject.end and one.lost):
        counts = "it is held against" if one is first else "counts"
        unread.append(f"{one.path}: {one.lost}; what was measured of it before is what {counts}")
    if first.dropped:
        lacks = f"lacks {counted(len(first.dropped), 'module')} already"
        unread.append(f"{first.name}, which all is held against, {lacks}: what that lost is not in the run's figures")
    if newest is subject.end:
        later = subject.networks[subject.networks.index(newest) + 1 :]
        whole = [one.name for one in later if one in others_in(subject.networks) and one not in others]
        return [*(f"{name} is newer, and whole: {newest.name} was judged, as it is cut" for name in whole), *unread]
    how = subject.bench if subject.unjudged else advised("edgeres eval", subject.run / newest.path)
    lacks = f"{'timed' if subject.unjudged else 'evaluated'}: {how}"
    return [f"{subject.end.name} was judged; {newest.name} is newer and not {lacks}", *unread]


def _misordered(subject: Subject, config: GateConfig) -> Iterator[str]:
    """What makes the accuracies that a rule judges by mean nothing."""
    judged = (subject.first.sha256, subject.end.sha256) if _BY_ACCURACY & {one.name for one in config.rules} else ()
    told: dict[str, list[str]] = {}
    for stage in subject.folder.stages:
        if any(stage.has_judged(sha256) for sha256 in judged):
            for warning in (one for one in stage.warnings if OTHER_ORDER in one):
                told.setdefault(warning, []).append(stage.name)
    yield from (f"{', '.join(names)}: {warning}" for warning, names in told.items())


def _whole_instead(subject: Subject, judged: Sequence[Outcome], config: GateConfig) -> Iterator[str]:
    """A line where a cut network breaks a rule by its accuracy that the whole one in INT8 keeps, or may keep."""
    first, end, networks = subject.first, subject.end, subject.networks
    broken = [rule.name for rule, one in zip(config.rules, judged, strict=True) if one.figure and not one.passed]
    if _BY_ACCURACY.isdisjoint(broken) or len(end.dropped) <= len(first.dropped):
        return
    whole = [one for one in others_in(networks) if one.dropped == first.dropped and "int8" in (one.precision or "")]
    if not whole:
        how, found = making_int8(first, networks, subject.folder), _search_from(subject)
        if found is None:
            yield f"the whole network was not tried in INT8: {how}"
            return
        for one in found.tried:
            if "max_loss" in broken and one.name == "whole, int8" and one.lost_points.value <= (config.max_loss or 0):
                lost = f"{one.lost_points.plus_minus()} {found.lost_are} on {one.n or found.n:,} train images"
                yield f"the whole network in INT8 lost {lost} when optimize tried it: {how}"
    elif not whole[-1].is_judged:
        how = advised("edgeres eval", subject.run / whole[-1].path, on=subject.board)
        yield f"the whole network in INT8, {whole[-1].name}, was not tried: {how}"
    else:
        end = whole[-1]
        other = replace(subject, first=base_of(end, networks), end=end, timed=timed_of(end, networks))
        if all(_outcome(rule, other, strict=config.strict).passed for rule in config.rules):
            yield f"the whole network in INT8, {end.name}, keeps {' and '.join(one.rule for one in judged)}"


def _search_from(subject: Subject) -> Frontier | None:
    """What optimize tried from the whole network: the one that handed the run over, or one of the run itself."""
    whole = {one.sha256 for one in subject.networks if one.dropped == subject.first.dropped}
    own = [stage.path for stage in reversed(subject.folder.stages) if stage.report.stage == "optimize"]
    for folder in (subject.run.parent, *own):
        with suppress(EdgeresError):
            found = record_from_json(Frontier, folder / FRONTIER_NAME)
            if found.model_sha256 in whole:
                return found
    return None


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
