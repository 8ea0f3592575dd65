"""`edgeres show FILE|RUN|ARCH`."""

from __future__ import annotations

import json

import click

from edgeres.pipeline.show import exhibit_of


@click.command(
    help="What a file (.safetensors, .onnx, .plan, any .json of edgeres), a run folder or an architecture is: spec,"
    " lineage, preprocessing, and every module with its precision."
)
@click.argument("name", metavar="FILE|RUN|ARCH")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def show(name: str, as_json: bool) -> None:
    """See the help text."""
    exhibit = exhibit_of(name)
    if as_json:
        click.echo(json.dumps(exhibit.content, indent=1))
        return
    for line in exhibit.lines:
        click.echo(line)
