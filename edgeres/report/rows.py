"""One row per model of a run: what changed, what it cost, what it gained, or why that is not known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from edgeres.bench.validity import INVALID
from edgeres.core.amounts import counted
from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError, few_of
from edgeres.core.lineage import advised, source_of
from edgeres.core.records.recovery import WITHOUT_STEPS, marks_in, undone_in
from edgeres.core.runs import Run
from edgeres.core.safe_text import typed
from edgeres.core.stage import StageReport
from edgeres.models import modules_of
from edgeres.report.agreements import agreements_in, kept_agreements
from edgeres.report.boards import boards_in, boards_judging, boards_of, networks_on
from edgeres.report.claims import claims_from, claims_of, headline_from, headline_of
from edgeres.report.figures import Change, Changes, accuracy_figure, latency_figure
from edgeres.report.findings import LesionFigure, findings_in, verdicts_of
from edgeres.report.folder import (
    LOST,
    OF_REPORT,
    FileLine,
    FinishedStage,
    RunFolder,
    command_of,
    name_of,
    run_folder_from,
    state_of,
)
from edgeres.report.networks import (
    ENGINE_STAGE,
    FOR_TENSORRT,
    NOT_TIMED,
    StageNetwork,
    answers_in,
    board_in,
    held_against,
    latency_between,
    networks_in,
    points_between,
)
from edgeres.report.summary import ModuleState, NotRun, Row, RunSummary, StageDetail

Compare = Callable[[StageNetwork, StageNetwork], "Change | None"]
_ELSEWHERE = "an engine runs only on the GPU it was built for; judge accuracy on the ONNX file it was built from"


def rows_from(run: Path) -> RunSummary:
    """The summary of the run folder; raises InputError if nothing in it is finished."""
    folder = run_folder_from(run)
    networks, verdicts = networks_in(folder), verdicts_of(folder)
    steps = [_step(stage.report, one) for stage, one in zip(folder.networks, networks, strict=True)]
    judging = boards_judging(networks, folder)[1]
    board = next(reversed(judging or boards_of(folder, {one.sha256 for one in networks})), None)
    there = _rows(networks_on(board, networks, folder), steps, verdicts) if board else []
    rows = [_told(*pair) for pair in zip_longest(_rows(networks, steps, verdicts), there)]
    told = there if judging else rows
    claims, timed = claims_from(told, run=Run(run)), {row.sha256 for row in there if row.latency}
    found, unread = findings_in(folder)
    kept, unread_kept = kept_agreements(folder)
    boards, unread_boards = boards_in(folder)
    outdated = {one.stage for one in boards if not one.is_newest}
    files, changed = _lineage_of(folder)
    answers = found.get("frontier")
    handed_over = bool(answers and answers.results)
    return RunSummary(
        run=run.resolve().name,
        headline=headline_of(answers) if answers else headline_from(claims, told, run=Run(run), files=files),
        claims=claims_of(answers) if answers and handed_over else claims,
        rows=tuple(rows),
        rows_on_board=tuple(there if judging else ()),
        modules=_modules_from(folder.networks, found.get("lesion", ()), rows),
        agreements=agreements_in(networks),
        kept_agreements=kept,
        boards=boards,
        absent=tuple(
            line
            for row, seen in zip_longest(rows, there)
            for line in (() if handed_over else _absent_of(row, seen or row, board, timed, run=run))
        ),
        stages=tuple(_detail_from(stage, folder, outdated) for stage in folder.stages),
        recipe=folder.recipe,
        files=files,
        problems=(*folder.problems, *_lost_predictions(networks), *unread, *unread_kept, *unread_boards, *changed),
        **found,
    )


def _lost_predictions(networks: Sequence[StageNetwork]) -> Iterator[str]:
    for one in networks:
        named = one.accuracy.predictions if one.accuracy else None
        if named and one.predictions is None:
            lost = "is missing or damaged; changes of its accuracy have no interval"
            yield f"{one.name}: {named} {lost}: {advised('edgeres eval', one.file)}"


def _rows(networks: Sequence[StageNetwork], steps: Sequence[str], verdicts: dict[str, str]) -> list[Row]:
    plain = [_row_from(one, step, verdicts) for one, step in zip(networks, steps, strict=True)]
    return [_with_changes(index, plain, networks) for index in range(len(plain))]


def _told(row: Row, there: Row | None) -> Row:
    """The row, saying of what is not known here that a board has measured it."""
    missing = {}
    if there and there.latency and not row.latency:
        missing["latency_missing"] = f"timed on {board_in(there.latency.runtime)}"
    if there and there.accuracy and not row.accuracy:
        missing["accuracy_missing"] = f"judged on {board_in(there.accuracy.runtime)}"
    return row.model_copy(update=missing)


def _row_from(one: StageNetwork, step: str, verdicts: dict[str, str]) -> Row:
    same = ("name", "stage", "precision", "path", "sha256", "parent", "params", "macs", "size_bytes", "dropped")
    latency = latency_figure(one.latency)
    why = "built, not run here" if one.stage == ENGINE_STAGE else one.not_timed.partition(":")[0]
    return Row(
        what=step,
        accuracy=accuracy_figure(one.accuracy),
        accuracy_missing="" if one.accuracy or one.closeness else "not evaluated",
        closeness=one.closeness,
        metric=one.metric,
        latency=latency and latency.model_copy(update={"verdict": verdicts.get(latency.session, "")}),
        latency_missing="" if latency else why,
        latency_reason="" if one.not_timed == NOT_TIMED else one.not_timed,
        **{name: getattr(one, name) for name in same},
    )


def _with_changes(index: int, rows: Sequence[Row], measured: Sequence[StageNetwork]) -> Row:
    if index == 0:
        return rows[0]
    before = held_against(measured[index], measured)
    first = _changes(measured[index], [one for one in before if one is not measured[index]])
    whole = min(len(one.dropped) for one in before)
    if first.points and any(one.name == first.points.versus and len(one.dropped) > whole for one in before):
        first = first.model_copy(update={"points": None})  # the whole one was judged on other images, or not at all
    previous = _changes(measured[index], [measured[ancestor] for ancestor in _ancestors(index, rows)])
    return rows[index].model_copy(update={"versus_first": first, "versus_previous": previous})


def _changes(after: StageNetwork, candidates: Sequence[StageNetwork]) -> Changes:
    """Each figure against the first candidate it can be compared with."""

    def against(compare: Compare) -> Change | None:
        return next((change for one in candidates if (change := compare(one, after))), None)

    files = () if after.stage == ENGINE_STAGE else candidates  # an engine holds kernels for each GPU beside the weights
    sized = next((one for one in files if one.size_bytes and one.stage != ENGINE_STAGE), None)
    ratio = sized and Change(value=after.size_bytes / sized.size_bytes, versus=sized.name)
    return Changes(points=against(points_between), latency_ratio=against(latency_between), size_ratio=ratio)


def _ancestors(index: int, rows: Sequence[Row]) -> Iterator[int]:
    """Positions of parent, grandparent, ...; the row before stands in for a parent outside the run."""
    while index > 0:
        made = [place for place, row in enumerate(rows[:index]) if row.sha256 == rows[index].parent]
        index = made[-1] if made else index - 1
        yield index


def _modules_from(
    models: Sequence[FinishedStage], lesion: Sequence[LesionFigure], rows: Sequence[Row]
) -> tuple[ModuleState, ...]:
    """Modules in order of execution: from the first checkpoint's spec, otherwise from the lesion table."""
    dropped = {name for row in (answers_in(rows) or rows)[-1:] for name in row.dropped}
    kinds: dict[str, str] = {}
    for stage in models:
        path = stage.path / Path(stage.report.output.path).name if stage.report.output else stage.path
        if path.suffix == Checkpoint.suffix and not kinds:
            with suppress(InputError):  # gone, damaged, or of a network that is not known
                kinds = {info.name: info.kind for info in modules_of(Checkpoint(path).spec)}
    kinds = kinds or {entry.module: entry.kind for entry in lesion}
    return tuple(ModuleState(name=name, kind=kind, dropped=name in dropped) for name, kind in kinds.items())


