"""Whether the house stays small: lines in each room, names that mean one thing, no circle, no crumbs.

    python tools/size.py          exit code 1 and a line for each rule of size.toml that is broken
    python tools/size.py --list   the rooms with their lines, and the small files with one importer

A room is a folder of edgeres; its own ceiling in size.toml is raised only in the commit that needs it, with the reason.
A circle is a set of modules of which each imports, at the top or inside a function, another that leads back to it.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import grimp

_HERE = Path(__file__).parent
_HOUSE, _TESTS = _HERE.parent / "edgeres", _HERE.parent / "tests"
_CRUMB_LINES = 60


def main() -> int:
    """1 if a rule is broken."""
    parser = argparse.ArgumentParser(description="Whether the house stays small.")
    parser.add_argument("--list", action="store_true", help="rooms and small files too")
    arguments = parser.parse_args()
    rules = tomllib.loads((_HERE / "size.toml").read_text(encoding="utf-8"))
    if arguments.list:
        print("\n".join(_listed(rules)))
    broken = [*_over_their_ceiling(rules), *_shared_names(rules), *_circles(rules), *_crumbs_beyond(rules)]
    for line in broken:
        print(f"size: {line}")
    return 1 if broken else 0


def _listed(rules: dict[str, Any]) -> Iterator[str]:
    tests = _lines_by_room(_TESTS)
    for room, lines in sorted(_lines_by_room(_HOUSE).items()):
        ratio = f", tests {tests[room] / lines:.2f} of it" if room in tests else ""
        yield f"{room}: {lines} lines, ceiling {rules['ceilings'].get(room, 'none')}{ratio}"
    lines, tested = sum(_lines_by_room(_HOUSE).values()), sum(tests.values())
    yield f"in all: {lines} lines in {len(_files(_HOUSE))} files, tests {tested / lines:.2f} of it"
    yield f"under {_CRUMB_LINES} lines with one importer:"
    yield from (f"  {name}: {count} lines, only for {importer}" for name, count, importer in _crumbs())


def _over_their_ceiling(rules: dict[str, Any]) -> Iterator[str]:
    found, ceilings = _lines_by_room(_HOUSE), rules["ceilings"]
    for room in sorted({*found, *ceilings}):
        if room not in ceilings:
            yield f"edgeres/{room} has no ceiling in tools/size.toml ({found[room]} lines)"
        elif room not in found:
            yield f"tools/size.toml has a ceiling for edgeres/{room}, which is no room"
        elif found[room] > ceilings[room]:
            yield (
                f"edgeres/{room} has {found[room]} lines, its ceiling is {ceilings[room]}; make it smaller, or say in"
                " the commit that raises the ceiling why it needs more"
            )


def _shared_names(rules: dict[str, Any]) -> Iterator[str]:
    """Public classes of one name, apart from the known ones; and known ones that are no longer shared."""
    homes: dict[str, list[str]] = {}
    for path in _files(_HOUSE):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(_HOUSE)))
    shared = {name: places for name, places in homes.items() if len(places) > 1}
    for name in sorted(set(shared) - set(rules["shared_names"])):
        yield f"{len(shared[name])} classes are called {name} ({', '.join(shared[name])}); one word per idea"
    for name in sorted(set(rules["shared_names"]) - set(shared)):
        yield f"{name} means one thing by now; take it out of shared_names in tools/size.toml"


def _circles(rules: dict[str, Any]) -> Iterator[str]:
    for room in sorted(_lines_by_room(_HOUSE)):
        inside = {name for name in _graph().modules if name.startswith(f"edgeres.{room}.")}
        arrows = {name: _graph().find_modules_directly_imported_by(name) & inside for name in inside}
        try:
            TopologicalSorter(arrows).prepare()
        except CycleError as err:
            if room not in rules["circles"]:
                yield f"a circle in edgeres/{room}: {' <- '.join(err.args[1])}"
        else:
            if room in rules["circles"]:
                yield f"edgeres/{room} has no circle by now; take it out of circles in tools/size.toml"


def _crumbs_beyond(rules: dict[str, Any]) -> Iterator[str]:
    crumbs = list(_crumbs())
    if len(crumbs) > rules["crumbs"]:
        names = ", ".join(name for name, _, _ in crumbs)
        yield (
            f"{len(crumbs)} files under {_CRUMB_LINES} lines have one importer, {rules['crumbs']} are let be: what"
            f" explains nothing by standing alone belongs to its caller ({names})"
        )


def _crumbs() -> Iterator[tuple[str, int, str]]:
    """(module, lines, importer) of small files that one other imports."""
    for path in _files(_HOUSE):
        name = ".".join(path.relative_to(_HOUSE.parent).with_suffix("").parts)
        count = _count(path)
        if path.name.startswith("__") or count >= _CRUMB_LINES or name not in _graph().modules:
            continue
        importers = _graph().find_modules_that_directly_import(name)
        if len(importers) == 1:
            yield name, count, next(iter(importers))


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("edgeres", cache_dir=None)


def _lines_by_room(root: Path) -> Counter[str]:
    """Lines of Python in each folder of `root`; files of `root` itself count as room `.`."""
    lines: Counter[str] = Counter()
    for path in _files(root):
        parts = path.relative_to(root).parts
        lines[parts[0] if len(parts) > 1 else "."] += _count(path)
    return lines


def _files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def _count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    sys.exit(main())
