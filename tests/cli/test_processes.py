"""Commands under torchrun: two processes find and write what one does, and say it once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgeres.core.artifacts import Checkpoint

Starter = Callable[[str, object], subprocess.CompletedProcess[str]]
DATA = ("--data", "digits", "--images", "60", "--threads", "1")
PHOTOS = (*DATA[:4], "--batch", "20")
RECIPE = """
name = "all"
data = "digits"
[[stage]]
use = "import"
file = "whole.safetensors"
[[stage]]
use = "prune"
max_loss = 99.0
images = 400
choose_on = 40
[[stage]]
use = "export"
[[stage]]
use = "calibrate"
images = 64
[[stage]]
use = "quantize"
effort = "quick"
[[stage]]
use = "eval"
images = 100
batch = 20
"""
COMMANDS = {
    "lesion": ("study", "lesion", "whole.safetensors", *PHOTOS, "-o", "{}/lesions.json"),
    "solved": ("prune", "whole.safetensors", "--drop", "2", "--score", "solved", *PHOTOS, "-o", "{}/two.safetensors"),
    "prune": (
        *("prune", "whole.safetensors", "--drop", "1", "--recover", "mimic", "--epochs", "1", *PHOTOS),
        *("-o", "{}/short.safetensors"),
    ),
    "recover": (
        *("recover", "{}/short.safetensors", "--teacher", "whole.safetensors", "--method", "solve", *DATA),
        *("-o", "{}/back.safetensors"),
    ),
    "export": ("export", "whole.safetensors", "-o", "{}/whole.onnx"),
    "calibrate": ("calibrate", "{}/whole.onnx", *DATA[:4], "-o", "{}/scales.json"),
    "eval": ("eval", "{}/whole.onnx", *PHOTOS, "--json"),
    "run": ("run", "recipe.toml"),
}
SCRIPT = """
import json
from edgeres.cli.main import _followed, _led
from edgeres.core import processes
from edgeres.quantize import calibrate

def run(name, words, folder):
    os.environ["EDGERES_RUNS"] = f"{folder}/runs"
    sys.argv = ["edgeres", "-q", *(word.format(folder) for word in words)]
    with open(f"{folder}/{name}.{os.environ['RANK']}.out", "a") as out:
        os.dup2(out.fileno(), 1)
        sys.stdout = out
        code = _led(None) if processes.is_main() else _followed()
    os._exit(code)
"""
SAME = """
codes = [
    max(map(abs, ended(count, run, name, words, folder)))
    for name, words in json.loads(sys.argv[1]).items()
    for folder, count in (("one", 1), ("two", 2))
]
sys.exit(max(codes))
"""
FAILING = """
from edgeres.core.errors import InputError

def refuse(*args):
    raise InputError("a photo is damaged")

def run_with(fault, name, words, folder):
    if os.environ["RANK"] == "1":
        setattr(*{
            "refused": (calibrate, "statistics_of", refuse),  # where all are told of what each has found
            "other": (calibrate, "plain", refuse),  # before that
            "killed": (calibrate, "statistics_of", lambda *args: os._exit(9)),
        }[fault])
    run(name, words, folder)

for fault in ("refused", "other", "killed"):
    print(ended(2, run_with, fault, "calibrate", json.loads(sys.argv[1]), "."), flush=True)
"""
UNALIKE = {"created", "environment", "source", "path", "scales"}


@pytest.fixture
def started(checkpoint_of, spec_of, forking, tmp_path) -> Starter:
    """A script at work beside a network."""
    checkpoint_of(spec_of("resnet14", width=8), "whole.safetensors")

    def start(script: str, words: object) -> subprocess.CompletedProcess[str]:
        (tmp_path / "script.py").write_text(forking + SCRIPT + script)
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "script.py", json.dumps(words)]
        return subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    return start


@pytest.mark.slow
def test_two_processes_write_what_one_does(started, tmp_path):
    one, two = files_of(started, tmp_path, ("lesion", "solved", "export", "calibrate", "eval"))
    for name in ("two.safetensors", "lesions.json", "scales.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    for name in ("lesions.json.report.json", "two.safetensors.report.json", "eval.0.out"):
        assert found_in(one / name) == found_in(two / name), name


@pytest.mark.exhaustive
@pytest.mark.slow
def test_two_processes_recover_and_run_a_recipe_as_one_does(started, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    one, two = files_of(started, tmp_path, ("prune", "recover", "run"))
    assert (one / "short.safetensors").read_bytes() == (two / "short.safetensors").read_bytes()
    made = {path.relative_to(one) for path in one.glob("runs/all/*/*") if path.suffix != ".html"}
    assert len(made) > 10
    for name in made:
        found = [found_in(at / name) if name.suffix == ".json" else (at / name).read_bytes() for at in (one, two)]
        assert found[0] == found[1], name
    weights, others = load_file(one / "back.safetensors"), load_file(two / "back.safetensors")
    start = load_file(one / "short.safetensors")
    assert any(not torch.equal(weights[key], start[key]) for key in start)
    for key, weight in weights.items():
        assert torch.allclose(others[key], weight, rtol=1e-5, atol=1e-5), key


@pytest.mark.slow
def test_what_ends_the_second_process_ends_both_with_one_line(started, exported, tmp_path):
    exported(Checkpoint(tmp_path / "whole.safetensors"), ".").path.rename(tmp_path / "whole.onnx")
    done = started(FAILING, COMMANDS["calibrate"])
    assert done.stdout.splitlines() == ["[2, 0]", "[2, 0]", "[1, 9]"], done.stderr
    said = done.stderr.splitlines()
    assert said[:2] == ["edgeres: a photo is damaged"] * 2
    assert [line for line in said[2:] if line.startswith("edgeres")] == [
        "edgeres: another process that torchrun started has ended; torchrun says how"
    ]
    assert not (tmp_path / "scales.json").exists()


def files_of(started: Starter, tmp_path: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """Where one process and where two have written what the commands make; the second of two has said nothing."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    done = started(SAME, {name: COMMANDS[name] for name in names})
    assert done.returncode == 0, done.stderr
    others = {path.name for path in two.glob("*.1.out")}
    assert len(others) == len(names)
    assert not any((two / name).read_text() for name in others)
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()} - others
    return one, two


def found_in(path: Path) -> object:
    """What stands there, but for times and places."""

    def found(value: object) -> object:
        if isinstance(value, dict):
            kept = (name for name in value if name not in UNALIKE and not name.endswith("_s"))
            return {name: found(value[name]) for name in kept}
        return [found(one) for one in value] if isinstance(value, list) else value

    return found(json.loads(path.read_text()))
