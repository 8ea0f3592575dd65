"""A command that a message advises can be pasted: it names the file or the run that it is to take, or a word for it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOM = Path(__file__).parent.parent / "edgeres"
# What takes the newest file of the current run where it is given none, which need not be the one that is spoken of
_TAKES_CURRENT = "agree|bench|calibrate|compile|eval|export|gate|lint|optimize|prune|qat|quantize|recover|report|rerun"
_COMMAND = re.compile(rf"(?<!`)\bedgeres (?:{_TAKES_CURRENT})\b(?P<rest>[^;,)]*)")
_NAMES_ONE = re.compile(r"\{|%s|\b[A-Z]{2,}|\bA B\b|\.\.\.|\w\.onnx|--help")
_DESCRIBES = {"description", "help", "short_help", "epilog"}
# Parts to which the names are added, what speaks of the command that was typed, and gate, which knows no file to name
_NO_ADVICE = re.compile(
    r"^edgeres bench$|the same edgeres|left it so on purpose|makes them|--lr of edgeres|^there is no second network"
)


def messages_in(path: Path) -> Iterator[tuple[int, str]]:
    """Strings of the module that are no docstrings and no descriptions, what is put in as {}."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    apart = {id(inner) for node in ast.walk(tree) for part in _apart(node) for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in apart:
            continue
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values)
            apart |= {id(one) for one in node.values}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def _apart(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        yield from (one for one in node.body[:1] if isinstance(one, ast.Expr))
    if isinstance(node, ast.keyword) and node.arg in _DESCRIBES:
        yield node


def bare_commands_in(text: str) -> list[str]:
    found = [] if _NO_ADVICE.search(text) else _COMMAND.finditer(text)
    return [one[0].strip() for one in found if not _NAMES_ONE.search(one["rest"])]


def test_a_command_without_a_file_or_run_is_seen():
    assert bare_commands_in("not evaluated: edgeres eval") == ["edgeres eval"]
    assert bare_commands_in("edgeres export {}, then edgeres bench --on desk") == ["edgeres bench --on desk"]
    assert bare_commands_in("edgeres eval --run {}, edgeres export CHECKPOINT --half; `edgeres agree`") == []


def test_what_is_advised_names_its_file_or_run():
    bare = {
        f"{path.relative_to(ROOM)}:{line}: {command}"
        for path in ROOM.rglob("*.py")
        for line, text in messages_in(path)
        for command in bare_commands_in(text)
    }
    assert bare == set()
