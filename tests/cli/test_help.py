"""`edgeres help`: the manual's pages, and that what they name exists."""

from __future__ import annotations

import ast
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgeres.cli.help import PAGES, page, topics
from edgeres.cli.main import CHAPTERS, COMMANDS, STAGE_COMMANDS, cli
from edgeres.core.jetpacks import RELEASES, newest_opset

from .conftest import command_of

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted(PAGES.glob("*.md"))]
OTHERS = [ROOT / "tools" / "README.md", ROOT / ".github" / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
SMALLEST, LARGEST, README_LARGEST = 2_000, 6 * 1024, 12 * 1024
LOOKED_FOR = {
    "which networks and checkpoints can I import": ("models", "## Which networks"),
    "can I prune a network of my own writing": ("networks", "`package.module:function`"),
    "may I bring the ONNX file of another tool": ("models", "## An ONNX file of another tool"),
    "how must my images lie in folders": ("data", "## A folder of images"),
    "what becomes of damaged images and of transparency": ("data", "An image that cannot be decoded"),
    "I trained on BGR and with a mean of 0 to 255": ("models", "OpenCV's BGR"),
    "my checkpoint is a pickled network": ("models", "A pickled network"),
    "how many modules can go for my latency budget": ("choosing", "`--target-latency 3ms`"),
    "how do I get the accuracy back without labels": ("recovering", "no labels"),
    "how do I quantize with my images": ("quantizing", "## Calibrate"),
    "why is a layer of my INT8 file float": ("quantizing", "## What stays float, and why"),
    "what does a finding of lint mean": ("lint", "## The findings"),
    "how do I run on my Jetson without root": ("boards", "No root is needed"),
    "sudo on my board asks for a password": ("boards", "`sudo` that asks no password"),
    "INT8 lost too much, what now": ("quantizing", "Too much lost?"),
    "why is my board's measurement not valid": ("readings", "## What makes a run invalid"),
    "which of two files is faster": ("bench", "## Which of two is faster"),
    "how do I fail a CI job that got slower": ("report", "## A gate for CI"),
    "may a job hold a release against the last one": ("report", "`edgeres compare OLD NEW --json`"),
    "how do I read the JSON, what are the exit codes": ("json", "## Exit codes"),
    "it ran out of memory": ("trouble", "*Out of memory.*"),
    "accuracy after the import is not mine": ("trouble", "*Top-1 is far below your own.*"),
    "what if my latency cannot be reached": ("choosing", "exit code 2"),
    "never drop these modules": ("choosing", "`--keep layer1.0,layer3.2` never drops these"),
    "my board's ssh has another port": ("boards", "me@192.168.1.50:2222"),
    "the opset is too new for my JetPack": ("models", "`edgeres export --opset 17`"),
    "what is a power mode called": ("boards", "`MODE_15W`"),
    "what does ± mean, and an interval that holds zero": ("figures", '"not told apart by n images"'),
    "what does invalid mean beside a latency": ("figures", "- *invalid*"),
    "which TensorRT has my JetPack": ("engines", "| 6.1 to 6.2.2 | 10.3.0 | 20 |"),
    "which files of a run may I delete": ("recipes", "May be deleted:"),
    "can I load the weights without edgeres": ("python", "Without edgeres a checkpoint"),
    "can I train it back by a loss of my own": ("recovering", "## A loss of your own"),
    "my images are listed in a CSV file": ("data", "The columns of a table"),
    "does it go on after Ctrl-C": ("recipes", "## What resumes"),
}
ELSEWHERE = {"--exportLayerInfo", "--nproc-per-node"}  # of trtexec and torchrun
AGENT = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "edgeres" / "bench" / "agent").glob("*.py"))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code_in(text: str) -> list[str]:
    """Inline code and the lines of code blocks, continued lines joined, comments left out."""
    text = text.replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    inline = re.findall(r"`([^`]+)`", text)
    lines = [line for block in fenced for line in block.splitlines()]
    return [" ".join(line.partition("  #")[0].split()) for line in (*lines, *indented, *inline)]


def options_of(command: click.Command) -> set[str]:
    return {name for one in command.get_params(click.Context(command)) for name in (*one.opts, *one.secondary_opts)}


def all_options() -> set[str]:
    commands = [cli, *(command_of([name])[0] for name in (*STAGE_COMMANDS, *COMMANDS))]
    inner = [group.get_command(click.Context(group), name) for group in commands for name in names_in(group)]
    return set().union(*(options_of(command) for command in (*commands, *inner) if command is not None))


