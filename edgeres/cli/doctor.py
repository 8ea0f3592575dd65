"""`edgeres doctor`."""

from __future__ import annotations

import click

from edgeres.core.doctor import Check, diagnosis

_MARKS = {
    "ok": click.style("ok     ", fg="green"),
    "missing": click.style("missing", fg="yellow"),
    "info": "-      ",
}


@click.command(help="What this machine can and cannot do, and what to install.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def doctor(as_json: bool) -> None:
    """See the help text."""
    found = diagnosis()
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    here = found.environment
    click.echo(f"edgeres {here.edgeres}, Python {here.python}, {here.system}")
    click.echo(f"{here.machine}, {here.memory_gib} GiB")
    for check in found.checks:
        click.echo(_line(check))


def _line(check: Check) -> str:
    remedy = f"\n{'':23}{check.remedy}" if check.remedy else ""
    return f"  {_MARKS[check.status]}  {check.name:12}{check.detail}{remedy}"
