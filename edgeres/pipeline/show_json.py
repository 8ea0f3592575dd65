"""What a JSON file of edgeres says, told by its `kind`: one reader for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.statistics import Interval
from edgeres.pipeline.schemas import schema_in

_SHA_SHOWN = 12
_NO_SUCH = "is JSON, but no file of edgeres (known: {known})"

Content = dict[str, Any]
Shown = tuple[Content, tuple[str, ...]]


def json_exhibit(path: Path) -> Shown:
    """(the file's content, lines about it); raises InputError if it is absent, damaged or of no known kind."""
    content = _content_of(path)
    name = schema_in(content)
    if name == "manifest":
        raise InputError(f"{path} is an engine's manifest under another name; call it as the plan, and .json")
    if name not in _READERS:
        raise InputError(f"{path} {_NO_SUCH.format(known=', '.join(_READERS))}")
    return {"file": str(path), **content}, (f"{path}", *_READERS[name](path))


def _content_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise InputError(f"{path} does not exist") from err
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path} is not readable JSON, damaged or cut off: {err}") from err


def _scales(path: Path) -> Iterable[str]:
    from edgeres.core.records.scales import ScaleTable

    table = record_from_json(ScaleTable, path)
    yield f"scales of {len(table.tensors)} tensors for the ONNX file {_short(table.model_sha256)}"
    yield f"calibrated on {table.n} images of {table.dataset} {table.split}, seed {table.seed}"
    yield "amax by method:"
    rows = [
        [name, f"{scale.minimum:.4g}", f"{scale.maximum:.4g}", *(_number(scale.amax.get(m)) for m in table.methods)]
        for name, scale in table.tensors.items()
    ]
    yield from aligned(["tensor", "min", "max", *table.methods], rows)


def _lesions(path: Path) -> Iterable[str]:
    from edgeres.study.lesion_table import LesionTable

    table = record_from_json(LesionTable, path)
    accuracy = table.whole.accuracy
    yield f"lesions of {table.network or 'a network'}, checkpoint {_short(table.model_sha256)}"
    yield f"whole: top-1 {100 * accuracy.top1:.2f} %, n = {accuracy.n:,}, {accuracy.dataset} {accuracy.split}"
    rows = [
        [one.module, one.kind, f"{one.change_points:+.2f}", f"+- {one.half_width_points:.2f}", f"{one.kl:.3g}"]
        for one in table.table
    ]
    yield from aligned(["without", "kind", "points", "95 %", "KL"], rows)
    for claim in table.claims:
        yield f"{claim.claim} ({claim.source}): {claim.verdict}, {claim.because}"


def _latencies(path: Path) -> Iterable[str]:
    from edgeres.core.records.latency import LatencyTable

    table = record_from_json(LatencyTable, path)
    kept = table.conditions
    yield f"latency of every module of {table.spec.variant}, checkpoint {_short(table.model_sha256)}"
    yield f"{table.runtime}, batch {kept.batch}, {kept.threads or 'all'} threads, {kept.precision}, {table.machine}"
    yield f"whole: {_interval(table.whole_ms)} ms; outside the modules: {table.rest_ms:.4f} ms"
    rows = [[row.module, row.kind, row.shape, f"{row.saved_ms.value:.4f}", _range(row.saved_ms)] for row in table.table]
    yield from aligned(["module", "kind", "shape", "saves ms", "95 %"], rows)


def _study(path: Path) -> Iterable[str]:
    from edgeres.study.result import Study

    study = record_from_json(Study, path)
    yield f"study {study.name}: {study.verdict}"
    yield f"claim: {study.claim} ({study.source})"
    yield f"because: {study.because}"
    seeds = ", ".join(map(str, study.seeds))
    yield f"{study.setting} setting, {study.data}, n = {study.n:,}, seeds {seeds}, {', '.join(study.networks)}"
    yield f"{len(study.rows)} rows in the .csv file beside it"


def _sweep(path: Path) -> Iterable[str]:
    from edgeres.core.records.sweep import Sweep

    sweep = record_from_json(Sweep, path)
    yield f"sweep of checkpoint {_short(sweep.model_sha256)}, recovered by {', '.join(sweep.recover) or 'nothing'}"
    yield f"{sweep.runtime}, batch {sweep.batch}, {sweep.threads} threads, {sweep.machine}"
    rows = [
        [
            str(row.count),
            f"{100 * row.final.accuracy.top1:.2f} %",
            f"{row.final.change_points:+.2f} +- {row.final.half_width_points:.2f}",
            f"{row.macs:,}",
            _interval(row.latency_ms) if row.latency_ms else "not timed",
            ", ".join(row.dropped) or "none",
        ]
        for row in sweep.rows
    ]
    yield from aligned(["drop", "top-1", "points", "MACs", "p50 ms", "modules"], rows, ends_in_words=True)


def _stage_report(path: Path) -> Iterable[str]:
    from edgeres.core.stage import StageReport

    report = record_from_json(StageReport, path)
    yield f"report of the stage {report.stage}, {report.created}, {report.duration_s:.1f} s"
    yield f"machine: {report.environment.machine}"
    for name, ref in (("source", report.source), ("output", report.output)):
        if ref is not None:
            yield f"{name}: {ref.path} ({_short(ref.sha256)}, {ref.size_bytes:,} bytes)"
    options = {name: value for name, value in report.config.items() if value not in (None, [], "")}
    yield f"options: {', '.join(f'{name} {value}' for name, value in options.items()) or 'none'}"
    for accuracy in report.accuracy:
        judged = f"{accuracy.dataset} {accuracy.split}, {accuracy.runtime}"
        yield f"top-1 {100 * accuracy.top1:.2f} %, n = {accuracy.n:,}, {judged}"
    for latency in report.latency:
        yield f"p50 {latency.p50_ms:.3f} ms, p99 {latency.p99_ms:.3f} ms, batch {latency.batch}, {latency.runtime}"
    yield from (f"warning: {warning}" for warning in report.warnings)


def _run_report(path: Path) -> Iterable[str]:
    from edgeres.report.summary import RunSummary

    summary = record_from_json(RunSummary, path)
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


def _short(sha256: str) -> str:
    return sha256[:_SHA_SHOWN]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _interval(figure: Interval) -> str:
    return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"


def _range(figure: Interval) -> str:
    return f"{figure.low:.4f} to {figure.high:.4f}"


_READERS: dict[str, Callable[[Path], Iterable[str]]] = {
    "scales": _scales,
    "lesions": _lesions,
    "latencies": _latencies,
    "study": _study,
    "sweep": _sweep,
    "stage-report": _stage_report,
    "run-report": _run_report,
}
