"""Options generated from a stage's Config: one field, one option, the same name, default and description."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from edgeres.bench.config import BoardConfig
from edgeres.core.config import Config, refuse

Decorator = Callable[[Callable[..., None]], Callable[..., None]]
_LIMIT = {"timeout_s"}


def options_of(kind: type[Config], skip: Collection[str] = ()) -> Decorator:
    """Adds one option per field of `kind`; its value is None where the user gave none."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        fields = sorted(kind.model_fields.items(), key=lambda item: item[0] in kind.unsaid)  # what few need comes last
        for name, field in reversed(fields):
            if name not in skip:
                function = _option(name, field)(function)
        return function

    return decorate


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Only the options the user typed."""
    return {name: value for name, value in values.items() if value is not None}


def refuse_timeout(values: dict[str, Any]) -> None:
    """Raises InputError for --timeout-s, which `timeout_on_a_board` adds, where no board is named."""
    refuse(values.keys() & _LIMIT, "ends what hangs on a board; it goes with --on NAME")


timeout_on_a_board = options_of(BoardConfig, skip=BoardConfig.model_fields.keys() - _LIMIT)


def _option(name: str, field: FieldInfo) -> Decorator:
    flag = "--" + name.replace("_", "-")
    kind, several = _click_type(field.annotation)
    text = (field.description or "").strip()
    if field.is_required():
        text += "  [needed]"
    elif field.default not in (None, (), ""):
        shown = field.default if not several else ",".join(map(str, field.default))
        text += f"  [default: {str(shown).lower() if isinstance(shown, bool) else shown}]"
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    if several:
        return click.option(flag, name, multiple=True, callback=_joined, metavar="A,B,...", help=text)
    return click.option(flag, name, type=kind, default=None, help=text)


def _joined(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> str | None:
    """The list of an option that may be given several times."""
    return ",".join(values) if values else None


def _click_type(annotation: Any) -> tuple[Any, bool]:
    """(click type, whether it is a comma-separated list)."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType, Annotated):
        return _click_type(next(part for part in arguments if part is not type(None)))
    if origin is Literal:
        return click.Choice([str(value) for value in arguments]), False
    if origin is tuple:
        return str, True
    if annotation is Path:
        return click.Path(path_type=Path), False
    return annotation, False
