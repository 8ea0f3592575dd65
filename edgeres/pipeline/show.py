"""What a file, a run, a recipe or an architecture is: the content of `edgeres show`, as data and as lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import as_file
from pathlib import Path
from typing import Any

from edgeres.core.config import toml_from
from edgeres.core.errors import InputError, did_you_mean
from edgeres.core.runs import Run, runs_root
from edgeres.models import example_variants
from edgeres.pipeline.recipe import shipped_recipes
from edgeres.pipeline.show_json import json_exhibit
from edgeres.pipeline.show_model import SUFFIXES, Facts, facts_of_arch, facts_of_file
from edgeres.report.wording import size

_MANIFEST_SUFFIX = ".plan.json"
_BELOW = ("modules", "size_bytes", "params", "macs", "classes")  # of a network of ours, said below its other facts
_NAME_SHOWN = 80
_TAKES = "show takes a .safetensors, .onnx, .plan or .json file of edgeres, a run folder, an architecture or a recipe"
_OTHERS = {
    ".html": "a page for reading",
    ".md": "a text for reading",
    ".csv": "a table for reading",
    ".svg": "a figure for reading",
    ".npy": "an array of NumPy",
}
_FOREIGN = frozenset({".pt", ".pth", ".th", ".bin", ".ckpt"})  # refused by name, with what to do, by `model_from`
_UNKNOWN = ("unknown architecture", "unknown variant")  # other refusals say what is wrong with a known name


@dataclass(frozen=True)
class Exhibit:
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
        if (runs_root() / name).is_dir():
            return _run_exhibit(runs_root() / name)
        if name in shipped_recipes():
            return _recipe_exhibit(Path(f"{name}.toml"))
        if not str(err).startswith(_UNKNOWN):
            raise
        known = [*example_variants(), *(run.name for run in runs_root().glob("*")), *shipped_recipes()]
        hint = did_you_mean(name, known)
        raise InputError(f"{name!r} is no file, architecture, run or recipe{hint} (see: edgeres ls)") from err


def _file_exhibit(path: Path) -> Exhibit:
    if path.name.endswith(_MANIFEST_SUFFIX):
        path = path.with_name(path.name.removesuffix(".json"))
    if path.suffix == ".json":
        return Exhibit(*json_exhibit(path))
    _refuse_what_is_for_others(path)
    return _facts_exhibit(facts_of_file(path))


def _refuse_what_is_for_others(path: Path) -> None:
    """Raises InputError for what is no model: what the file is, where its name tells, and what to show instead."""
    if path.suffix.lower() in SUFFIXES | _FOREIGN:
        return
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    what, data = _OTHERS.get(path.suffix), path.with_suffix(".json")
    if what is None:
        raise InputError(f"{path}: cannot tell what this is by its name; {_TAKES}")
    raise InputError(f"{path} is {what}; {f'the same as data: edgeres show {data}' if data.is_file() else _TAKES}")


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
    what = {row.name: row.what for row in summary.rows}
    for stage in summary.stages:
        made = f"{Path(stage.output.path).name}, {size(stage.output.size_bytes)}" if stage.output else ""
        lines.append(f"  {stage.name:16}{'; '.join(filter(None, (what.get(stage.name), made)))}")
    lines += [f"  missing: {problem}" for problem in summary.problems]
    return Exhibit(summary.model_dump(mode="json"), tuple(lines))


def _facts_exhibit(facts: Facts) -> Exhibit:
    """`key:   value` of everything that is there; of a network of ours its cost, classes and modules last."""
    is_ours = "modules" in facts
    shown = {key: value for key, value in facts.items() if not (is_ours and key in _BELOW)}
    lines = [f"{_key(key)}{_text_of(value, key)}" for key, value in shown.items() if value not in (None, {}, [], "")]
    if is_ours and "params" in facts:
        cost = f"{facts['params']:,} parameters, {facts['macs']:,} MACs"
        lines.append(f"{_key('size')}{size(facts['size_bytes'])}, {cost}")
    if is_ours and facts["classes"]:
        lines.append(f"{_key('classes')}{', '.join(facts['classes'])}")
    return Exhibit(facts, (*lines, *_module_lines(facts.get("modules", []))))


def _module_lines(modules: list[Facts]) -> list[str]:
    if not modules:
        return []
    labels = [(one["name"], "dropped" if one["dropped"] else one.get("precision") or "kept") for one in modules]
    dropped = sum(one["dropped"] for one in modules)
    kept = f", {dropped} dropped [----]" if dropped else ""
    return [f"{len(modules)} modules{kept}", *drawing_of(labels), "", *map(_module_line, modules)]


def _module_line(module: Facts) -> str:
    a, b = module["channels"]
    shape = f"{a}" if a == b else f"{a} -> {b}"
    stride = f", stride {module['stride']}" if module["stride"] > 1 else ""
    state = "dropped" if module["dropped"] else module.get("precision") or ""
    return f"  {module['name']:12}{module['kind']:12}{f'{shape} channels{stride}':30}{state}".rstrip()


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
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text_of(item)}" for key, item in value.items() if item is not None)
    joint = " <- " if key == "lineage" else ", "
    return joint.join(map(_text_of, value)) if isinstance(value, (list, tuple)) else str(value)


def _key(key: str) -> str:
    words = key.replace("_", " ")
    return f"{words + ':':16}" if len(words) < 15 else f"{words}: "