def _detail_from(stage: FinishedStage, folder: RunFolder, outdated: Set[str]) -> StageDetail:
    """`outdated`: what boards have measured again since."""
    shared = {"stage", "duration_s", "created", "config", "notes", "source", "output", "environment"}
    timed = stage.report.latency if stage.report.stage == "bench" else ()
    later = [one.name for one in folder.stages[folder.stages.index(stage) + 1 :]]
    is_timed_again = bool(timed) and all(folder.timings[one.artifact][0].stage.name in later for one in timed)
    return StageDetail(
        name=stage.name,
        warnings=_warnings(stage),
        command=command_of(stage, folder.stages),
        superseded=stage.name in outdated or is_timed_again,
        **stage.report.model_dump(include=shared),
    )


def _warnings(stage: FinishedStage) -> tuple[str, ...]:
    """Of an invalid session the verdict first; it is said once where the first warning is its reason."""
    verdict = stage.report.results.get("verdict")
    if stage.report.stage != "bench" or not isinstance(verdict, str) or not verdict.startswith(INVALID):
        return tuple(stage.warnings)
    reason = verdict.removeprefix(f"{INVALID}: ").partition(" (and ")[0]
    if stage.warnings and stage.warnings[0].startswith(reason):
        return (f"{INVALID}: {stage.warnings[0]}", *stage.warnings[1:])
    return (verdict, *stage.warnings)


