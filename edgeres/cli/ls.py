"""`edgeres ls WHAT`."""

from __future__ import annotations

import json

import click

from edgeres.bench.devices import devices
from edgeres.cli.terminal import say
from edgeres.pipeline.listing import LISTINGS

_KNOWN = [*LISTINGS, "devices"]


@click.command(help=f"List what there is: {', '.join(_KNOWN)}.")
@click.argument("what", type=click.Choice(_KNOWN))
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def ls(what: str, as_json: bool) -> None:
    """See the help text."""
    rows = {name: device.line for name, device in devices().items()} if what == "devices" else LISTINGS[what]()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    width = max((len(name) for name in rows), default=0) + 2
    for name, text in rows.items():
        say(f"{name:{width}}{text}")
    if not rows:
        say(f"no {what} yet", err=True)
