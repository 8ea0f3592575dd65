"""What a file, a run, a recipe or an architecture is: the content of `edgeres show`, as data and as lines.

Every JSON that edgeres writes has a schema by name: which record it holds and where it is found. A file is told by its
`kind`, and has one reader for each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import as_file
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from edgeres.core.amounts import counted
from edgeres.core.config import bytes_in, json_schema_of, record_from_text, toml_from
from edgeres.core.distances import LOST_OF, NAME_OF
from edgeres.core.errors import InputError, did_you_mean
from edgeres.core.names import lookup, resolve
from edgeres.core.records import frontier, sweep
from edgeres.core.records.latency import LatencyTable
from edgeres.core.records.lesion import Lesion, Refitted
from edgeres.core.records.scales import ScaleTable
from edgeres.core.runs import LATEST, Run, latest_run, runs_in_root, runs_root
from edgeres.core.safe_text import short
from edgeres.core.stage import StageReport
from edgeres.models import example_variants
from edgeres.pipeline.recipe import shipped_recipes
from edgeres.pipeline.show_model import SUFFIXES, Facts, facts_of_arch, facts_of_file
from edgeres.report.summary import RunSummary
from edgeres.report.wording import accuracy_line, closeness_line, latency_line, size

if TYPE_CHECKING:
    from edgeres.study.lesion_table import LesionTable
    from edgeres.study.result import Study

_MANIFEST_SUFFIX = ".plan.json"
_BELOW = ("modules", "size_bytes", "params", "macs", "classes")  # of a network of ours, said below its other facts
_NAME_SHOWN = 80
_FOREIGN = frozenset(
    {".pt", ".pth", ".th", ".bin", ".ckpt", ".pt2"}
)  # refused by name, with what to do, by `model_from`
_UNKNOWN = ("unknown architecture", "unknown variant")  # other refusals say what is wrong with a known name


class Schema(NamedTuple):
    """`record` as "module:class"; `found` says in which file, or what prints it."""

    record: str
    found: str

    def kind(self) -> type[BaseModel]:
        """The class of the content."""
        kind: type[BaseModel] = resolve(self.record)
        return kind


SCHEMAS = {
    "stage-report": Schema("edgeres.core.stage:StageReport", "NN-STAGE/report.json, eval.json, FILE.report.json"),
    "run-report": Schema("edgeres.report.summary:RunSummary", "runs/NAME/report.json"),
    "card": Schema("edgeres.core.spec:Card", "metadata of .safetensors and .onnx files, key edgeres"),
    "manifest": Schema("edgeres.runtime.manifest:EngineManifest", "FILE.plan.json"),
    "scales": Schema("edgeres.core.records.scales:ScaleTable", "scales.json of calibrate"),
    "lesions": Schema("edgeres.study.lesion_table:LesionTable", "lesions.json of lesion"),
    "latencies": Schema("edgeres.core.records.latency:LatencyTable", "latency.json of bench --per-module"),
    "study": Schema("edgeres.study.result:Study", "study.json of study"),
    "sweep": Schema("edgeres.core.records.sweep:Sweep", "sweep.json of prune --sweep"),
    "frontier": Schema("edgeres.core.records.frontier:Frontier", "frontier.json of optimize"),
    "gate": Schema("edgeres.report.gate:GateReport", "gate --json"),
    "changes": Schema("edgeres.report.changes:RunChanges", "compare RUN RUN --json"),
    "versus": Schema("edgeres.bench.versus:Versus", "compare MODEL MODEL --json"),
    "rerun": Schema("edgeres.pipeline.rerun:Rerun", "rerun --json"),
    "lint": Schema("edgeres.quantize.lint.call:LintReport", "lint --json"),
    "agreement": Schema("edgeres.evaluate.agreement:Agreement", "agree --json, agree.json"),
    "layers": Schema("edgeres.compile.layer_report:LayerReport", "layers --json"),
    "diagnosis": Schema("edgeres.core.environment:Diagnosis", "doctor --json"),
    "board": Schema("edgeres.bench.board_answers:BoardFound", "board check --json"),
    "board-diagnosis": Schema("edgeres.bench.board_facts:BoardDiagnosis", "doctor --on NAME --json"),
}

_BY_KIND = ("scales", "lesions", "latencies", "study", "sweep", "frontier")
_BY_FIELDS = {
    "stage-report": {"stage", "config", "environment"},
    "run-report": {"run", "rows", "headline"},
    "manifest": {"card", "plan_sha256"},
}


def schema_named(name: str) -> dict[str, Any]:
    """The JSON Schema called `name`; raises InputError if there is none."""
    return json_schema_of(lookup(SCHEMAS, name, "schema").kind(), name)


def schema_in(content: Any) -> str | None:
    """The schema of parsed JSON, told by its `kind` or its fields; None if it is none of those in files."""
    if not isinstance(content, dict):
        return None
    if (kind := content.get("kind")) is not None:
        return kind if isinstance(kind, str) and kind in _BY_KIND else None
    return next((name for name, fields in _BY_FIELDS.items() if fields <= content.keys()), None)


class Exhibit(NamedTuple):
    """`content` for --json, `lines` for people."""

    content: Facts
    lines: tuple[str, ...]


def exhibit_of(name: str) -> Exhibit:
    """Of the file or run folder `name`, of the architecture, run or recipe called so.

    Raises InputError, in one line, for what is none of these or cannot be read.
    """
    path = Path(name)
    if not name:
        raise InputError("the name is empty; name a file, a run or an architecture")
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as err:
        raise InputError(f"cannot read {name[:_NAME_SHOWN]}: {err.strerror}") from err
    if is_folder:
        return _run_exhibit(path)
    if path.suffix == ".toml":
        return _recipe_exhibit(path)
    if is_file or path.suffix or "/" in name:
        return _file_exhibit(path)
    return _named_exhibit(name)


def _named_exhibit(name: str) -> Exhibit:
    try:
        return _facts_exhibit(facts_of_arch(name))
    except InputError as err:
        if name == LATEST or (runs_root() / name).is_dir():
            return _run_exhibit(runs_root() / name if name != LATEST else latest_run().path)
        if name in shipped_recipes():
            return _recipe_exhibit(Path(f"{name}.toml"))
        if not str(err).startswith(_UNKNOWN):
            raise
        known = [*example_variants(), *(run.name for run in runs_in_root()), *shipped_recipes()]
        hint = did_you_mean(name, known)
        raise InputError(
            f"{name!r} is no file, architecture, run or recipe{hint} (see: edgeres ls models, edgeres ls runs)"
        ) from err


def _file_exhibit(path: Path) -> Exhibit:
    if path.name.endswith(_MANIFEST_SUFFIX):
        path = path.with_name(path.name.removesuffix(".json"))
    if path.suffix == ".json":
        return _json_exhibit(path)
    if path.suffix.lower() not in SUFFIXES | _FOREIGN:
        takes = "a .safetensors, .onnx, .plan or .json file, a run folder, an architecture or a recipe"
        raise InputError(f"{path} is not what show takes: {takes}" if path.is_file() else f"{path} does not exist")
    return _facts_exhibit(facts_of_file(path))


def _recipe_exhibit(path: Path) -> Exhibit:
    """The recipe as it is written, to be copied and changed; one that is shipped where there is no file `path`."""
    if path.is_file() or path.stem not in shipped_recipes():
        content = toml_from(path)
        return Exhibit(content, tuple(path.read_text(encoding="utf-8").splitlines()))
    with as_file(shipped_recipes()[path.stem]) as file:
        return _recipe_exhibit(file)


def _run_exhibit(path: Path) -> Exhibit:
    from edgeres.report.rows import rows_from

    if not Run(path).folders():
        raise InputError(f"{path} is no run: it holds no stage folder such as 00-train (see: edgeres ls runs)")
    summary = rows_from(path)
    lines = [f"{_key('run')}{summary.run}", f"{_key('in short')}{summary.headline}"]
    what = {one.stage: f"{one.model} on {one.board.name}" for one in summary.boards}
    what |= {row.name: row.what for row in summary.rows}
    for stage in summary.stages:
        made = f"{Path(stage.output.path).name}, {size(stage.output.size_bytes)}" if stage.output else ""
        lines.append(f"  {stage.name:16}{'; '.join(filter(None, (what.get(stage.name), made)))}".rstrip())
    warned = summary.warned(f"edgeres report {Run(path).typed}")
    lines += [f"  warning: {problem}" for problem in (*summary.problems, *warned)]
    if aside := Run(path).set_aside:
        lines.append(f"  replaced since, in no figure, may be deleted: {aside}")
    return Exhibit(summary.model_dump(mode="json"), tuple(lines))


def _facts_exhibit(facts: Facts) -> Exhibit:
    """`key:   value` of everything that is there; of a network of ours its cost, classes and modules last."""
    is_ours = "modules" in facts
    shown = {key: value for key, value in facts.items() if not (is_ours and key in _BELOW)}
    lines = [
        f"{_key(key)}{_text_of(value, key)}"
        for key, value in shown.items()
        if value not in (None, {}, [], "") or key == "macs"
    ]
    if is_ours and "params" in facts:
        cost = f"{facts['params']:,} parameters, {facts['macs']:,} MACs"
        lines.append(f"{_key('size')}{size(facts['size_bytes'])}, {cost}")
    if is_ours and facts.get("classes"):
        lines.append(f"{_key('classes')}{', '.join(facts['classes'])}")
    return Exhibit(facts, (*lines, *_module_lines(facts.get("modules", []))))


def _module_lines(modules: list[Facts]) -> list[str]:
    if not modules:
        return []
    labels = [(one["name"], "dropped" if one["dropped"] else one.get("precision") or "kept") for one in modules]
    dropped = sum(one["dropped"] for one in modules)
    kept = f", {dropped} dropped [----]" if dropped else ""
    names, kinds = (max(12, *(len(one[key]) + 2 for one in modules)) for key in ("name", "kind"))
    lines = [f"{counted(len(modules), 'module')}{kept}", *drawing_of(labels), ""]
    for one in modules:
        a, b = one["channels"]
        stride = f", stride {one['stride']}" if one["stride"] > 1 else ""
        shape = f"{a if a == b else f'{a} -> {b}'} channels{stride}"
        state = "dropped" if one["dropped"] else one.get("precision") or ""
        lines.append(f"  {one['name']:{names}}{one['kind']:{kinds}}{shape:30}{state}".rstrip())
    return lines


def drawing_of(modules: Iterable[tuple[str, str]], width: int = 80) -> list[str]:
    """One box a module, a line a stage: `layer1  [INT8][----][FP32]`.

    modules: (name, label), label `dropped` or a precision; of a mixed one the box says MIX.
    """
    stages: dict[str, list[str]] = {}
    for name, label in modules:
        stages.setdefault(name.rpartition(".")[0] or name, []).append(_box(label))
    indent = max((len(stage) for stage in stages), default=0) + 2
    lines = []
    for stage, boxes in stages.items():
        room = max(1, (width - indent) // len(boxes[0]))
        parts = ["".join(boxes[start : start + room]) for start in range(0, len(boxes), room)]
        lines += [f"{stage if index == 0 else '':{indent}}{part}" for index, part in enumerate(parts)]
    return lines


def _box(label: str) -> str:
    if label == "dropped":
        return "[----]"
    text = "MIX" if " of " in label or "+" in label else label.upper()
    return f"[{text[:4]:^4}]"


def _text_of(value: Any, key: str = "") -> str:
    """Plain words for nested data."""
    if value is None:
        return "unknown"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text_of(item)}" for key, item in value.items() if item is not None)
    joint = " <- " if key == "lineage" else ", "
    return joint.join(map(_text_of, value)) if isinstance(value, (list, tuple)) else str(value)


def _key(key: str) -> str:
    words = key.replace("_", " ")
    return f"{words + ':':16}" if len(words) < 15 else f"{words}: "


def _json_exhibit(path: Path) -> Exhibit:
    """Of a JSON file; raises InputError if it is absent, damaged or of no known kind."""
    text = bytes_in(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as err:
        raise InputError(f"{path} is not readable JSON, damaged or cut off: {err}") from err
    name = schema_in(content)
    if name == "manifest":
        raise InputError(f"{path} is an engine's manifest under another name; call it as the plan, and .json")
    if name not in _READERS:
        raise InputError(f"{path} is JSON, but no file of edgeres (known: {', '.join(_READERS)})")
    record = record_from_text(SCHEMAS[name].kind(), text, str(path))
    return Exhibit({"file": str(path), **content}, (f"{path}", *_READERS[name](record)))


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


def _lost(one: Lesion | Refitted) -> list[str]:
    return [f"{one.cost.value:.2f}", f"+- {one.half_width_points:.2f}", f"{one.kl:.3g}"]


def _lesions(table: LesionTable) -> Iterable[str]:
    yield f"lesions of {table.network or 'a network'}, checkpoint {short(table.model_sha256)}"
    if table.whole.accuracy:
        yield f"whole: {accuracy_line(table.whole.accuracy)}"
    measure = table.whole.measure
    lost = ["points lost" if measure == "kl" else f"{LOST_OF[measure]} lost", "95 %", NAME_OF[measure]]
    heads, rows = ["without", "kind", *lost], [[one.module, one.kind, *_lost(one)] for one in table.table]
    if any(one.refitted for one in table.table):
        heads += [f"{head}, refitted" for head in lost]
        rows = [
            [*row, *(_lost(one.refitted) if one.refitted else ())] for row, one in zip(rows, table.table, strict=True)
        ]
    yield from aligned(heads, rows)
    for claim in table.claims:
        yield f"{claim.claim} ({claim.source}): {claim.verdict}, {claim.because}"


def _latencies(table: LatencyTable) -> Iterable[str]:
    yield f"latency of every module of {table.spec.variant}, checkpoint {short(table.model_sha256)}; {table.machine}"
    yield from table.lines()


def _study(study: Study) -> Iterable[str]:
    yield f"study {study.name}: {study.verdict}"
    yield f"claim: {study.claim} ({study.source})"
    yield f"because: {study.because}"
    seeds = ", ".join(map(str, study.seeds))
    yield f"{study.setting} setting, {study.data}, n = {study.n:,}, seeds {seeds}, {', '.join(study.networks)}"
    yield f"{len(study.rows)} rows in the .csv file beside it"


def _sweep(found: sweep.Sweep) -> Iterable[str]:
    yield f"sweep of checkpoint {short(found.model_sha256)}; {found.machine}"
    yield from sweep.lines_of(found)


def _frontier(found: frontier.Frontier) -> Iterable[str]:
    yield f"what optimize found for checkpoint {short(found.model_sha256)}; {found.machine}"
    yield from frontier.lines_of(found)


def _stage_report(report: StageReport) -> Iterable[str]:
    yield f"report of the stage {report.stage}, {report.created}, {report.duration_s:.1f} s"
    yield f"machine: {report.environment.machine}"
    for name, ref in (("source", report.source), ("output", report.output)):
        if ref is not None:
            yield f"{name}: {ref.path} ({short(ref.sha256)}, {ref.size_bytes:,} bytes)"
    options = {name: value for name, value in report.config.items() if value not in (None, [], "")}
    yield f"options: {', '.join(f'{name} {value}' for name, value in options.items()) or 'none'}"
    yield from map(accuracy_line, report.accuracy)
    yield from map(closeness_line, report.closeness)
    yield from map(latency_line, report.latency)
    yield from report.notes
    yield from (f"warning: {warning}" for warning in report.warnings)


def _run_report(summary: RunSummary) -> Iterable[str]:
    yield f"report of the run {summary.run}: {summary.headline}"
    yield from (f"  {row.path}: {row.what or row.stage}" for row in summary.rows)


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in columns two spaces apart: figures to the right, the first column left."""
    table = [list(head), *map(list, rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        cells[0] = f"{row[0]:{widths[0]}}"
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


_READERS: dict[str, Callable[[Any], Iterable[str]]] = {
    "scales": _scales,
    "lesions": _lesions,
    "latencies": _latencies,
    "study": _study,
    "sweep": _sweep,
    "frontier": _frontier,
    "stage-report": _stage_report,
    "run-report": _run_report,
}
