"""Recipes: a chain of stages in TOML, checked as a whole before anything runs.

    name = "demo"
    data = "digits"            # default of every stage that takes images

    [[stage]]
    use = "train"
    arch = "resnet20"

    [[stage]]
    use = "prune"
    drop = 2

Paths are relative to the current folder; in the recipe of a run they are whole, and found from anywhere.
"""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from edgeres.bench.boards import board_named
from edgeres.bench.config import BoardConfig
from edgeres.compile.config import FOR_BOARDS
from edgeres.core.amounts import counted
from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import Config, config_from, refuse, toml_from
from edgeres.core.errors import InputError, did_you_mean
from edgeres.core.input_options import InputOptions
from edgeres.core.names import (
    FILES_OF_DATA,
    is_function_name,
    lookup,
    module_found,
    resolve,
    where_to_run,
)
from edgeres.core.runs import LATEST
from edgeres.core.safe_text import typed
from edgeres.core.spec import ModelSpec
from edgeres.data import check_data_name
from edgeres.models import check_module_names, modules_of, spec_from_arch
from edgeres.models.importing import ImportConfig, is_ours
from edgeres.pipeline.stages import STAGES, makers_of

MEASURES = {
    "eval": "edgeres.evaluate.stage:EvalConfig",
    "bench": "edgeres.bench.stage:BenchConfig",
    "report": "edgeres.report.stage:ReportConfig",
}
AFTERWARDS = ("agree", "compare", "gate", "layers", "lint", "show")  # commands that judge what stages made
ON_BOARDS = ("compile", "bench", "eval")  # what `on = "NAME"` in a stage has done there
_CUT = ("prune", "sweep", "optimize")
_OF_ARCH = ("shortcut", "layers", "bottleneck")  # options that decide how many modules a named network has
# which stage makes what a later one takes from the run
_FILLED_BY = {"scales": "calibrate", "teacher": "prune", "latency": "latency"}


class Recipe(Config):
    """The file's content; each entry of `stage` has `use` and the options of that stage."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's folder")
    about: str = ""
    data: str | None = None
    stage: tuple[dict[str, Any], ...]

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name == LATEST:
            raise ValueError(f"{LATEST} is what the current run is called; choose another name")
        return name


@dataclass(frozen=True)
class Step:
    """One stage of a recipe with its validated options."""

    index: int
    use: str
    config: Config
    on: str = ""  # the board that does it, empty for this machine

    @property
    def folder_name(self) -> str:
        """NN-stage."""
        return f"{self.index:02d}-{self.use}"

    @property
    def told(self) -> str:
        """What messages call it: by its folder, as --dry-run does."""
        return f"stage {self.folder_name}"


def shipped_recipes() -> dict[str, Any]:
    """Recipes that come with edgeres, by name: each a Traversable of importlib.resources."""
    folder = importlib.resources.files("edgeres") / "recipes"
    return {entry.name.removesuffix(".toml"): entry for entry in folder.iterdir() if entry.name.endswith(".toml")}


def recipe_from(name: str, overrides: Mapping[str, str], *, naming: str | None = None) -> tuple[Recipe, list[Step]]:
    """The recipe in the file `name`, or shipped under that name, with `overrides` applied, and its checked steps.

    Overrides are `data=...` for the recipe or `STAGE.OPTION=...` for every stage of that kind; `naming` is what a user
    types before a function that he trusts. Raises InputError.
    """
    shipped = shipped_recipes()
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        content = toml_from(path)
    elif name in shipped:
        with importlib.resources.as_file(shipped[name]) as file:
            content = toml_from(file)
    else:
        hint = did_you_mean(name, shipped)
        raise InputError(f"no recipe {name!r}{hint} (shipped: {', '.join(sorted(shipped))}; or a .toml file)")
    if "on" in content:
        raise InputError(
            f"{name}: `on` stands in a stage ({', '.join(ON_BOARDS)}); to measure the last files on a board at the end:"
            f" edgeres run {typed(name)} --on {content['on']}"
        )
    recipe = overridden(config_from(Recipe, content, name), overrides)
    steps = planned(recipe, name)
    again = naming or f"edgeres run {typed(name)} --set import.file="
    refuse_functions(steps, name, typed=overrides.values(), naming=again)
    return recipe, steps


def refuse_functions(steps: Sequence[Step], where: str, *, naming: str, typed: Collection[str] = ()) -> None:
    """Raises InputError if a step names a function that the user has not `typed` after `naming`, or is not here."""
    for step in steps:
        ways = {"network": naming, "data set": "--data ", "metric": f"--set {step.use}.metric="}
        for what, name in functions_of(step):
            if name not in typed:
                raise InputError(
                    f"{where}, {step.told}, names a Python function as its {what}, and no function runs because a file"
                    f" says so; if you trust it, name it yourself: {ways[what]}{name}"
                )
            if module_found(name) is None:
                where = where_to_run(name)
                raise InputError(f"{what} {name!r}: there is no module {name.partition(':')[0]} here{where}")


def functions_of(step: Step) -> Iterator[tuple[str, str]]:
    """(what it gives, its name) of each function of the user's that the step runs."""
    for field, what in (("file", "network"), ("data", "data set"), ("metric", "metric")):
        name = str(getattr(step.config, field, ""))
        if ":" in name and name.partition(":")[0] not in FILES_OF_DATA and (field != "file" or is_function_name(name)):
            yield what, name


