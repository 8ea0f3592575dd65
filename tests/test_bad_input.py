"""Every option of every command, given what it cannot take, and every kind of file, damaged: one line and a code.

The cases are made from the tables of options: a new option is covered on the day it appears, a new command
needs a row in BASES, how it is called in earnest. Each case runs in a process forked from this one, ended after
`LIMIT_S`: a value that is taken is allowed to begin its work.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import pkgutil
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest

import edgeres
from edgeres.cli.main import _run, cli
from edgeres.core.runs import started_text

LIMIT_S, WALL_S = 1.5, 15.0  # of the processor, and by the clock
MEMORY_BYTES = 12 << 30  # address space, not use: what asks for more is refused by the system
SMOKE = 24

ESCAPE = "a\x1b[2J\x1b]0;title\x07b"
RAW = os.fsdecode(b"\xff\xfe")
LONG = "x" * 300
TEXT = ("", ESCAPE, RAW, LONG)
VALUES: dict[str, tuple[str, ...]] = {
    "integer": ("", "many", "1.5", "-1", "99999999999999999999", "4000000000", ESCAPE),
    "float": ("", "many", "nan", "inf", "-1", "1e308", "1e-308", ESCAPE),
    "choice": ("", "no such", ESCAPE, RAW),
    "path": (*TEXT, "missing.onnx", "folder", "missing/x.json", "/dev/null"),
    "file": (*TEXT, "folder"),
    "text": (*TEXT, "no such", ",", "-1"),
    "boolean": ("=1",),
}
PLAIN = {"integer": "99999999999999999999", "float": "1e308"}  # no option takes these

BASES = {
    "run": "demo",
    "train": "resnet8 --data digits -o t.safetensors",
    "import": "m.safetensors -o i.safetensors",
    "lesion": "m.safetensors --data digits -o l.json",
    "optimize": "m.safetensors --data digits --budget 2s",
    "prune": "m.safetensors --data digits --drop 1 -o p.safetensors",
    "recover": "p.safetensors --data digits --teacher m.safetensors -o r.safetensors",
    "export": "m.safetensors -o x.onnx",
    "calibrate": "m.onnx --data digits -o s.json",
    "quantize": "m.onnx --scales scales.json -o q.onnx",
    "qat": "m.onnx --scales scales.json --data digits -o q.onnx",
    "compile": "int8.onnx -o x.plan",
    "study lesion": "m.safetensors --data digits -o l.json",
    "study reorder": "m.safetensors --data digits -o l.json",
    "study paths": "m.safetensors --data digits -o l.json",
    "study gradients": "--data digits -o l.json",
    "study depth": "--data digits -o l.json",
    "study ordering": "--data digits -o l.json",
    "study connect": "--data digits -o l.json",
    "eval": "m.onnx --data digits",
    "agree": "m.onnx int8.onnx --data digits",
    "bench": "m.onnx int8.onnx -o b.json",
    "report": "made",
    "gate": "made",
    "compare": "m.onnx int8.onnx",
    "rerun": "made",
    "show": "m.onnx",
    "ls": "data",
    "lint": "int8.onnx",
    "layers": "layers.json --onnx int8.onnx",
    "board add": "x host",
    "board check": "desk",
    "board list": "",
    "board remove": "desk",
    "doctor": "",
    "help": "",
}


MUTANTS = {
    "m.safetensors": (
        "show m.safetensors",
        "eval m.safetensors --data digits --images 20",
        "export m.safetensors -o x.onnx",
    ),
    "m.onnx": ("show m.onnx", "eval m.onnx --data digits --images 20", "calibrate m.onnx --data digits -o s.json"),
    "int8.onnx": (
        "show int8.onnx",
        "lint int8.onnx --fix --images 2 --no-build -o f.onnx",
        "agree m.onnx int8.onnx --data digits --images 20",
    ),
    "scales.json": ("show scales.json", "quantize m.onnx --scales scales.json -o q.onnx"),
    "layers.json": ("layers layers.json", "layers layers.json --onnx int8.onnx"),
    "runs/made/recipe.toml": ("run runs/made/recipe.toml --dry-run", "rerun made"),
    "runs/made/01-lesion/lesions.json": ("show runs/made/01-lesion/lesions.json", "report made --no-html"),
    "runs/made/02-prune/report.json": ("report made", "show runs/made", "gate made --max-loss 9", "prune --drop 1"),
    "runs/made/02-prune/eval.json": ("report made", "compare made made", "gate made --max-loss 9"),
    "runs/made/02-prune/eval.npy": ("report made --no-html", "gate made --max-loss 9"),
    "runs/made/06-export/started.json": ("ls runs", "report made --no-html", "export --run made"),
    "boards.toml": ("board list", "doctor --on desk"),
}
MUTANTS_EACH = 90
ODD: tuple[Any, ...] = (
    None,
    -1,
    0,
    10**30,
    1e308,
    float("nan"),
    "",
    "x",
    ESCAPE,
    [],
    {},
    [[]],
    True,
    "../../etc/passwd",
)


@dataclass(frozen=True)
class Mutant:
    """The file `path`, damaged as the seed has it."""

    path: str
    seed: int

    def content(self, whole: bytes) -> bytes:
        """JSON with a value replaced or taken out, or any file with bytes cut, changed, doubled or gone."""
        draw = random.Random(f"{self.path} {self.seed}")
        if self.path.endswith(".json") and draw.random() < 0.7:
            content = json.loads(whole)
            for _ in range(draw.choice((1, 1, 2))):
                replace_one(content, draw)
            return json.dumps(content).encode()
        start = draw.randrange(min(len(whole), 4096) if draw.random() < 0.5 else len(whole))
        end = start + draw.choice((1, 2, 8, 64, 1024))
        middle = draw.choice((b"", whole[start:end] * 2, bytes(end - start), draw.randbytes(end - start), b"\x1b[2J"))
        return draw.choice((whole[:start], whole[:start] + middle + whole[end:], whole[:start] + middle + whole[end:]))


def replace_one(content: Any, draw: random.Random) -> None:
    """Gives one place of the JSON something odd, or takes it out."""
    places = list(places_in(content))
    holder, key = draw.choice(places)
    if isinstance(holder, dict) and draw.random() < 0.3:
        holder.pop(key, None)
    else:
        holder[key] = draw.choice(ODD)


def places_in(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every (holder, key) below `content`."""
    for key in content if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], (dict, list)):
            yield from places_in(content[key])


