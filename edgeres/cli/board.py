"""`edgeres board add|list|check|remove`, and `edgeres doctor`, of this machine or `--on BOARD`."""

from __future__ import annotations

import json

import click

from edgeres.bench.board_facts import BoardDiagnosis, checks_of
from edgeres.bench.board_session import session
from edgeres.bench.boards import add_board, board_named, boards, remove_board
from edgeres.cli.terminal import say, say_row
from edgeres.core.environment import Diagnosis, diagnosis

_MARKS = {
    "ok": click.style("ok     ", fg="green"),
    "missing": click.style("missing", fg="yellow"),
    "info": "-      ",
}
_DETAIL = 23  # where it begins


@click.group(help="Boards reached over ssh, by the names you give them.")
def board() -> None:
    """`add`, `remove`, `list` and `check`."""


@board.command(help="Keep a board under NAME. HOST is a Host of ~/.ssh/config, or user@address[:port].")
@click.argument("name")
@click.argument("host")
def add(name: str, host: str) -> None:
    before = boards().get(name)
    added = add_board(name, host)
    replaced = f" instead of {before.host}" if before is not None and before.host != added.host else ""
    say(f"{added.name}: {added.host}{replaced}; look at it: edgeres board check {added.name}")


@board.command(help="Forget a board; nothing on it is touched.")
@click.argument("name")
def remove(name: str) -> None:
    gone = remove_board(name)
    say(f"{gone.name} ({gone.host}) is no longer kept")


@board.command("list", help="The boards that are kept.")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def list_(as_json: bool) -> None:
    known = boards().values()
    if as_json:
        click.echo(json.dumps([one.model_dump() for one in known]))
        return
    if not known:
        say("no boards yet; keep one: edgeres board add NAME HOST", err=True)
    for one in known:
        say(f"{one.name}  {one.host}")


@board.command(help="Connect and say what board it is and what it can do.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def check(name: str, as_json: bool) -> None:
    with session(board_named(name)) as opened:
        found = opened.found
    if as_json:
        click.echo(found.model_dump_json())
        return
    for one in checks_of(found):
        say(f"{one.name}: {one.detail}" + (f"; {one.remedy}" if one.remedy else ""))


@click.command(help="What this machine can and cannot do, and what to install.")
@click.option("--on", metavar="NAME", help="What this board can do instead (edgeres board add).")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def doctor(on: str | None, as_json: bool) -> None:
    found = diagnosis() if on is None else _of_board(on)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    if isinstance(found, Diagnosis):
        here = found.environment
        say(f"edgeres {here.edgeres}, Python {here.python}, {here.system}")
        say(f"{here.machine}, {here.memory_gib} GiB")
    for one in found.checks:
        say_row(f"  {_MARKS[one.status]}  {one.name:12}", one.detail, _DETAIL)
        if one.remedy:
            say(f"{'':{_DETAIL}}{one.remedy}")  # a command is copied as one line


def _of_board(name: str) -> BoardDiagnosis:
    with session(board_named(name)) as opened:
        return BoardDiagnosis(board=opened.found, checks=checks_of(opened.found))
