"""Printing: results to stdout, as text for people or JSON for machines; everything else goes to stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from edgeres.bench.figures import lines_from
from edgeres.cli.terminal import say
from edgeres.core.distances import LOST_OF, OF_CLASSES
from edgeres.core.runs import PAGE_NAME, Run
from edgeres.core.stage import StageReport
from edgeres.report.boards import boards_from, file_name
from edgeres.report.stage import BOARDS_NAME
from edgeres.report.summary import RunSummary
from edgeres.report.table import boards_turned, table_from
from edgeres.report.wording import accuracy_line, closeness_line, latency_line, size

_LONG = 160
_OF_THE_RESULT = "of the result"
_SAID = {"points_are", "score_name", "first_step", "stopped_early", "held_out_first", "held_out_best", "held_out_last"}
_NOT_PRINTED = frozenset(_SAID | {"session"})  # said by a label or a note, or of use to machines alone
_WORDS = {"fit_error": "error of the fit, as a share of the latency", "networks": "networks timed"}
_NOTES_FIRST = {"lesion"}  # they hold what was asked, the figures are what it says to a published claim


def print_result(report: StageReport, *, as_json: bool, whose: str | None = None) -> None:
    """What a stage did: its figures, notes and warnings, and the file it wrote; `whose` of several an accuracy is."""
    if as_json:
        click.echo(report.model_dump_json())
        return
    for accuracy in report.accuracy:
        say(accuracy_line(accuracy) if whose is None else f"{whose}: {accuracy_line(accuracy)}")
    for closeness in report.closeness:
        say(closeness_line(closeness) if whose is None else f"{whose}: {closeness_line(closeness)}")
    if report.metric:
        say(f"{report.metric.text}, n = {report.metric.n}")
    figures = list(_figure_lines(report))
    for line in (*report.notes, *figures) if report.stage in _NOTES_FIRST else (*figures, *report.notes):
        say(line)
    for warning in report.warnings:
        say(f"warning: {warning}", err=True)
    if report.output is not None:
        say(f"{report.output.path}  {size(report.output.size_bytes)}, {report.duration_s:.1f} s")


def print_boards(reports: Sequence[StageReport], *, as_json: bool) -> None:
    """What boards measured in one table on stdout, what makes it doubtful on stderr; with `as_json` a report a line."""
    if as_json:
        for report in reports:
            click.echo(report.model_dump_json())
        return
    from rich.console import Console

    Console(highlight=False).print(boards_turned(boards_from(reports)))
    for report in reports:
        for note in report.notes:
            say(f"{file_name(report)}: {note}")
        for warning in report.warnings:
            say(f"warning: {file_name(report)}: {warning}", err=True)


def print_summary(summary: RunSummary, where: Path, *, as_json: bool) -> None:
    """The one table of a run, and where its page is."""
    if as_json:
        click.echo(summary.model_dump_json())
        return
    from rich.console import Console

    console = Console()
    console.print(table_from(summary))
    say(summary.headline)
    for goal in summary.goals:
        say(goal)
    for problem in (*summary.problems, *summary.warned(f"{where}/report.md")):
        say(f"warning: {problem}", err=True)
    names = (PAGE_NAME, "report.md", "report.json", "report.csv", BOARDS_NAME)
    say(f"{where}: {', '.join(name for name in names if (where / name).is_file())}")
    Run(where).say_if_page_is_older()


def _figure_lines(report: StageReport) -> Iterator[str]:
    if report.stage == "bench":
        yield from lines_from(report)
        return
    yield from map(latency_line, report.latency)
    are = report.results.get("points_are", _OF_THE_RESULT)  # others come before a recovery, or after cheap repairs
    told = "" if are == _OF_THE_RESULT else f" {are}"
    images = report.results.get("images_chosen_on")
    measure = report.results.get("measure", "kl")
    has_points = measure in OF_CLASSES  # otherwise hundredths of the distance
    chosen = (
        f" {'of top-1' if has_points else LOST_OF[measure]} on {images:,} train images"
        if isinstance(images, int)
        else ""
    )
    for name, value in report.results.items():
        if name == "points":  # of accuracy: a figure in reports, printed as what is lost, without -0.0
            label, text = f"points lost{told}", f"{_short(0.0 - value)}{chosen}"
        else:
            label, text = _in_words(name, _short(value))
        if text and name not in _NOT_PRINTED:
            yield f"{label if has_points else label.removeprefix('points ')}: {text}"


def _in_words(name: str, text: str) -> tuple[str, str]:
    """(label, figure) of a result called `name`: `export_s` is `export: 0.8 s`."""
    rest, _, unit = name.rpartition("_")
    if text and unit in {"s", "ms"} and not rest.endswith("_per"):
        name, text = rest, f"{text} {unit}"
    return _WORDS.get(name, name.replace("_", " ")), text


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (int, str)):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        text = ", ".join(map(str, value))
        return text if len(text) <= _LONG else ""
    return ""
