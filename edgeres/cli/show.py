"""`edgeres show FILE|RUN|ARCH|RECIPE`, `edgeres show --schema NAME`; `edgeres ls WHAT`, what there is."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable
from pathlib import Path

import click

from edgeres.bench.boards import boards
from edgeres.bench.devices import devices
from edgeres.cli.main import COMMANDS
from edgeres.cli.terminal import say, say_row
from edgeres.core.artifacts import model_from
from edgeres.core.config import toml_from
from edgeres.core.errors import InputError
from edgeres.core.names import FILES_OF_DATA
from edgeres.core.runs import Run, StageFolder, runs_in_root
from edgeres.data import DATASETS
from edgeres.models import FAMILIES, family_named
from edgeres.pipeline.recipe import MEASURES, shipped_recipes
from edgeres.pipeline.show import SCHEMAS, exhibit_of, schema_named
from edgeres.pipeline.stages import STAGES


@click.command(
    help="What a file (.safetensors, .onnx, .plan, any .json of edgeres), a run folder or an architecture is: spec,"
    " lineage, preprocessing, and every module with its precision; a recipe as it is written."
)
@click.argument("name", required=False, metavar="FILE|RUN|ARCH|RECIPE")
@click.option("--schema", metavar="NAME", help="Instead: the JSON Schema of what edgeres writes (edgeres ls schemas).")
@click.option("--code", type=click.Choice(["python", "cpp"]), help="Instead: a program that feeds and runs the file.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def show(name: str | None, schema: str | None, code: str | None, as_json: bool) -> None:
    if (name is None) == (schema is None):
        raise InputError("name a file, run, architecture or recipe, or give --schema NAME (see: edgeres ls schemas)")
    if schema is not None:
        click.echo(json.dumps(schema_named(schema), indent=1))
        return
    assert name is not None
    if code is not None:
        from edgeres.export.device import program_for

        click.echo(program_for(model_from(Path(name)), code), nl=False)
        return
    exhibit = exhibit_of(name)
    if as_json:
        click.echo(json.dumps(exhibit.content, indent=1))
        return
    for line in exhibit.lines:
        say(line)


def _datasets() -> dict[str, str]:
    known = {name: "" for name in DATASETS if name not in FILES_OF_DATA}
    return {
        **known,
        FILES_OF_DATA["folder"]: "train/ and val/ with one folder a class, or one tree that is split",
        FILES_OF_DATA["images"]: "all images below a folder, flat or nested, without labels",
        FILES_OF_DATA["csv"]: "a table: path,label or path,label,split, or path alone",
        FILES_OF_DATA["npy"]: "an array of images, without labels",
        FILES_OF_DATA["npz"]: "images, and labels if it has some",
        "package.module:function": "your own: () -> edgeres.data.Dataset",
    }


def _recipes() -> dict[str, str]:
    rows = {}
    for name, entry in sorted(shipped_recipes().items()):
        with importlib.resources.as_file(entry) as file:
            rows[name] = str(toml_from(file).get("about", ""))
    return rows


def _runs() -> dict[str, str]:
    def state_of(folder: StageFolder) -> str:
        return "" if folder.is_finished else " (running)" if folder.is_busy else " (not finished)"

    def text_of(run: Run) -> str:
        stages = ", ".join(one.path.name + state_of(one) for one in run.folders())
        return f"{stages}; replaced since: {run.set_aside}" if run.set_aside else stages

    return {run.name: text_of(run) for run in runs_in_root()}


LISTINGS: dict[str, Callable[[], dict[str, str]]] = {
    "models": lambda: {name: ", ".join(family_named(name).variants) for name in FAMILIES},
    "data": _datasets,
    "recipes": _recipes,
    "runs": _runs,
    "stages": lambda: {
        **{
            name: f"{row.source.suffix if row.source else 'nothing'} -> {row.output.__name__}"
            for name, row in STAGES.items()
        },
        **{name: COMMANDS[name][1] for name in MEASURES},
    },
    "schemas": lambda: {name: schema.found for name, schema in SCHEMAS.items()},
    "boards": lambda: {name: board.host for name, board in boards().items()},
    "devices": lambda: {name: device.line for name, device in devices().items()},
}


@click.command(help=f"List what there is: {', '.join(LISTINGS)}.")
@click.argument("what", type=click.Choice(list(LISTINGS)))
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def ls(what: str, as_json: bool) -> None:
    rows = LISTINGS[what]()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    width = max((len(name) for name in rows), default=0) + 2
    for name, text in rows.items():
        say_row(f"{name:{width}}", text, width)
    if not rows:
        say(f"no {what} yet", err=True)
