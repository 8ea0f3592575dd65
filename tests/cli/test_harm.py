"""A file of somebody else's runs nothing, replaces nothing and says nothing to the terminal."""

from __future__ import annotations

import io
import json
import pathlib
import re
import shutil
import sys

import pytest

from edgeres.cli.terminal import PlainStream

EVIL = 'open("PWNED", "w").write("imported")\ndef f():\n    open("PWNED", "w").write("called")\n'


@pytest.fixture(scope="module")
def made(run_of, tmp_path_factory):
    """A run of five stages, evaluated."""
    return run_of(tmp_path_factory.mktemp("made"), {"use": "eval"})


@pytest.fixture
def run(made, runs_folder, tmp_path):
    """A copy of the run, with `evil.py` in the present folder."""
    shutil.copytree(made, runs_folder / "made", symlinks=True)
    (runs_folder / "latest").symlink_to("made")
    (tmp_path / "evil.py").write_text(EVIL)
    yield runs_folder / "made"
    sys.modules.pop("evil", None)


def infected(run, name):
    """The run with `name` in place of every data set its files name."""
    for path in (*run.glob("*/*.json"), run / "recipe.toml"):
        path.write_text(re.sub(r'"digits"', json.dumps(name), path.read_text()))
    assert name in (run / "recipe.toml").read_text()


