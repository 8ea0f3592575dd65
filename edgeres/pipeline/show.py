"""What a file, a run or an architecture is: the content of `edgeres show`, as data and as lines for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path
from typing import Any

from edgeres.core.artifacts import (
    MODEL_KINDS,
    Checkpoint,
    Engine,
    Model,
    OnnxModel,
    model_from,
    safetensors_header,
)
from edgeres.core.config import record_from_json, toml_from
from edgeres.core.errors import InputError, did_you_mean
from edgeres.core.runs import Run, run_holding, runs_root
from edgeres.core.spec import FROM_ONNX
from edgeres.core.stage import FileRef, StageReport
from edgeres.models import example_variants
from edgeres.pipeline.recipe import shipped_recipes
from edgeres.pipeline.teacher import REPORT_SUFFIX
from edgeres.report.describe import description_of
from edgeres.report.precision import OUTSIDE, as_label, drawing_of, module_precisions
from edgeres.report.wording import size

_MANIFEST_SUFFIX = ".plan.json"
_HIDDEN = ("modules", "size_bytes", "params", "macs", "classes")
_SHA_SHOWN = 12
_NAME_SHOWN = 80
_LENGTH_BYTES = 8  # of the header, at the start of a safetensors file
_SHOWN_ALREADY = {
    "schema_version",
    "card",
    "runtime",
    "runtime_version",
    "targets",
    "precision",
    "onnx_sha256",
    "plan_sha256",
}
_TAKES = "show takes a .safetensors, .onnx, .plan or .json file of edgeres, a run folder, an architecture or a recipe"
_OTHERS = {
    ".html": "a page for reading",
    ".md": "a text for reading",
    ".csv": "a table for reading",
    ".svg": "a figure for reading",
    ".npy": "an array of NumPy",
}
_FOREIGN = frozenset({".pt", ".pth", ".th", ".bin", ".ckpt"})  # refused by name, with what to do, by `model_from`
_SUFFIXES = {kind.suffix for kind in MODEL_KINDS}
_UNKNOWN = ("unknown architecture", "unknown variant")  # other refusals say what is wrong with a known name


@dataclass(frozen=True)
class Exhibit:
    """`content` for --json, `lines` for people."""

    content: dict[str, Any]
    lines: tuple[str, ...]


def exhibit_of(name: str) -> Exhibit:
    """Of the file or run folder `name`, of the architecture or the run called so.

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
    try:
        return _spec_exhibit(description_of(name))
    except InputError as err:
        if (runs_root() / name).is_dir():
            return _run_exhibit(runs_root() / name)
        if name in shipped_recipes():
            return _recipe_exhibit(Path(f"{name}.toml"))
        if not str(err).startswith(_UNKNOWN):
            raise
        known = [*example_variants(), *(run.name for run in runs_root().glob("*")), *shipped_recipes()]
        hint = did_you_mean(name, known)
        raise InputError(f"{name!r} is no file, architecture, run or recipe{hint} (see: edgeres ls)") from err


def _recipe_exhibit(path: Path) -> Exhibit:
    """The recipe as it is written, to be copied and changed; one that is shipped where there is no file `path`."""
    if path.is_file() or path.stem not in shipped_recipes():
        content = toml_from(path)
        return Exhibit(content, tuple(path.read_text(encoding="utf-8").splitlines()))
    with as_file(shipped_recipes()[path.stem]) as file:
        return _recipe_exhibit(file)


def _file_exhibit(path: Path) -> Exhibit:
    if path.name.endswith(_MANIFEST_SUFFIX):
        path = path.with_name(path.name.removesuffix(".json"))
    if path.suffix == ".json":
        from edgeres.pipeline.show_json import json_exhibit

        return Exhibit(*json_exhibit(path))
    _refuse_what_is_for_others(path)
    model = model_from(path)
    if isinstance(model, Checkpoint):
        _refuse_cut(model)
    if isinstance(model, Engine) and not model.manifest_path.is_file():
        return _foreign_plan(model)
    if isinstance(model, OnnxModel) and not model.has_card:
        return _foreign_onnx(model)
    described = _with_precisions(_described(path), model)
    described["lineage"] = lineage_of(model)
    return _spec_exhibit(described)


def _refuse_what_is_for_others(path: Path) -> None:
    """Raises InputError for what is no model: what the file is, where its name tells, and what to show instead."""
    if path.suffix.lower() in _SUFFIXES | _FOREIGN:
        return
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    what, data = _OTHERS.get(path.suffix), path.with_suffix(".json")
    if what is None:
        raise InputError(f"{path}: cannot tell what this is by its name; {_TAKES}")
    raise InputError(f"{path} is {what}; {f'the same as data: edgeres show {data}' if data.is_file() else _TAKES}")


