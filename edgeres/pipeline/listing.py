"""What there is to choose from: by kind, name -> one line about it."""

from __future__ import annotations

from collections.abc import Callable

from edgeres.core.config import toml_from
from edgeres.core.runs import Run, StageFolder, runs_root
from edgeres.data import DATASETS
from edgeres.models import FAMILIES, family_named
from edgeres.pipeline.recipe import shipped_recipes
from edgeres.pipeline.schemas import SCHEMAS
from edgeres.pipeline.stages import STAGES


def _datasets() -> dict[str, str]:
    known = {name: "" for name in DATASETS if name != "folder"}
    return {
        **known,
        "folder:PATH": "train/ and val/ with one folder a class, or one tree that is split",
        "package.module:function": "your own: () -> edgeres.data.Dataset",
    }


def _recipes() -> dict[str, str]:
    import importlib.resources

    rows = {}
    for name, entry in sorted(shipped_recipes().items()):
        with importlib.resources.as_file(entry) as file:
            rows[name] = str(toml_from(file).get("about", ""))
    return rows


def _runs() -> dict[str, str]:
    paths = sorted(runs_root().iterdir()) if runs_root().is_dir() else []
    folders = [path for path in paths if path.is_dir() and not path.is_symlink() and path.name[0] != "."]
    return {path.name: ", ".join(map(_folder_in_words, Run(path).folders())) for path in folders}


def _folder_in_words(folder: StageFolder) -> str:
    state = "" if folder.is_finished else " (running)" if folder.is_busy else " (not finished)"
    return folder.path.name + state


LISTINGS: dict[str, Callable[[], dict[str, str]]] = {
    "models": lambda: {name: ", ".join(family_named(name).variants) for name in FAMILIES},
    "data": _datasets,
    "recipes": _recipes,
    "runs": _runs,
    "stages": lambda: {
        name: f"{row.source.suffix if row.source else 'nothing'} -> {row.output.__name__}"
        for name, row in STAGES.items()
    },
    "schemas": lambda: {name: schema.found for name, schema in SCHEMAS.items()},
}
