"""The user's own data: `package.module:function`, a function without arguments that returns a Dataset."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgeres.core.errors import InputError, did_you_mean
from edgeres.data.dataset import Dataset


def dataset_from_function(reference: str) -> Dataset:
    """What the function returns; raises InputError if there is no such function or it returns something else.

    The present directory is searched first, as `python -m` does. Its exceptions pass unchanged.
    """
    module_name, _, name = reference.partition(":")
    with _present_directory_importable():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as err:
            raise InputError(f"data set {reference!r}: there is no module {err.name}") from err
        function = getattr(module, name, None)
        if not callable(function):
            hint = did_you_mean(name, vars(module))
            raise InputError(f"data set {reference!r}: {module_name} has no function {name!r}{hint}")
        dataset = function()
    if not isinstance(dataset, Dataset):
        raise InputError(f"{reference} must return an edgeres.data.Dataset, got {type(dataset).__name__}")
    return dataset


@contextmanager
def _present_directory_importable() -> Iterator[None]:
    directory = str(Path.cwd())
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        sys.path.remove(directory)