def commands() -> dict[str, click.Command]:
    """`eval`, `board add`, ...: all that are no groups."""
    found = {}
    for name in (*STAGE_COMMANDS, *COMMANDS):
        command, _ = command_of([name])
        for inner in names_in(command):
            found[f"{name} {inner}"] = command_of([name, inner])[0]
        if not names_in(command):
            found[name] = command
    return found


def names_in(command: click.Command) -> list[str]:
    return command.list_commands(click.Context(command)) if isinstance(command, click.Group) else []


def test_a_group_says_of_each_command_a_whole_sentence():
    groups = [one for one, _ in (command_of([name]) for name in COMMANDS) if names_in(one)]
    said = [line for one in groups for line in one.get_help(click.Context(one, max_content_width=80)).splitlines()]
    assert [line for line in said if line.endswith("...") and "[ARGS]" not in line] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem if path != README else "front")
def test_commands_and_options_that_a_page_names_exist(path):
    known, found = all_options(), 0
    for code in code_in(text_of(path)):
        words = code.split()
        given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
        if words[:1] == ["edgeres"]:
            command, rest = command_of(words[1:])
            assert given <= options_of(command), code
            if command.name == "help" and rest and not rest[0].isupper():
                assert rest[0] in topics(), code
            found += 1
        else:
            assert all(name in known | ELSEWHERE or f'"{name}"' in AGENT for name in given), code
    assert found


def strings_in(path: Path) -> Iterator[str]:
    """What the code may print: `{}` for what is put in, without docstrings and what stands in `--help`."""
    tree = ast.parse(text_of(path))
    passed = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
    for one in ast.walk(tree):
        if isinstance(one, ast.keyword) and one.arg in {"help", "description"}:
            passed |= {id(inner) for inner in ast.walk(one.value)}
        if id(one) not in passed and isinstance(one, ast.JoinedStr):
            passed |= {id(part) for part in one.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in one.values)
        if id(one) not in passed and isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def wrong_in(advice: str) -> str:
    """What a command in a message lacks or names that does not exist; prose that goes on behind it is no argument."""
    words = advice.split()[1:]
    try:
        command, rest = command_of(words)
    except KeyError:
        return ""  # `edgeres writes ...`
    if isinstance(command, click.Group):
        return ""
    known = options_of(command)
    unknown = [word for word in rest if re.match(r"--[a-z]", word) and word.partition("=")[0] not in known]
    needed = [one for one in command.params if isinstance(one, click.Argument) and one.required]
    given = [word for word in rest if not word.startswith("-")]
    return " ".join(unknown) or (f"no {needed[0].human_readable_name}" if len(given) < len(needed) else "")


@pytest.mark.parametrize("room", sorted(path.name for path in (ROOT / "edgeres").iterdir() if path.is_dir()))
def test_commands_that_a_message_advises_exist_and_are_whole(room):
    found = {
        f"{path.name}: {advice}: {wrong}"
        for path in (ROOT / "edgeres" / room).rglob("*.py")
        for text in strings_in(path)
        for advice in re.findall(r"(?<!another )\bedgeres [a-z][^;,()`\n]*", text)
        if (wrong := wrong_in(advice))
    }
    assert not found


@pytest.mark.parametrize(("topic", "option", "has"), [("json", "--json", False), ("boards", "--on", True)])
def test_commands_that_take_an_option_are_those_that_its_page_says(topic, option, has):
    said = " ".join(text_of(PAGES / f"{topic}.md").split("\n\n")[1].split())
    named = {name.removeprefix("edgeres ").removesuffix(f" {option}") for name in re.findall(r"`([^`]+)`", said)}
    found = {name for name, command in commands().items() if (option in options_of(command)) is has}
    assert named - {option, f"{option} NAME", "board"} == found


@pytest.mark.parametrize("path", [*DOCUMENTS, *OTHERS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)]+)\)", text_of(path)):
        if target.startswith("http"):
            continue
        name, _, heading = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", text_of(linked), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("path", [*DOCUMENTS, *OTHERS], ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_paths_that_a_page_names_exist(path):
    for named in re.findall(r"`((?:edgeres|tools|tests|calibration)/[\w./-]*)", text_of(path)):
        assert (ROOT / named).exists(), named


def test_pages_are_short_enough_to_be_read():
    assert README.stat().st_size <= README_LARGEST
    sizes = {name: (PAGES / f"{name}.md").stat().st_size for name in topics()}
    assert not {name: size for name, size in sizes.items() if not SMALLEST <= size <= LARGEST}


