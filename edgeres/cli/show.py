"""`edgeres show FILE|RUN|ARCH|RECIPE` and `edgeres show --schema NAME`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from edgeres.cli.terminal import say
from edgeres.core.artifacts import model_from
from edgeres.core.errors import InputError
from edgeres.pipeline.schemas import schema_named
from edgeres.pipeline.show import exhibit_of


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
