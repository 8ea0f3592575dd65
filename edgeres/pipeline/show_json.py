"""What a JSON file of edgeres says, told by its `kind`: one reader for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeres.core.config import bytes_in, record_from_text
from edgeres.core.errors import InputError
from edgeres.core.plain import short
from edgeres.core.stage import StageReport
from edgeres.pipeline.schemas import SCHEMAS, schema_in
from edgeres.report.wording import accuracy_line, latency_line

if TYPE_CHECKING:
    from edgeres.core.records.latency import LatencyTable
    from edgeres.core.records.scales import ScaleTable
    from edgeres.core.records.sweep import Sweep
    from edgeres.report.summary import RunSummary
    from edgeres.study.lesion_table import LesionTable
    from edgeres.study.result import Study

_NO_SUCH = "is JSON, but no file of edgeres (known: {known})"


def json_exhibit(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the file's content, lines about it); raises InputError if it is absent, damaged or of no known kind."""
    text = bytes_in(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path} is not readable JSON, damaged or cut off: {err}") from err
    name = schema_in(content)
    if name == "manifest":
        raise InputError(f"{path} is an engine's manifest under another name; call it as the plan, and .json")
    if name not in _READERS:
        raise InputError(f"{path} {_NO_SUCH.format(known=', '.join(_READERS))}")
    record = record_from_text(SCHEMAS[name].kind(), text, str(path))
    return {"file": str(path), **content}, (f"{path}", *_READERS[name](record))


def _scales(table: ScaleTable) -> Iterable[str]:
    yield f"scales of {len(table.tensors)} tensors for the ONNX file {short(table.model_sha256)}"
    yield f"calibrated on {table.n} images of {table.dataset} {table.split}, seed {table.seed}"
    yield "amax by method:"
    figures = {
        name: (scale.minimum, scale.maximum, *map(scale.amax.get, table.methods))
        for name, scale in table.tensors.items()
    }
    rows = [[name, *("-" if one is None else f"{one:.4g}" for one in row)] for name, row in figures.items()]
    yield from aligned(["tensor", "min", "max", *table.methods], rows)


def _lesions(table: LesionTable) -> Iterable[str]:
    yield f"lesions of {table.network or 'a network'}, checkpoint {short(table.model_sha256)}"
    yield f"whole: {accuracy_line(table.whole.accuracy)}"
    rows = [
        [one.module, one.kind, f"{one.cost.value:.2f}", f"+- {one.half_width_points:.2f}", f"{one.kl:.3g}"]
        for one in table.table
    ]
    yield from aligned(["without", "kind", "points lost", "95 %", "KL"], rows)
    for claim in table.claims:
        yield f"{claim.claim} ({claim.source}): {claim.verdict}, {claim.because}"


def _latencies(table: LatencyTable) -> Iterable[str]:
    kept = table.conditions
    yield f"latency of every module of {table.spec.variant}, checkpoint {short(table.model_sha256)}"
    yield f"{table.runtime}, batch {kept.batch}, {kept.threads or 'all'} threads, {kept.precision}, {table.machine}"
    yield f"whole: {table.whole_ms.text('.4f')} ms; outside the modules: {table.rest_ms:.4f} ms"
    rows = [[row.module, row.kind, row.shape, row.saved_ms.text(".4f")] for row in table.table]
    yield from aligned(["module", "kind", "shape", "saves ms"], rows)


def _study(study: Study) -> Iterable[str]:
    yield f"study {study.name}: {study.verdict}"
    yield f"claim: {study.claim} ({study.source})"
    yield f"because: {study.because}"
    seeds = ", ".join(map(str, study.seeds))
    yield f"{study.setting} setting, {study.data}, n = {study.n:,}, seeds {seeds}, {', '.join(study.networks)}"
    yield f"{len(study.rows)} rows in the .csv file beside it"


def _sweep(sweep: Sweep) -> Iterable[str]:
    yield f"sweep of checkpoint {short(sweep.model_sha256)}, recovered by {', '.join(sweep.recover) or 'nothing'}"
    yield f"{sweep.runtime}, batch {sweep.batch}, {sweep.threads} threads, {sweep.machine}"
    rows = [
        [
            str(row.count),
            f"{100 * row.final.accuracy.top1:.2f} %",
            f"{row.final.lost_points:.2f} +- {row.final.half_width_points:.2f}",
            f"{row.macs:,}",
            row.latency_ms.text(".4f") if row.latency_ms else "not timed",
            ", ".join(row.dropped) or "none",
        ]
        for row in sweep.rows
    ]
    yield from aligned(["drop", "top-1", "points lost", "MACs", "p50 ms", "modules"], rows, ends_in_words=True)


def _stage_report(report: StageReport) -> Iterable[str]:
    yield f"report of the stage {report.stage}, {report.created}, {report.duration_s:.1f} s"
    yield f"machine: {report.environment.machine}"
    for name, ref in (("source", report.source), ("output", report.output)):
        if ref is not None:
            yield f"{name}: {ref.path} ({short(ref.sha256)}, {ref.size_bytes:,} bytes)"
    options = {name: value for name, value in report.config.items() if value not in (None, [], "")}
    yield f"options: {', '.join(f'{name} {value}' for name, value in options.items()) or 'none'}"
    yield from map(accuracy_line, report.accuracy)
    yield from map(latency_line, report.latency)
    yield from (f"warning: {warning}" for warning in report.warnings)


def _run_report(summary: RunSummary) -> Iterable[str]:
    yield f"report of the run {summary.run}: {summary.headline}"
    yield from (f"  {row.path}: {row.what or row.stage}" for row in summary.rows)


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]], *, ends_in_words: bool = False) -> list[str]:
    """A table in columns two spaces apart: figures to the right, the first column and a last one of words left."""
    table = [list(head), *map(list, rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[0] = f"{row[0]:{widths[0]}}"
        if ends_in_words:
            cells[-1] = row[-1]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


_READERS: dict[str, Callable[[Any], Iterable[str]]] = {
    "scales": _scales,
    "lesions": _lesions,
    "latencies": _latencies,
    "study": _study,
    "sweep": _sweep,
    "stage-report": _stage_report,
    "run-report": _run_report,
}