def _described(path: Path) -> dict[str, Any]:
    """The file's spec in words; raises InputError that names the file if its network is not known here."""
    try:
        described = description_of(str(path))
    except InputError as err:
        raise err if str(path) in str(err) else InputError(f"{path}: {err}") from err
    known = {module["name"] for module in described["modules"]}
    if unknown := sorted({*model_from(path).spec.dropped} - known):
        raise InputError(f"{path} says that it lacks {', '.join(unknown)}, which its network never had")
    return described


def _refuse_cut(model: Checkpoint) -> None:
    """Raises InputError if the file does not end where its header says."""
    entries = [entry for name, entry in safetensors_header(model.path).items() if name != "__metadata__"]
    try:
        end = max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    except (TypeError, KeyError, IndexError, ValueError) as err:
        raise InputError(f"{model.path} is not a safetensors file: its header is damaged") from err
    with model.path.open("rb") as file:
        whole = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little") + end
    if whole != model.size_bytes:
        raise InputError(f"{model.path} is damaged: its header promises {whole:,} bytes, it has {model.size_bytes:,}")


def lineage_of(model: Model) -> list[str]:
    """From `model` back to where its run began, each `NN-stage/file (sha256)`.

    The parent of a file outside a run is told by the report that --out writes beside it; without one by its sha256.
    """
    run = run_holding(model.path)
    line, sha256 = [_named(model.path, model.sha256)], model.card.parent
    made = {report.output.sha256: (folder, report) for folder, report in run.reports() if report.output} if run else {}
    while sha256 and sha256 in made:
        folder, report = made.pop(sha256)
        assert report.output is not None
        line.append(_named(folder.path / Path(report.output.path).name, sha256))
        sha256 = report.source.sha256 if report.source else None
    return line if not sha256 else [*line, *_parents_beside(model.path, sha256)]


def _parents_beside(path: Path, sha256: str) -> list[str]:
    """The parent with this content and what came before it, by the report beside `path`."""
    source = _source_beside(path)
    if source is None or source.sha256 != sha256:
        return [f"({sha256[:_SHA_SHOWN]}, not in a run here)"]
    name = Path(source.path)
    for parent in (name, path.with_name(name.name)):
        if parent.suffix in _SUFFIXES and parent.is_file() and model_from(parent).sha256 == sha256:
            return lineage_of(model_from(parent))
    return [f"{_named(name, sha256)}, gone or changed since"]


def _source_beside(path: Path) -> FileRef | None:
    try:
        return record_from_json(StageReport, path.with_name(path.name + REPORT_SUFFIX)).source
    except InputError:
        return None


def _named(path: Path, sha256: str) -> str:
    return f"{path.parent.name}/{path.name} ({sha256[:_SHA_SHOWN]})".lstrip("/")


def _with_precisions(described: dict[str, Any], model: Model) -> dict[str, Any]:
    """Each module with its precision: from the graph, otherwise the file's as a whole."""
    layers = module_precisions(model) if isinstance(model, OnnxModel) else {}
    if model.spec.family == FROM_ONNX:
        described["precision_of_modules"] = {name: as_label(kinds) for name, kinds in layers.items() if name != OUTSIDE}
    for module in described["modules"]:
        module["precision"] = None if module["dropped"] else as_label(layers.get(module["name"], (model.precision,)))
    if OUTSIDE in layers:
        described["precision_outside_modules"] = as_label(layers[OUTSIDE])
    if isinstance(model, Engine):
        described |= _engine_facts(model)
    return described


def _engine_facts(model: Engine) -> dict[str, Any]:
    """The manifest beside the plan; what the builder made of each layer stands there only if a GPU could be asked."""
    from edgeres.runtime.manifest import manifest_of

    known = manifest_of(model).model_dump(mode="json", exclude_none=True, exclude=_SHOWN_ALREADY)
    layers = known.pop("layers", {})
    kernels = layers.get("headline", "not inspected: precision is the ONNX file's, not the kernels' (edgeres layers)")
    return {**known, "kernels": kernels}


def _spec_exhibit(described: dict[str, Any]) -> Exhibit:
    modules = described["modules"]
    head = [
        f"{_key(key)}{' <- '.join(value) if key == 'lineage' else text_of(value)}"
        for key, value in described.items()
        if key not in _HIDDEN and value not in (None, {}, [], "")
    ]
    if "params" in described:
        cost = f"{described['params']:,} parameters, {described['macs']:,} MACs"
        head.append(f"{_key('size')}{size(described['size_bytes'])}, {cost}")
    if described["classes"]:
        head.append(f"{_key('classes')}{', '.join(described['classes'])}")
    return Exhibit(described, (*head, *_module_lines(modules)))


