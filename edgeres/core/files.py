"""Files appear whole or not at all: written under a temporary name beside the target, then renamed."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from edgeres.core.errors import InputError

log = logging.getLogger(__name__)
_SCRATCH = ".networks-"  # begins the name of a folder that is needed while a stage runs
_CHUNK_BYTES = 1 << 20
_MODE = 0o666
_DEAD, _BEGAN = "Z", 19  # of the fields after the program's name in /proc/PID/stat, see proc(5)


def sha256_of(path: Path) -> str:
    """Hex sha256 of the file's bytes; raises InputError if it cannot be read."""
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises InputError where the file that is read inside is not there, or cannot be read."""
    try:
        yield
    except FileNotFoundError as err:
        raise InputError(f"{path} does not exist") from err
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err


def made_folder(path: Path, named: str | None = None) -> None:
    """Makes the folder if it is not there; raises InputError that says what the user `named`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise InputError(f"cannot write {named or path}: {err.strerror}") from err


def free_path(path: Path) -> Path:
    """`path`, or where something stands the first that is free of NAME2.SUFFIX, NAME3.SUFFIX, ..."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_stem(f"{path.stem}{number}")
    return free


def set_aside(*paths: Path) -> dict[Path, Path]:
    """Renames what stands at `paths`, whose names all get the first number that is free; -> as what each is kept."""
    ends = (f".old{number}" for number in count(1))
    end = next(end for end in ends if not any(path.with_name(path.name + end).exists() for path in paths))
    moved = {path: path.rename(path.with_name(path.name + end)) for path in paths if path.exists()}
    for path, aside in [*moved.items()][:1]:
        log.info("%s is of another call, or damaged: kept as %s", path, aside.name)
    return moved


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is renamed to `path`, on failure removed.

    What a killed process had begun to write to `path` goes too.
    """
    made_folder(path.parent, str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if (number := left.name.split(".")[-2]).isdecimal() and process_began(int(number)) is None:
            left.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.chmod(_MODE & ~_umask())
        os.replace(temporary, path)
    except OSError as err:
        raise InputError(f"cannot write {path}: {err.strerror or err}") from err
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """A folder below `folder`, made where it is missing, for what is needed only inside the `with`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder) as name:
        yield Path(name)


def clear_left_overs(folder: Path) -> None:
    """Removes what killed calls left half-written in a folder that nobody else works in now."""
    for path in (*folder.rglob(".*.tmp"), *folder.rglob(f"{_SCRATCH}*")):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _umask() -> int:
    """The process's file mode mask (it can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content`, whole or not at all: what libraries write themselves does not say that a disk is full."""
    with written(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def process_began(pid: int) -> str | None:
    """When the process began, as its system counts; None if it is gone. A number is used again, by another one."""
    if Path("/proc/self/stat").exists():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            return None if fields[0] == _DEAD else fields[_BEGAN]
        return None
    with contextlib.suppress(OSError):
        asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return "".join(asked.stdout.split()) or None
    return None
