"""`edgeres show FILE|ARCH`."""

from __future__ import annotations

import json
from typing import Any

import click

from edgeres.report.describe import description_of
from edgeres.report.wording import size

_HIDDEN = ("modules", "size_bytes", "params", "macs", "classes")


@click.command(help="What a file (.safetensors, .onnx, .plan, .json) or an architecture is, module by module.")
@click.argument("name", metavar="FILE|ARCH")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def show(name: str, as_json: bool) -> None:
    """See the help text."""
    found = description_of(name)
    if as_json or "modules" not in found:
        click.echo(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        if key not in _HIDDEN and value not in (None, {}, []):
            click.echo(f"{key + ':':16}{_text(value)}")
    if "params" in found:
        click.echo(f"{'size:':16}{size(found['size_bytes'])}, {found['params']:,} parameters, {found['macs']:,} MACs")
    if found["classes"]:
        click.echo(f"{'classes:':16}{', '.join(found['classes'])}")
    _print_modules(found["modules"])


def _print_modules(modules: list[dict[str, Any]]) -> None:
    dropped = sum(module["dropped"] for module in modules)
    click.echo(f"{len(modules)} modules" + (f", {dropped} dropped" if dropped else ""))
    for module in modules:
        a, b = module["channels"]
        shape = f"{a}" if a == b else f"{a} -> {b}"
        stride = f", stride {module['stride']}" if module["stride"] > 1 else ""
        mark = click.style("  dropped", fg="yellow") if module["dropped"] else ""
        click.echo(f"  {module['name']:12}{module['kind']:12}{shape} channels{stride}{mark}")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items() if item is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
