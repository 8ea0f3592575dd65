"""The files below folders, links followed, no loop walked: a real folder is entered once, whatever leads to it.

What lies in a folder itself comes before what links lead to. A link to a folder that holds the link is a loop. Hidden
folders, and those that systems leave behind, are not entered.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Collection, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

from edgeres.core.errors import InputError
from edgeres.data.images import SUFFIXES

_log = logging.getLogger(__name__)
_OF_SYSTEMS = frozenset({"@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN"})
_SUFFIXES_SAID = 4
_NEVER_IMAGES = frozenset({"Thumbs.db", "desktop.ini", "Icon\r"})


class FilesBelow:
    """What was found: lists `files[i]` and `links[i]` (to files, or to nothing) are of the i-th root.

    again    (path, real path) of folders that are loops or have been entered under another name
    entered  real paths of the folders whose files have been listed
    closed   folders that may not be read
    hidden   folders that were not entered for their names
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.files: list[list[str]] = [[] for _ in roots]
        self.links: list[list[str]] = [[] for _ in roots]
        self.again: list[tuple[str, str]] = []
        self.closed: list[str] = []
        self.hidden: list[str] = []
        self.entered: set[str] = set()
        self._linked = deque((number, str(root)) for number, root in enumerate(roots) if root.is_symlink())
        for number, root in enumerate(roots):
            if not root.is_symlink():
                self._enter(number, str(root), os.path.realpath(root))
        while self._linked:
            number, path = self._linked.popleft()
            self._enter(number, path, os.path.realpath(path))

    def _enter(self, number: int, path: str, real: str) -> None:
        holder = f"{_real_folder(_folder_of(path))}{os.sep}"
        if Path(path).is_symlink() and holder.startswith(f"{real.rstrip(os.sep)}{os.sep}"):
            self.again.append((path, real))
            return
        stack = [(path, real)]
        while stack:
            path, real = stack.pop()
            if real in self.entered:
                self.again.append((path, real))
                continue
            self.entered.add(real)
            stack += [
                (folder, f"{real.rstrip(os.sep)}{os.sep}{_name_of(folder)}") for folder in self._listed(number, path)
            ]

    def _listed(self, number: int, path: str) -> list[str]:
        """Sorts the entries of one folder into the lists; returns the folders in it that are no links."""
        folders: list[str] = []
        try:
            with os.scandir(path) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if is_hidden(entry.name) and Path(entry.path).is_dir():
                        self.hidden.append(entry.path)
                    elif not entry.is_symlink():
                        (folders if entry.is_dir() else self.files[number]).append(entry.path)
                    elif Path(entry.path).is_dir():
                        self._linked.append((number, entry.path))
                    else:
                        self.links[number].append(entry.path)
        except OSError:
            self.closed.append(path)
        return folders


def is_hidden(name: str) -> bool:
    """Whether a folder called so holds what a system or a program keeps for itself."""
    return name.startswith(".") or name in _OF_SYSTEMS


def check_is_utf8(path: str) -> None:
    """Raises InputError if the name of a file or folder of images is not UTF-8: it could stand in no report."""
    try:
        path.encode()
    except UnicodeEncodeError as err:
        shown = path.encode(errors="backslashreplace").decode()
        raise InputError(f"the name {shown} is not UTF-8; rename it (convmv -f latin1 -t utf8 renames many)") from err


def images_below(roots: Sequence[Path]) -> list[list[Path]]:
    """The image files below each root, sorted by path; a file that several links lead to is there once.

    What is left out is said in a line. Raises InputError for a folder that may not be read and a name that is no UTF-8.
    """
    _real_folder.cache_clear()
    walk = FilesBelow(roots)
    if walk.closed:
        raise InputError(f"cannot read the folder {walk.closed[0]}; allow it, or move it out of the data set")
    again, seen = [path for path, _ in walk.again], set[str]()
    found = [[Path(path) for path in files if _is_image(path)] for files in walk.files]
    for paths, links in zip(found, walk.links, strict=True):
        for link in sorted(filter(_is_image, links)):
            real = _real_file(link)
            if real in seen or (_folder_of(real) in walk.entered and _is_image(real) and Path(real).exists()):
                again.append(link)
            else:
                seen.add(real)
                paths.append(Path(link))
    for path in (path for paths in found for path in paths):
        check_is_utf8(str(path))
    _say_left_out(walk, again, seen)
    return [sorted(paths) for paths in found]


def _say_left_out(walk: FilesBelow, again: Sequence[str], taken: Collection[str]) -> None:
    """Says what of `walk` is not counted; `taken` are the real paths of links that are."""
    if again:
        what = "link leads" if len(again) == 1 else "links lead"
        _log.warning("warning: %d %s to images that are counted already and left out: %s", len(again), what, min(again))
    if walk.hidden:
        what = "folder is" if len(walk.hidden) == 1 else "folders are"
        _log.warning("warning: %d hidden %s left out: %s", len(walk.hidden), what, min(walk.hidden))
    every = (path for path in chain(*walk.files, *walk.links) if not _is_image(path))
    every = (path for path in every if not _name_of(path).startswith(".") and _name_of(path) not in _NEVER_IMAGES)
    if others := [path for path in every if os.path.realpath(path) not in taken]:
        counts = Counter(Path(path).suffix.lower() or "without a suffix" for path in others)
        listed = ", ".join(f"{number} {suffix}" for suffix, number in counts.most_common(_SUFFIXES_SAID))
        what = f"{len(others)} {'file is' if len(others) == 1 else 'files are'}"
        _log.warning("warning: %s left out for their suffix (%s), as %s", what, listed, min(others))


def _is_image(path: str) -> bool:
    name = _name_of(path)
    return not name.startswith(".") and f".{name.rpartition('.')[2].lower()}" in SUFFIXES


def _real_file(link: str) -> str:
    """`os.path.realpath` of a link to a file in an eighth of its time; there may be a million."""
    target = os.readlink(link)  # noqa: PTH115  # Path takes three times as long
    if not target.startswith(os.sep):
        target = f"{_real_folder(_folder_of(link))}{os.sep}{target}"
    name = _name_of(target)
    real = f"{_real_folder(_folder_of(target)).rstrip(os.sep)}{os.sep}{name}"
    return os.path.realpath(link) if name in {"", ".", ".."} or os.path.islink(real) else real  # noqa: PTH114


def _name_of(path: str) -> str:
    return path.rpartition(os.sep)[2]


def _folder_of(path: str) -> str:
    folder, found, _ = path.rpartition(os.sep)
    return folder or (os.sep if found else ".")


@lru_cache(maxsize=1024)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)
