"""`edgeres doctor`, of this machine or `--on BOARD`."""

from __future__ import annotations

import click

from edgeres.cli.terminal import say
from edgeres.core.doctor import Check, diagnosis

_MARKS = {
    "ok": click.style("ok     ", fg="green"),
    "missing": click.style("missing", fg="yellow"),
    "info": "-      ",
}


@click.command(help="What this machine can and cannot do, and what to install.")
@click.option("--on", metavar="NAME", help="What this board can do instead (edgeres board add).")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def doctor(on: str | None, as_json: bool) -> None:
    """See the help text."""
    if on is not None:
        _of_board(on, as_json=as_json)
        return
    found = diagnosis()
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    here = found.environment
    say(f"edgeres {here.edgeres}, Python {here.python}, {here.system}")
    say(f"{here.machine}, {here.memory_gib} GiB")
    for check in found.checks:
        _say_check(check)


def _of_board(name: str, *, as_json: bool) -> None:
    from edgeres.bench.board_facts import BoardDiagnosis, checks_of
    from edgeres.bench.board_session import session
    from edgeres.bench.boards import board_named

    with session(board_named(name)) as opened:
        found = opened.found
    checks = checks_of(found)
    if as_json:
        click.echo(BoardDiagnosis(board=found, checks=checks).model_dump_json(indent=1))
        return
    for check in checks:
        _say_check(check)


def _say_check(check: Check) -> None:
    say(f"  {_MARKS[check.status]}  {check.name:12}{check.detail}")
    if check.remedy:
        say(f"{'':23}{check.remedy}")