@dataclass(frozen=True)
class Case:
    """One command line; `must_refuse` where no meaning of the value can be right."""

    command: str
    words: tuple[str, ...]
    must_refuse: bool
    mutant: Mutant | None = None


def commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


COMMANDS = dict(commands(cli))


def cases_of(name: str) -> Iterator[Case]:
    """Each option, and each argument in its place, with each value of its kind."""
    base = BASES[name].split()
    at = 0
    for parameter in COMMANDS[name].params:
        kind = "path" if parameter.type.name in {"path", "file"} else parameter.type.name
        for value in VALUES[kind]:
            refuse = not value or value == RAW or value == PLAIN.get(kind)
            if isinstance(parameter, click.Option):
                flag = parameter.opts[-1]
                words = (f"{flag}{value}",) if kind == "boolean" else (f"{flag}={value}",)
                yield Case(name, (*name.split(), *base, *words), refuse or kind == "boolean")
            else:
                yield Case(name, (*name.split(), *base[:at], value, *base[at + 1 :]), refuse)
        at += isinstance(parameter, click.Argument)


def mutants_of(path: str) -> Iterator[Case]:
    """The file damaged in `MUTANTS_EACH` ways, each read by one of its commands."""
    for seed in range(MUTANTS_EACH):
        words = tuple(MUTANTS[path][seed % len(MUTANTS[path])].split())
        yield Case(words[0], words, must_refuse=False, mutant=Mutant(path, seed))


ALL = [case for name in BASES for case in cases_of(name)]


def test_every_command_is_here():
    assert set(COMMANDS) == set(BASES)
    assert len(ALL) >= 1000


@pytest.fixture(scope="session")
def files(run_of, tmp_path_factory) -> Path:
    """A run, and files of every kind beside it; everything a command imports is loaded."""
    import accelerate  # noqa: F401
    import onnxruntime  # noqa: F401
    import torch

    for module in pkgutil.walk_packages(edgeres.__path__, "edgeres."):
        if ".agent." not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("files")
    run = run_of(home, {"use": "eval"})
    for place, name in (
        ("00-import/model.safetensors", "m.safetensors"),
        ("02-prune/model.safetensors", "p.safetensors"),
        ("03-export/model.onnx", "m.onnx"),
        ("04-calibrate/scales.json", "scales.json"),
        ("05-quantize/model.int8.onnx", "int8.onnx"),
    ):
        shutil.copy(run / place, home / name)
    shutil.copy(Path(__file__).parent / "stored" / "layers.json", home)
    (home / "folder").mkdir()
    (run / "06-export").mkdir()
    (run / "06-export" / "started.json").write_text(started_text("export", "key"))
    (run.parent / "latest").unlink(missing_ok=True)
    (run.parent / "latest").symlink_to("made")
    (home / "boards.toml").write_text('[desk]\nhost = "127.0.0.1"\nport = 9\n')
    return home


