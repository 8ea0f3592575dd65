"""`edgeres help [TOPIC]`: the manual, Markdown files of edgeres/help; README.md there lists the topics."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from edgeres.core.errors import InputError, did_you_mean

PAGES = Path(__file__).parent.parent / "help"
_LIST = "README"
_WIDEST = 100  # columns; longer lines are hard to read
_COMMENT = re.compile(r"<!--.*?-->\n", re.DOTALL)
_ENDING = re.compile(r"(?<=\w{3})(?:ations?|ings?|ed|es|e|s)$")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


@click.command("help", help="A page of the manual, or a command's options. Without a name: the list of topics.")
@click.argument("words", nargs=-1, metavar="[TOPIC|COMMAND]")
@click.pass_context
def help_command(ctx: click.Context, words: tuple[str, ...]) -> None:
    if len(words) < 2 and (name := words[0] if words else _LIST) in {_LIST, *topics()}:
        _show(page(name))
    elif ctx.parent is not None:
        click.echo(_help_of(ctx.parent, words))


def topics() -> list[str]:
    """The pages by name."""
    return sorted(path.stem for path in PAGES.glob("*.md") if path.stem != _LIST)


def page(name: str) -> str:
    """The Markdown of a page, without comments and with the words of its links alone."""
    return _LINK.sub(r"\1", _COMMENT.sub("", (PAGES / f"{name}.md").read_text(encoding="utf-8")))


def _help_of(ctx: click.Context, words: tuple[str, ...]) -> str:
    """What --help of the command says that `words` name, or which pages speak of them."""
    for word in words:
        group = ctx.command
        found = group.get_command(ctx, word) if isinstance(group, click.Group) else None
        if not isinstance(group, click.Group) or found is None:
            known = [*topics(), *group.list_commands(ctx)] if isinstance(group, click.Group) else []
            if pages := _pages_on(" ".join(words)):
                return f"{' '.join(words)!r} is no page of its own; these speak of it: {', '.join(pages)}"
            raise InputError(f"no help on {' '.join(words)!r}{did_you_mean(word, known)} (see: edgeres help)")
        ctx = click.Context(found, info_name=word, parent=ctx)
    return ctx.get_help()


def _pages_on(words: str) -> list[str]:
    """The pages in which they stand, with any ending, the one that has them most often first."""
    stem = _ENDING.sub("", words)
    spelt = re.sub(r"i[sz]$", "i[sz]", re.escape(stem))
    pattern = rf"\b{spelt}" if stem[:1].isalnum() else spelt
    counts = {name: len(re.findall(pattern, page(name), re.IGNORECASE)) for name in topics()}
    return sorted((name for name in counts if counts[name]), key=lambda name: -counts[name])


def _show(text: str) -> None:
    """As it is to a file or a pipe; set, and paged where it is longer than the terminal, to a person."""
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.theme import Theme

    console = Console(theme=Theme({"markdown.code": "bold cyan"}))  # rich's own is on black, on light terminals too
    with console.capture() as captured:
        console.print(Markdown(text, hyperlinks=False, code_theme="ansi_dark"), width=min(console.width, _WIDEST))
    if captured.get().count("\n") < console.height:
        click.echo(captured.get(), nl=False)
    else:
        click.echo_via_pager(captured.get())
