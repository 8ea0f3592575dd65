"""The Python interface: every stage of the command line, typed.

Every stage is a plain function `(source, config, out_dir) -> StageResult`, the same that the command of its name runs:

    from edgeres import api

    trained = api.train(None, api.TrainConfig(arch="resnet20", data="digits"), "out/train")
    pruned = api.prune(trained.output, api.PruneConfig(drop=3, data="digits"), "out/prune")

A path may be text, and a source the path of its file. Names are imported when first used, so importing this module
costs nothing; api.pyi beside it lists them.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeres.core.errors import InputError

_LIST = re.compile(r"(Sequence|tuple|list)\[")


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module 'edgeres.api' has no attribute {name!r}")
    found = getattr(importlib.import_module(_homes()[name]), name)
    return _with_paths(found) if inspect.isfunction(found) else found


def __dir__() -> list[str]:
    return sorted(_homes())


@functools.cache
def _homes() -> dict[str, str]:
    """Name -> the module it lives in, from the imports of api.pyi, which type checkers and editors read too."""
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    named = {alias.name: str(node.module) for node in froms for alias in node.names}
    return {name: module for name, module in named.items() if module.startswith("edgeres.")}


def _with_paths(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, taking text for a path and a path for an artifact."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        for name, value in given.arguments.items():
            wanted = str(signature.parameters[name].annotation)
            if isinstance(value, (str, Path)) and _LIST.match(wanted):
                raise InputError(f"{function.__name__}: {name} is a list, got {str(value)!r}; write [{str(value)!r}]")
            given.arguments[name] = _taken(value, wanted, function.__name__)
        return function(*given.args, **given.kwargs)

    return call


def _taken(value: Any, wanted: str, function: str) -> Any:
    """What a parameter annotated `wanted` gets for `value`; raises InputError for a file of another kind."""
    from edgeres.core.artifacts import model_from

    if wanted == "Sequence[Model]":
        return [_taken(one, "Model", function) for one in value]
    if not isinstance(value, (str, Path)) or wanted.startswith("str"):
        return value
    if "Path" in wanted:
        return Path(value)
    model = None if wanted == "None" else model_from(Path(value))
    if model is None or wanted not in {"Model", type(model).__name__}:
        raise InputError(f"{function} takes {wanted} as its source, got {value}")
    return model
