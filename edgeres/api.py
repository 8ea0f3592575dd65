"""The Python interface: every stage of the command line, typed.

Every stage is a plain function `(source, config, out_dir) -> StageResult`, the same that the command of its name runs:

    from pathlib import Path
    from edgeres import api

    trained = api.train(None, api.TrainConfig(arch="resnet20", data="digits"), Path("out/train"))
    pruned = api.prune(trained.output, api.PruneConfig(drop=3, data="digits"), Path("out/prune"))

Names are imported when first used, so importing this module costs nothing; api.pyi beside it lists them.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module 'edgeres.api' has no attribute {name!r}")
    return getattr(importlib.import_module(_homes()[name]), name)


def __dir__() -> list[str]:
    return sorted(_homes())


@cache
def _homes() -> dict[str, str]:
    """Name -> the module it lives in, from the imports of api.pyi, which type checkers and editors read too."""
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module) for node in froms for alias in node.names}