def _module_lines(modules: list[dict[str, Any]]) -> list[str]:
    labels = [(one["name"], "dropped" if one["dropped"] else one.get("precision") or "kept") for one in modules]
    dropped = sum(one["dropped"] for one in modules)
    kept = f", {dropped} dropped [----]" if dropped else ""
    if not modules:
        return []
    return [f"{len(modules)} modules{kept}", *drawing_of(labels), "", *map(_module_line, modules)]


def _module_line(module: dict[str, Any]) -> str:
    a, b = module["channels"]
    shape = f"{a}" if a == b else f"{a} -> {b}"
    stride = f", stride {module['stride']}" if module["stride"] > 1 else ""
    state = "dropped" if module["dropped"] else module.get("precision") or ""
    return f"  {module['name']:12}{module['kind']:12}{f'{shape} channels{stride}':30}{state}".rstrip()


def _foreign_plan(model: Engine) -> Exhibit:
    from edgeres.runtime.plan import plan_header

    header = plan_header(model.path)
    return _facts(
        {
            "file": str(model.path),
            "kind": "Engine without a manifest: not built by edgeres, or its .plan.json is gone",
            "size": size(model.size_bytes),
            "sha256": model.sha256,
            "runtime": f"{header.runtime} {header.version}",
            "unknown": "spec, lineage, GPU architecture, precision: a plan's header does not say",
        }
    )


def _foreign_onnx(model: OnnxModel) -> Exhibit:
    graph = model.proto.graph
    if not graph.node and not graph.output:
        raise InputError(f"{model.path} is empty: it holds no graph")
    layers = module_precisions(model)
    given = {tensor.name for tensor in graph.initializer}
    facts = {
        "file": str(model.path),
        "kind": "ONNX of another tool: it holds no spec",
        "size": size(model.size_bytes),
        "sha256": model.sha256,
        "producer": f"{model.proto.producer_name} {model.proto.producer_version}".strip(),
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.proto.opset_import},
        "inputs": {value.name: _shape(value) for value in graph.input if value.name not in given},
        "outputs": {value.name: _shape(value) for value in graph.output},
        "nodes": len(graph.node),
        "precision": model.precision,
        "precision_of_modules": {name: as_label(kinds) for name, kinds in layers.items()},
    }
    return _facts(facts | _derived(model))


def _derived(model: OnnxModel) -> dict[str, Any]:
    """What the commands that take such a file read from its graph, or why they cannot."""
    try:
        spec, cost = model.spec, model.card.cost
    except InputError as err:
        return {"not_taken": str(err).removeprefix(f"{model.path} ")}
    facts = {"input_shape": list(spec.input_shape), "num_classes": spec.num_classes, "params": cost.params}
    return {**facts, "macs": cost.macs, "preprocess": "unknown: --mean and --std, or --like, where images are shown"}


def _shape(value: Any) -> str:
    dims = value.type.tensor_type.shape.dim
    return " x ".join(str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)


def _run_exhibit(path: Path) -> Exhibit:
    from edgeres.report.rows import rows_from

    if not Run(path).folders():
        raise InputError(f"{path} is no run: it holds no stage folder such as 00-train (see: edgeres ls runs)")
    summary = rows_from(path)
    lines = [f"{_key('run')}{summary.run}", f"{_key('in short')}{summary.headline}"]
    files = {row.name: row for row in summary.rows}
    for stage in summary.stages:
        row = files.get(stage.name)
        made = f"{Path(stage.output.path).name}, {size(stage.output.size_bytes)}" if stage.output else ""
        what = "; ".join(filter(None, (row.what if row else "", made)))
        lines.append(f"  {stage.name:16}{what}")
    lines += [f"  missing: {problem}" for problem in summary.problems]
    return Exhibit(summary.model_dump(mode="json"), tuple(lines))


def _facts(facts: dict[str, Any]) -> Exhibit:
    return Exhibit(facts, tuple(lines_of(facts)))


def lines_of(facts: dict[str, Any]) -> Iterable[str]:
    """`key:   value` of everything that is there."""
    return [f"{_key(key)}{text_of(value)}" for key, value in facts.items() if value not in (None, {}, [], "")]


def text_of(value: Any) -> str:
    """Plain words for nested data."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {text_of(item)}" for key, item in value.items() if item is not None)
    return ", ".join(map(text_of, value)) if isinstance(value, (list, tuple)) else str(value)


def _key(key: str) -> str:
    words = key.replace("_", " ")
    return f"{words + ':':16}" if len(words) < 15 else f"{words}: "