def planned(recipe: Recipe, where: str) -> list[Step]:
    """The recipe's steps; raises InputError unless every option is known and every stage finds its input."""
    if not recipe.stage:
        raise InputError(f"{where} has no [[stage]]")
    steps: list[Step] = []
    for index, entry in enumerate(recipe.stage):
        step = _step(index, dict(entry), recipe.data, where)
        _check_chain(step, [earlier.use for earlier in steps], where)
        with telling(f"{where}, {step.told}"):
            _check_files(step, {earlier.folder_name for earlier in steps})
        steps.append(step)
    check_modules(steps, where)
    return steps


def config_of(use: str) -> type[Config]:
    """The Config of a stage or a measure."""
    kind: type[Config] = STAGES[use].config_class() if use in STAGES else resolve(MEASURES[use])
    return kind


def _step(index: int, values: dict[str, Any], data: str | None, where: str) -> Step:
    use = values.pop("use", None)
    known = {name: name for name in (*STAGES, *MEASURES)}
    if use is None:
        raise InputError(f'{where}, stage {index:02d}: no use = "..." (known: {", ".join(known)})')
    place = f"{where}, {Step(index, use, Config()).told}"
    if use in AFTERWARDS:
        raise InputError(f"{place}: that is no stage but a command, for after the run: edgeres {use}")
    kind = config_of(lookup(known, str(use), f"stage in {where}:"))
    if on := str(values.pop("on", "")):
        with telling(place):
            if use not in ON_BOARDS:
                raise InputError(f"a board does {', '.join(ON_BOARDS)}; leave out on = {on!r}")
            board_named(on)
            if use in STAGES:
                refuse(values.keys() - FOR_BOARDS, f"does not go with on = {on!r}, where trtexec builds for itself")
        if use in STAGES:
            values["runtime"] = "tensorrt"
        else:
            kind = BoardConfig
    if data is not None and "data" in kind.model_fields:
        values.setdefault("data", data)
    step = Step(index, str(use), config_from(kind, values, place), on)
    with telling(place):
        _check_options(step)
    return step


def _check_options(step: Step) -> None:
    """Raises InputError for what can be seen to be wrong without images or a board."""
    config = step.config
    config.check()
    if isinstance(config, BoardConfig) and step.use == "bench":
        config.check_time()
    if isinstance(config, InputOptions) and config.said:  # every network of a recipe was trained or imported by it
        raise InputError(f"the network says itself how images become its input; leave out {config.said[0]}")
    if named := getattr(config, "data", None):
        check_data_name(named)


@contextmanager
def telling(place: str) -> Iterator[None]:
    """An InputError of what is done inside names the place in the recipe as well."""
    try:
        yield
    except InputError as err:
        raise InputError(f"{place}: {err}") from err


def _check_files(step: Step, before: Collection[str]) -> None:
    """Raises InputError for a file to be read that is not there, unless it lies in a folder of a step `before`."""
    for name, value in step.config:
        is_named = isinstance(value, Path) and not is_function_name(str(value))
        if is_named and not value.is_file() and value.parent.name not in before:
            raise InputError(f"{name}: {value} {'is a folder' if value.is_dir() else 'does not exist'}")


