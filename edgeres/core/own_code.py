"""The user's own Python: a function that they name as `package.module:function` on the command line, called.

No name that stands in a file comes here (`core.names.name_from_file`).
"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from edgeres.core.errors import EdgeresError, InputError, did_you_mean
from edgeres.core.names import function_meant


def result_of(reference: str, what: str) -> Any:
    """What the function `reference` returns; raises InputError, with file and line, if there is none or it fails.

    The present directory is searched first, as `python -m` does. `what` it should give: `data set`.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise InputError(f"{what} {reference!r} should read package.module:function{function_meant(reference)}")
    sys.path.insert(0, directory := str(Path.cwd()))
    try:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as err:
            hint = function_meant(reference) if err.name == module_name else ""
            raise InputError(f"{what} {reference!r}: there is no module {err.name}{hint}") from err
        function = getattr(module, name, None)
        if not callable(function):
            hint = did_you_mean(name, vars(module))
            raise InputError(f"{what} {reference!r}: {module_name} has no function {name!r}{hint}")
        return function()
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