ESCAPE = "\x1b]0;title taken\x07\x1b[2J\x1b[31m\x9b\u202e\nFORGED: all rules kept"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def every_string(value, change):
    """JSON with `change` done to each string in it that is no key, hash or name of a kind or a file."""
    if isinstance(value, dict):
        return {key: every_string(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [every_string(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


SHOWN = ["show RUN", "report made --no-html", "gate made --max-loss 99 --max-p50 9ms", "compare made made", "ls runs"]
SHOWN += [
    "show RUN/00-import/model.safetensors",
    "show RUN/01-lesion/lesions.json",
    "show RUN/04-calibrate/scales.json",
]
SHOWN += ["show RUN/00-import", "eval no\x1b[2Jfile.onnx --data digits", "eval --data digits", "rerun made"]


@pytest.mark.parametrize("command", SHOWN)
def test_no_control_character_of_a_file_reaches_the_terminal(edgeres, run, runs_folder, command):
    for path in run.glob("*/*.json"):
        content = json.loads(path.read_text())
        for field in ("notes", "warnings", "environment", "results", "accuracy", "latency", "dataset", "config"):
            if field in content:
                content[field] = every_string(content[field], lambda text: text + ESCAPE)
        if path.name != "report.json" or "lesion" in path.parent.name:
            content = every_string(content, lambda text: text if len(text) == 64 else text + ESCAPE)
        path.write_text(json.dumps(content))
    model = run / "00-import" / "model.safetensors"
    size = int.from_bytes(model.read_bytes()[:8], "little")
    header = json.loads(model.read_bytes()[8 : 8 + size])
    card = json.loads(header["__metadata__"]["edgeres"])
    card["spec"]["classes"] = [f"{number}{ESCAPE}" for number in range(10)]
    header["__metadata__"]["edgeres"] = json.dumps(card | {"stage": ESCAPE})
    text = json.dumps(header).encode()
    model.write_bytes(len(text).to_bytes(8, "little") + text + model.read_bytes()[8 + size :])
    (runs_folder / f"x{ESCAPE}" / "00-train").mkdir(parents=True)
    _, out, err = edgeres(*command.replace("RUN", str(run)).split())
    assert out + err
    assert not CONTROL.search(out + err)
    assert not [line for line in (out + err).splitlines() if line.startswith("FORGED")]


OPENED: list[str] = []
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)
READING = [*SHOWN, "eval", "calibrate -o s.json", "quantize -o q.onnx", "lesion -o l.json", "export -o x.onnx"]


@pytest.mark.parametrize("command", READING)
def test_no_file_outside_is_opened_because_a_file_names_it(edgeres, run, tmp_path_factory, command):
    outside = tmp_path_factory.mktemp("outside")
    shutil.copy(run / "00-import" / "model.safetensors", outside / "x.safetensors")
    shutil.copy(next(run.glob("*/eval.npy")), outside / "x.npy")
    for path in run.glob("*/*.json"):
        content = every_string(json.loads(path.read_text()), lambda text: outward(text, outside))
        path.write_text(json.dumps(content))
    OPENED.clear()
    edgeres(*command.replace("RUN", str(run)).split())
    assert not [path for path in OPENED if str(outside) in path]


def outward(text, outside):
    """Names of files become names of files outside."""
    return (
        str(outside / f"x{suffix}")
        if (suffix := pathlib.PurePath(text).suffix) in {".safetensors", ".onnx", ".npy"}
        else text
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_keeps_our_colours_and_nothing_else():
    PlainStream(screen := Terminal()).write("\x1b[32mpass\x1b[0m \x1b[1;36m1\x1b[0m \x1b[2J\x1b[8m\x1b]0;x\x07\r")
    assert screen.getvalue() == "\x1b[32mpass\x1b[0m \x1b[1;36m1\x1b[0m \\u001b[2J\\u001b[8m\\u001b]0;x\\u0007\\u000d"


def test_stdout_that_is_closed_is_no_bug(edgeres, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert edgeres("ls", "data") == (0, "", "")


COMMANDS = {
    "eval": ["eval", "--images", "20"],
    "calibrate": ["calibrate", "-o", "s.json"],
    "prune": ["prune", "RUN/00-import/model.safetensors", "--drop", "1", "-o", "p.safetensors"],
    "lesion": ["lesion", "-o", "l.json"],
    "quantize": ["quantize", "RUN/03-export/model.onnx", "--scales", "S", "--method", "auto", "-o", "q.onnx"],
    "rerun": ["rerun", "made"],
    "run": ["run", "RUN/recipe.toml", "--name", "again"],
    "report": ["report", "made", "--no-html"],
    "show": ["show", "RUN"],
    "gate": ["gate", "made", "--max-loss", "99"],
}


@pytest.mark.parametrize(
    ("command", "name"),
    [*((command, "evil:f") for command in COMMANDS), *(("eval", name) for name in ("os:abort", "Folder:f", ":f"))],
)
def test_a_function_that_a_file_names_is_not_run(edgeres, run, tmp_path, command, name):
    infected(run, name)
    words = [
        word.replace("RUN", str(run)).replace("S", f"{run}/04-calibrate/scales.json") for word in COMMANDS[command]
    ]
    code, _, err = edgeres(*words)
    assert not (tmp_path / "PWNED").exists()
    if command not in {"report", "show", "gate"}:
        assert code == 2
        assert f"if you trust it, name it yourself: --data {name}" in err
        may_do_without = command in {"prune", "quantize"}  # a warning, and the refusal where images are looked for
        assert err.count("\n") == 1 + may_do_without


def test_a_function_the_user_names_is_run(edgeres, run, tmp_path):
    (tmp_path / "evil.py").write_text(
        "from edgeres.data import dataset_from\ndef f():\n    return dataset_from('digits')\n"
    )
    infected(run, "evil:f")
    assert edgeres("eval", "--images", 20, "--data", "evil:f")[0] == 0
    assert edgeres("run", run / "recipe.toml", "--name", "again", "--data", "evil:f", "--dry-run")[0] == 0


def test_a_network_that_a_recipe_names_as_a_function_is_not_run(edgeres, run, tmp_path):
    (tmp_path / "net.toml").write_text('name = "net"\n[[stage]]\nuse = "import"\nfile = "evil:f"\n')
    code, _, err = edgeres("run", tmp_path / "net.toml")
    assert (code, err.count("\n")) == (2, 1)
    assert f"if you trust it, name it yourself: edgeres run {tmp_path / 'net.toml'} --set import.file=evil:f" in err
    _, _, err = edgeres("run", tmp_path / "net.toml", "--name", "a b", "--set", "import.size=32", "--dry-run")
    advised = f"run {tmp_path / 'net.toml'} --name 'a b' --dry-run --set import.size=32 --set import.file=evil:f"
    assert f"name it yourself: edgeres {advised}" in err  # what was asked for stays asked for
    assert not (tmp_path / "PWNED").exists()