def _check_chain(step: Step, before: Sequence[str], where: str) -> None:
    """Raises InputError unless the stages `before` make what the step needs."""
    place = f"{where}, {step.told}"
    made = [STAGES[use].output for use in before if use in STAGES]
    if step.use in MEASURES:
        if not made:
            raise InputError(f"{place}: it comes before any stage that makes a model")
        return
    row = STAGES[step.use]
    if row.source is not None and row.source not in made:
        raise InputError(f"{place}: it needs a {row.needs}; put {' or '.join(makers_of(step.use))} before it")
    for field in row.fills:
        if field == "latency" and getattr(step.config, "target_latency", None) is None:
            continue
        if getattr(step.config, field, None) is None and _FILLED_BY[field] not in before:
            raise InputError(f"{place}: it needs {field}; put {_FILLED_BY[field]} before it")


def lacking_on_a_board(steps: Sequence[Step], on: str | None = None) -> str:
    """What a board in the recipe, or `on` at its end, will not have to hold against; empty where it has all."""
    board = next(filter(None, (*(step.on for step in steps), on)), None)
    cut = next((step for step in steps if step.use == "prune"), None)
    if board is None or not cut or any(getattr(one.config, "half", None) is False for one in steps[: cut.index]):
        return ""
    place = f'put [[stage]] use = "export" before {cut.told}'
    return f"the whole network is never exported in FP32, so that no speed-up over it can be told on {board}: {place}"


def check_modules(steps: Sequence[Step], where: str, spec: ModelSpec | None = None) -> None:
    """Raises InputError where modules are to be dropped or kept that the network, `spec` at first, does not have.

    Nor may more go than are left. What a network is that brings its graph is known once it is imported.
    """
    dropped = 0
    for step in steps:
        config = step.config.model_dump()
        if step.use in STAGES and STAGES[step.use].source is None:
            spec, dropped = _told_spec(step.config), 0
        elif spec is not None and step.use in _CUT:
            goes, stays = tuple(config.get("modules", ())), tuple(config["keep"])
            left = len(modules_of(spec)) - len(spec.dropped) - dropped
            with telling(f"{where}, {step.told}"):
                check_module_names(spec, (*goes, *stays))
                if (wanted := config.get("drop") or len(goes)) > left - len(stays):
                    raise InputError(f"cannot drop {wanted} of {counted(left, 'module')}")
            if step.use == "prune":
                spec, dropped = spec.without(goes), dropped + (config["drop"] or 0)


def _told_spec(config: Config) -> ModelSpec | None:
    """The network that begins a run, where its name or a file of edgeres says what it is."""
    values = config.model_dump()
    if isinstance(config, ImportConfig) and is_ours(config.file):
        return Checkpoint(config.file).spec
    given = {name: values[name] for name in _OF_ARCH if values.get(name) is not None}
    arch = values.get("arch") or "/"
    return None if "/" in arch else spec_from_arch(arch, num_classes=2, options=given)


def overridden(recipe: Recipe, overrides: Mapping[str, str]) -> Recipe:
    """The recipe with `data=...` or `STAGE.OPTION=...` set; raises InputError for a stage it does not have."""
    stages = [dict(entry) for entry in recipe.stage]
    updates: dict[str, Any] = {}
    for name, value in overrides.items():
        use, _, option = name.rpartition(".")
        if not use:
            updates[option] = value
            if option == "data":
                stages = [{key: kept for key, kept in entry.items() if key != "data"} for entry in stages]
            continue
        matching = [entry for entry in stages if entry.get("use") == use]
        if not matching:
            hint = did_you_mean(use, [str(entry.get("use")) for entry in stages])
            raise InputError(f"--set {name}: the recipe {recipe.name} has no stage {use!r}{hint}")
        for entry in matching:
            entry[option] = value
    return config_from(Recipe, {**recipe.model_dump(), "stage": stages, **updates}, "--set")


def toml_text(recipe: Recipe, steps: Sequence[Step]) -> str:
    """The recipe as it was run, overrides included, files by their whole paths, as TOML that reads back to the same."""
    head = {"name": recipe.name, "about": recipe.about, "data": recipe.data}
    as_toml = partial(json.dumps, ensure_ascii=False)  # which has strings, numbers, booleans and lists of these alike
    lines = [f"{key} = {as_toml(value)}" for key, value in head.items() if value]
    for entry, step in zip(recipe.stage, steps, strict=True):
        files = {name: value for name, value in step.config if isinstance(value, Path) and value.exists()}
        whole = {name: value for name, value in step.config if name == "data"}
        whole |= {name: str(file.absolute()) for name, file in files.items()}
        lines += ["", "[[stage]]", *(f"{key} = {as_toml(whole.get(key, value))}" for key, value in entry.items())]
    return "\n".join(lines) + "\n"
