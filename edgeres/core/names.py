"""Literal tables `name -> "module:object"`: greppable, and importing a table imports nothing heavy.

The user's own Python is a function that they name as `package.module:function` on the command line: `result_of`. No
name that stands in a file comes there (`name_from_file`).
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import unicodedata
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, TypeVar

from edgeres.core.errors import EdgeresError, InputError, MissingDependency, did_you_mean
from edgeres.core.files import sha256_of

T = TypeVar("T")
# kinds of data that are files of the user's, as they are named; a file may name them, as they run nothing
FILES_OF_DATA = {
    "folder": "folder:PATH",
    "images": "images:DIR",
    "csv": "csv:FILE",
    "npy": "npy:FILE",
    "npz": "npz:FILE",
}
DATA_NAMES = f"digits, cifar10, cifar100, {', '.join(FILES_OF_DATA.values())}, package.module:function"
_EXTRA_OF = {
    **dict.fromkeys(("torch", "torchvision", "safetensors", "accelerate"), "train"),
    **dict.fromkeys(("onnx", "onnxruntime"), "onnx"),
}
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))  # soft hyphen, zero width, marks, BOM


def resolve(reference: str) -> Any:
    """The object that `"package.module:object"` names; raises MissingDependency where its module needs an extra."""
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as err:
        missing = (err.name or "").partition(".")[0]
        if missing in _EXTRA_OF:
            raise MissingDependency(missing, _EXTRA_OF[missing]) from err
        raise


def lookup(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`; raises InputError that lists the known names and guesses the one meant."""
    if name in table:
        return table[name]
    raise InputError(f"unknown {what} {name!r}{did_you_mean(name, table)} (known: {', '.join(sorted(table))})")


def is_function_name(name: str) -> bool:
    """Whether it reads `package.module:function`."""
    module, colon, function = name.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))


def module_found(reference: str) -> ModuleSpec | None:
    """Where the module of `package.module:function` is, searched as `result_of` does; of it nothing runs."""
    places, name, spec = [str(Path.cwd()), *sys.path], "", None
    for part in reference.partition(":")[0].split("."):
        name = f"{name}.{part}".removeprefix(".")
        try:
            spec = next(filter(None, (finder.find_spec(name, places) for finder in sys.meta_path)), None)
        except KeyError:  # a folder without __init__.py in another that is not imported
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(Path(place, part)) for place in places]
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or ())
    return spec


def with_code(name: str) -> str:
    """`name`, and of `package.module:function` the sha256 of that module's file too: what it does changes with it."""
    spec = module_found(name) if is_function_name(name) else None
    code = Path(spec.origin or "") if spec else Path()
    return f"{name} {sha256_of(code)}" if code.is_file() else name


def function_meant(name: str) -> str:
    """`; did you mean package.module:function?` if `name` is a Python file and a function in it, or all with dots."""
    file, _, function = name.rpartition(":")
    if not file and Path(f"{name.rpartition('.')[0].replace('.', '/')}.py").is_file():
        file, function = f"{name.rpartition('.')[0].replace('.', '/')}.py", name.rpartition(".")[2]
    meant = f"{'.'.join(Path(file).with_suffix('').parts)}:{function}" if file.endswith(".py") else ""
    return f"; did you mean {meant}?" if is_function_name(meant) else ""


def where_to_run(reference: str) -> str:
    """What to do where the module of a function is not found."""
    return function_meant(reference) or "; run it in the folder that has it, or with that folder in PYTHONPATH"


def result_of(reference: str, what: str, *arguments: Any) -> Any:
    """What the function `reference` returns; raises InputError, with file and line, if there is none or it fails.

    The present directory is searched first, as `python -m` does. `what` it should give: `data set`, for `arguments`.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(f"{what} {reference!r} should read package.module:function{function_meant(reference)}")
    sys.path.insert(0, directory := str(Path.cwd()))
    try:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as err:
            hint = where_to_run(reference) if f"{module_name}.".startswith(f"{err.name}.") else ""
            raise InputError(f"{what} {reference!r}: there is no module {err.name}{hint}") from err
        function = getattr(module, name, None)
        if not callable(function):
            hint = did_you_mean(name, vars(module))
            raise InputError(f"{what} {reference!r}: {module_name} has no function {name!r}{hint}")
        return function(*arguments)
    except EdgeresError:
        raise
    except (Exception, SystemExit) as err:
        frames = [frame for frame in traceback.extract_tb(err.__traceback__) if _is_users(frame.filename)]
        place = (err.filename, err.lineno) if isinstance(err, SyntaxError) and err.lineno else None
        file, line = place or ((frames[-1].filename, frames[-1].lineno) if frames else ("", None))
        where = f" ({file}, line {line})" if file else ""
        raise InputError(f"{what} {reference!r}: {type(err).__name__}: {err}{where}") from err
    finally:
        sys.path.remove(directory)


def _is_users(file: str) -> bool:
    return not file.startswith(("<frozen", str(Path(__file__).parents[1]))) and "site-packages" not in file


def name_from_file(name: str, where: str) -> str:
    """`name` of a data set as the file `where` has it; raises InputError for a function, which only the user names."""
    if ":" not in name or name.partition(":")[0] in FILES_OF_DATA:
        return name
    raise InputError(
        f"{where} names a Python function as its data set, and no function runs because a file says so;"
        f" if you trust it, name it yourself: --data {name}"
    )


def canonical_data_name(name: str) -> str:
    """What a data set is called in every report: a file or folder by its whole path, found from anywhere."""
    kind, _, argument = name.partition(":")
    if kind not in FILES_OF_DATA or not argument or "\0" in argument:
        return name
    return f"{kind}:{os.path.realpath(os.path.expanduser(argument))}"  # noqa: PTH111  # Path's raises for ~nobody


def plain_name(name: str) -> str:
    """`name` composed (NFC) and without signs that cannot be seen: two names that look alike become one."""
    return unicodedata.normalize("NFC", name).translate(_UNSEEN)