def outcome(words: tuple[str, ...], folder: Path) -> tuple[int | None, str]:
    """(exit code, a negative one for a signal, None at the limit; what was said) of one command line in `folder`."""
    said, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a process with threads forks
        pid = os.fork()
    if pid == 0:
        _child(words, folder, writes)
    os.close(writes)
    text, end_s, is_over = b"", time.monotonic() + WALL_S, False
    while not is_over and time.monotonic() < end_s and _used_s(pid) < LIMIT_S:
        if select.select([said], [], [], 0.1)[0]:
            some = os.read(said, 1 << 16)
            text, is_over = text + some, not some
    os.close(said)
    with contextlib.suppress(ProcessLookupError):
        if not is_over:
            os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if b"fork-based multiprocessing" in text:  # torch forks no process in which an earlier test has trained
        return _of_a_new_process(words, folder)
    return (os.waitstatus_to_exitcode(status) if is_over else None), text.decode(errors="replace")


def _of_a_new_process(words: tuple[str, ...], folder: Path) -> tuple[int | None, str]:
    """The same, seconds later."""
    own = {"EDGERES_RUNS": "runs", "EDGERES_BOARDS": "boards.toml", "HOME": str(folder), "EDGERES_DATA": str(folder)}
    house = str(Path(edgeres.__file__).parents[1])
    command = [sys.executable, "-m", "edgeres", *words]
    with subprocess.Popen(
        command, cwd=folder, env={**os.environ, **own, "PYTHONPATH": house}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            text, _ = process.communicate(timeout=WALL_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, ""
    return process.returncode, text.decode(errors="replace")


def _used_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system, see proc(5)
    return 0.0


def _child(words: tuple[str, ...], folder: Path, writes: int) -> NoReturn:
    code = 70
    try:
        os.setsid()
        os.dup2(writes, 1)
        os.dup2(writes, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        os.chdir(folder)
        os.environ |= {"EDGERES_RUNS": "runs", "EDGERES_BOARDS": "boards.toml", "HOME": str(folder)}
        os.environ |= {"EDGERES_DATA": str(folder)}
        sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace") for number in (1, 2))
        sys.argv = ["edgeres", *words]
        code = _run()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def faults(case: Case, files: Path, folder: Path) -> list[str]:
    """What is wrong with how the case ended."""
    before = digests(files)
    shutil.copytree(files, folder, symlinks=True, copy_function=os.link)
    if case.mutant is not None:
        path, content = case.mutant.path, case.mutant.content((files / case.mutant.path).read_bytes())
        (folder / path).unlink()
        (folder / path).write_bytes(content)
    code, text = outcome(case.words, folder)
    found = []
    if code not in {0, 1, 2, 3, 4, None}:
        found.append(f"ended with {code}")
    if "bug in edgeres" in text or "Traceback" in text:
        found.append("bug")
    if code in {2, 3, 4} and len(re.findall(r"^edgeres: ", text, re.MULTILINE)) != 1:
        found.append("not one line")
    if case.must_refuse and code != 2:
        found.append(f"taken ({code})")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text):
        found.append("control characters")
    if digests(files) != before:
        found.append("changed a source")
    shutil.rmtree(folder, ignore_errors=True)
    return [f"{' | '.join(found)}: {case.words!r} {case.mutant or ''}: {text[-300:]!r}"] if found else []


def digests(files: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files.iterdir() if path.is_file()}


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_no_value_of_any_option_is_a_bug(files: Any, tmp_path: Path, name: str):
    found = [fault for case in cases_of(name) for fault in faults(case, files, tmp_path / "work")]
    assert not found, "\n".join(found)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("path", MUTANTS)
def test_no_damaged_file_is_a_bug(files: Any, tmp_path: Path, path: str):
    found = [fault for case in mutants_of(path) for fault in faults(case, files, tmp_path / "work")]
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_some_of_them_are_no_bug(files: Any, tmp_path: Path):
    some = [*ALL[7 :: len(ALL) // SMOKE], *(next(mutants_of(path)) for path in MUTANTS)]
    found = [fault for case in some for fault in faults(case, files, tmp_path / "work")]
    assert not found, "\n".join(found)
