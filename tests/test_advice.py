"""A command that a message advises can be pasted: it names the file or the run that it is to take, or a word for it.

What is put into it is quoted, and a command that shows images names them where no run remembers any.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOM = Path(__file__).parent.parent / "edgeres"
# What takes the newest file of the current run where it is given none, which need not be the one that is spoken of
_TAKES_CURRENT = "agree|bench|calibrate|compile|eval|export|gate|lint|optimize|prune|qat|quantize|recover|report|rerun"
_COMMAND = re.compile(rf"(?<!`)\bedgeres (?:{_TAKES_CURRENT})\b(?P<rest>[^;,)]*)")
_NAMED = re.compile(r"(?<!`)\bedgeres [a-z]+(?: --[a-z-]+)*(?P<rest>(?: \{\})+)")
_SHOWS_IMAGES = re.compile(r"(?<!`)\bedgeres (?:agree|calibrate|eval|qat|recover)\b(?P<rest>[^;,)]*)")
_NAMES_ONE = re.compile(r"\{|%s|\b[A-Z]{2,}|\bA B\b|\.\.\.|\w\.onnx|--help")
_DESCRIBES = {"description", "help", "short_help", "epilog"}
_COMPLETED = {"advised", "command_with"}  # what they are given first is no whole command
# Parts to which the names are added, and what speaks of the command that was typed
_NO_ADVICE = re.compile(r"^edgeres bench$|the same edgeres|left it so on purpose|makes them|--lr of edgeres")
_QUOTED = re.compile(r"typed\(|\w[\w.()]*\.typed$|source$")  # `source` was made so before
_HAS_NO_BLANK = {"_CHAPTER_OF[name]", "spec.variant", "report.run"}  # a chapter, a network, a title


class Message(NamedTuple):
    """A text with {} for what is put in, and the code of that in order."""

    line: int
    text: str
    values: tuple[str, ...] = ()


def messages_in(path: Path) -> Iterator[Message]:
    """Strings of the module that are no docstrings and no descriptions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    apart = {id(inner) for node in ast.walk(tree) for part in _apart(node) for inner in ast.walk(part)}
    for node in ast.walk(tree):
        if id(node) in apart:
            continue
        if isinstance(node, ast.JoinedStr):
            values = [one for one in node.values if isinstance(one, ast.FormattedValue)]
            text = "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values)
            yield Message(node.lineno, text, tuple(ast.unparse(one.value) for one in values))
            apart |= {id(one) for one in node.values}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Message(node.lineno, node.value)


def _apart(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        yield from (one for one in node.body[:1] if isinstance(one, ast.Expr))
    if isinstance(node, ast.keyword) and node.arg in _DESCRIBES:
        yield node
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _COMPLETED:
        yield from (one for one in node.args[:1] if isinstance(one, ast.Constant))


def bare_commands_in(text: str) -> list[str]:
    found = [] if _NO_ADVICE.search(text) else _COMMAND.finditer(text)
    return [one[0].strip() for one in found if not _NAMES_ONE.search(one["rest"])]


def commands_without_data_in(text: str) -> list[str]:
    found = [] if _NO_ADVICE.search(text) else _SHOWS_IMAGES.finditer(text)
    return [one[0].strip() for one in found if "--data" not in one["rest"]]


def unquoted_in(message: Message) -> list[str]:
    """Files and runs that are put into its commands as they are."""
    places = [place.start() for place in re.finditer(r"\{\}", message.text)]
    rest = [range(*one.span("rest")) for one in _NAMED.finditer(message.text)]
    put = (value for place, value in zip(places, message.values, strict=False) if any(place in one for one in rest))
    return [value for value in put if value not in _HAS_NO_BLANK and not _QUOTED.match(value)]


def everywhere(check) -> set[str]:
    return {
        f"{path.relative_to(ROOM)}:{message.line}: {found}"
        for path in ROOM.rglob("*.py")
        for message in messages_in(path)
        for found in check(message)
    }


def test_a_command_without_a_file_or_run_is_seen():
    assert bare_commands_in("not evaluated: edgeres eval") == ["edgeres eval"]
    assert bare_commands_in("edgeres export {}, then edgeres bench --on desk") == ["edgeres bench --on desk"]
    assert bare_commands_in("edgeres eval --run {}, edgeres export CHECKPOINT --half; `edgeres agree`") == []


def test_a_command_without_its_data_or_quotes_is_seen():
    assert commands_without_data_in("first: edgeres calibrate {}, edgeres quantize {}") == ["edgeres calibrate {}"]
    assert commands_without_data_in("edgeres eval {} --data DATA; made by `edgeres calibrate`") == []
    assert unquoted_in(Message(1, "{}: edgeres export {}; {}", ("a", "path", "b"))) == ["path"]
    assert unquoted_in(Message(1, "edgeres export {} --run {}", ("typed(path)", "home.typed"))) == []


def test_what_is_advised_names_its_file_or_run():
    assert everywhere(lambda message: bare_commands_in(message.text)) == set()


def test_what_is_advised_on_images_names_them():
    assert everywhere(lambda message: commands_without_data_in(message.text)) == set()


def test_what_is_advised_has_its_paths_in_quotes():
    assert everywhere(unquoted_in) == set()