def _absent_of(row: Row, there: Row, board: str | None, timed: Set[str | None], *, run: Path) -> Iterator[NotRun]:
    """One line for each kind of measurement of a network that neither this machine nor the board has made."""
    path, on = run / row.path, board or "BOARD"
    if row.stage == ENGINE_STAGE:
        if row.latency is None and not timed & {row.sha256, row.parent}:
            todo = advised("edgeres bench", source_of(path) or "MODEL.onnx", on=on)
            yield NotRun(name=row.path, what="built, not run here", why=_ELSEWHERE, todo=todo)
        return
    if not row.is_judged and not there.is_judged:
        yield NotRun(name=row.path, what="accuracy", why=row.accuracy_missing, todo=advised("edgeres eval", path))
    if row.latency is None and there.latency is None:
        is_for_a_board = FOR_TENSORRT in row.latency_reason
        todo = advised("edgeres bench", path, on=on) if is_for_a_board else advised("edgeres bench", Run(run))
        why = (row.latency_reason or row.latency_missing).partition(";")[0]
        yield NotRun(name=row.path, what="latency", why=why, todo=todo)


def _step(report: StageReport, made: StageNetwork) -> str:
    what = _STEPS[report.stage](report) if report.stage in _STEPS else ""
    return "; ".join(filter(None, (what, made.told_same)))


def _train(report: StageReport) -> str:
    config, epochs = report.config, report.config.get("epochs")
    length = "" if epochs is None else f", {counted(epochs, 'epoch')}"
    return f"{config.get('arch', 'network')}{_after(' on ', config.get('data'))}{length}"


def _prune(report: StageReport) -> str:
    chosen = report.results.get("chosen")
    names, methods = _listed(chosen if isinstance(chosen, list) else report.dropped), report.config.get("recover")
    recovery = report.results.get("recovery") or {"methods": methods}
    return f"dropped {names or 'nothing'}{_after('; ', names and methods and _recovered(recovery))}"


def _recovered(results: Mapping[str, Any]) -> str:
    """`trained what is left by mimic, 2 epochs`, `refitted what is left by solve`, or why it is as it was."""
    undone, marks, epochs = undone_in(results), marks_in(results), results.get("epochs")
    if undone and not marks:
        of = {why: _listed([one for one in undone if undone[one] == why]) for why in undone.values()}
        return f"left as it was: {', '.join(f'{names} {why}' for why, names in of.items())}"
    if marks and WITHOUT_STEPS.issuperset(marks):
        return f"refitted what is left by {_listed(marks)}"
    return f"trained what is left{_after(' by ', _listed(marks))}{_after(', ', epochs and counted(epochs, 'epoch'))}"


def _listed(names: object) -> str:
    return ", ".join(map(str, names)) if isinstance(names, (list, tuple)) else ""


def _after(word: str, value: object) -> str:
    return f"{word}{value}" if value else ""


# What a stage did to the network in a few words, as `dropped layer2.1, layer3.4`
_STEPS: dict[str, Callable[[StageReport], str]] = {
    "import": lambda of: (
        (of.config.get("arch") or "weights")
        + _after(" from ", Path(str(of.config.get("file") or "")).name)
        + _after(", less ", few_of(of.dropped) if of.dropped else "")
    ),
    "train": _train,
    "prune": _prune,
    "recover": lambda of: _recovered(of.results),
    "export": lambda of: f"ONNX{_after(' opset ', of.results.get('opset'))}, batch {of.results.get('batch') or 'open'}",
    "quantize": lambda of: f"INT8 Q/DQ{_after(', calibrated by ', of.config.get('method'))}",
    "compile": lambda of: f"engine{_after(' for ', _listed(of.results.get('targets') or of.config.get('targets')))}",
}


def _lineage_of(folder: RunFolder) -> tuple[tuple[FileLine, ...], tuple[str, ...]]:
    """Every file that a stage's report names, in order, and what is gone or changed."""
    files = tuple(_line(stage, folder) for stage in folder.stages if stage.report.output)
    lost = (one for one in files if one.state in LOST)
    return files, tuple(f"{one.path}: {LOST[one.state]}, {OF_REPORT}; {_again(one, files, folder)}" for one in lost)


def _again(lost: FileLine, files: Iterable[FileLine], folder: RunFolder) -> str:
    """How the file becomes what its report speaks of: by a stage that made the same, where one has."""
    paths = (folder.path / one.path for one in files if (one.sha256, one.state) == (lost.sha256, "here"))
    if mate := next((path for path in paths if path.is_file()), None):
        return f"put it back: cp {typed(mate)} {typed(folder.path / lost.path)}"
    return "make it again with the command under Lineage"


def _line(stage: FinishedStage, folder: RunFolder) -> FileLine:
    report, output, source = stage.report, stage.report.output, stage.report.source
    assert output is not None
    path = f"{stage.name}/{name_of(stage)}"
    return FileLine(
        path=path,
        stage=report.stage,
        size_bytes=output.size_bytes,
        sha256=output.sha256,
        parent=source.sha256 if source else None,
        made_from=(folder.name_of(source) or source.path) if source else "",
        state=state_of(folder.path / path, output.sha256, folder.copies(output.sha256)),
        command=command_of(stage, folder.stages),
    )
