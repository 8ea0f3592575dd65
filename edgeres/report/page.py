"""The one page: everything inside, nothing fetched, light and dark, readable on a phone and on paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import edgeres
from edgeres.core.errors import require
from edgeres.report.plots import lesion_svg, tradeoff_svg
from edgeres.report.summary import ModuleState, RunSummary, StageDetail
from edgeres.report.wording import COLUMNS, cells, size

TEMPLATE_NAME = "page.html.j2"
_ARGUMENT = "file"  # what a command takes without a name
_SHORT = 12  # hex digits that tell two files apart by eye


def page_from(summary: RunSummary) -> str:
    """The HTML text; raises MissingDependency without jinja2 or matplotlib."""
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    markup = require("markupsafe", "report").Markup
    template = environment.from_string((Path(__file__).parent / TEMPLATE_NAME).read_text(encoding="utf-8"))
    html: str = template.render(
        summary=summary,
        columns=COLUMNS,
        rows=[(row, cells(row)) for row in summary.rows],
        lesion=markup(lesion_svg(summary)),
        tradeoff=markup(tradeoff_svg(summary)),
        groups=list(module_groups(summary.modules)),
        details=[_detail(stage) for stage in summary.stages],
        machines=sorted({stage.environment.machine for stage in summary.stages}),
        versions=_versions(summary.stages),
        commands=commands_for(summary),
        short=lambda sha256: sha256[:_SHORT],
        version=edgeres.__version__,
    )
    return html


def module_groups(modules: Sequence[ModuleState]) -> Iterator[tuple[str, list[ModuleState]]]:
    """Modules by the stage of the network they stand in: `layer2` -> layer2.0, layer2.1, ..."""
    for name, members in groupby(modules, key=lambda module: module.name.rpartition(".")[0]):
        yield name or "modules", list(members)


def commands_for(summary: RunSummary) -> list[str]:
    """What to type to get this run again."""
    if summary.recipe:
        return ["edgeres run recipe.toml"]
    return [" ".join(["edgeres", stage.stage, *_options(stage.config)]) for stage in summary.stages]


def _options(config: dict[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        option = name.replace("_", "-")
        if name == _ARGUMENT and value:
            yield str(value)
        elif isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        elif isinstance(value, list) and value:
            yield f"--{option} {','.join(str(item) for item in value)}"
        elif value not in (None, []):
            yield f"--{option} {value}"


def _detail(stage: StageDetail) -> dict[str, Any]:
    settings = {name: value for name, value in stage.config.items() if value not in (None, [])}
    return {
        "stage": stage,
        "settings": settings,
        "size": size(stage.output.size_bytes) if stage.output else "",
        "file": Path(stage.output.path).name if stage.output else "",
    }


def _versions(stages: Sequence[StageDetail]) -> dict[str, str]:
    """Version of each package and system, all of them where stages differ."""
    found: dict[str, dict[str, None]] = {}
    for stage in stages:
        environment = stage.environment
        fixed = {"edgeres": environment.edgeres, "Python": environment.python, "system": environment.system}
        for name, version in {**fixed, **environment.packages}.items():
            found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}