def test_every_page_is_listed_and_linked_from_the_readme():
    front = text_of(README)
    for name in topics():
        assert f"]({name}.md)" in text_of(PAGES / "README.md"), name
        assert f"](edgeres/help/{name}.md)" in front, name


@pytest.mark.parametrize(("where", "words"), LOOKED_FOR.values(), ids=LOOKED_FOR)
def test_what_a_new_user_looks_for_is_on_a_page_that_the_readme_links(where, words):
    assert f"](edgeres/help/{where}.md)" in text_of(README)
    assert words in " ".join(text_of(PAGES / f"{where}.md").split())


def test_the_table_of_jetpacks_is_what_the_code_knows():
    rows = {}
    for release in RELEASES:
        rows.setdefault(release.tensorrt, []).append(release.name)
    written = [
        f"| {names[0]}{f' to {names[-1]}' * (len(names) > 1)} | {version} | {newest_opset(version)} |"
        for version, names in rows.items()
    ]
    assert "\n".join(["| --- | --- | --- |", *written, ""]) in text_of(PAGES / "engines.md")


def test_every_command_has_its_page():
    named = [name for names in CHAPTERS.values() for name in names]
    assert sorted([*named, "help"]) == sorted([*STAGE_COMMANDS, *COMMANDS])
    assert set(CHAPTERS) <= set(topics())


def test_a_list_and_a_page_are_plain_in_a_pipe(edgeres):
    code, out, _ = edgeres("help")
    assert code == 0
    assert all(f"- {name}: " in out for name in topics())
    code, out, _ = edgeres("help", "quantizing")
    assert code == 0
    assert out == page("quantizing")
    assert not re.search(r"\x1b|<!--|\]\(", out)


@pytest.mark.parametrize("name", ["README", *topics()])
def test_a_page_fits_a_terminal(name):
    assert [line for line in page(name).splitlines() if len(line) > 80 and not line.startswith("|")] == []


def test_a_command_shows_its_options_and_its_page(edgeres):
    code, out, _ = edgeres("help", "study", "lesion")
    assert code == 0
    assert out.startswith("Usage: edgeres study lesion")
    assert "Manual: edgeres help quantizing" in edgeres("help", "calibrate")[1]
    assert "Manual: edgeres help quantizing" in edgeres("calibrate", "--help")[1]


@pytest.mark.parametrize(
    ("words", "guess"), [(("modles",), "models"), (("study", "lesin"), "lesion"), (("benhc",), "bench")]
)
def test_an_unknown_topic_is_answered_with_a_guess(edgeres, words, guess):
    code, out, err = edgeres("help", *words)
    assert (code, out) == (2, "")
    assert f"did you mean {guess}?" in err
    assert "edgeres help" in err


@pytest.mark.parametrize(
    ("words", "written", "pages"),
    [
        (("jetson",), "jetson", "boards, "),
        (("EXIF",), "exif", "models"),
        (("power", "mode"), "power mode", ""),
        (("optimisation",), "optimiz", "optimizing"),
        (("normalized",), "normali", ""),
        (("±",), "±", "figures"),
    ],
)
def test_a_word_that_is_no_page_is_answered_with_the_pages_that_speak_of_it(edgeres, words, written, pages):
    code, out, err = edgeres("help", *words)
    assert (code, err) == (0, "")
    said, _, named = out.strip().partition(" is no page of its own; these speak of it: ")
    assert said == repr(" ".join(words))
    assert pages in named
    assert all(written in page(name).lower() for name in named.split(", "))


@pytest.mark.parametrize(("rows", "paged"), [(200, False), (24, True)])
def test_a_terminal_gets_it_set_and_paged_where_it_is_long(rows, paged, tmp_path):
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho PAGED\ncat\n")
    pager.chmod(0o755)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PAGER": str(pager), "TERM": "xterm", "COLUMNS": "80", "LINES": str(rows)}
    environment.pop("MANPAGER", None)
    with subprocess.Popen(
        [sys.executable, "-m", "edgeres", "help", "lint"], stdin=theirs, stdout=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while part := _read(ours):
            shown += part
    os.close(ours)
    text = shown.decode()
    assert process.returncode == 0
    assert ("PAGED" in text) is paged
    assert ("\x1b[" in text) is not paged  # a pager that may not know them gets no escapes
    assert "##" not in text
    assert "zero-point" in text


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # what Linux says at the end
        return b""


def test_the_manual_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from edgeres.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "help", "models"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Models" in done.stdout
