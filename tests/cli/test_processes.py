"""Commands under torchrun: two processes find and write what one does, and say it once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgeres.cli.main import _is_anothers

DATA = ("--data", "digits", "--images", "60", "--threads", "1")
COMMANDS = {
    "lesion": ("study", "lesion", "whole.safetensors", *DATA[:4], "-o", "{}/lesions.json"),
    "prune": (
        *("prune", "whole.safetensors", "--drop", "1", "--recover", "mimic", "--epochs", "1", *DATA[:4]),
        *("-o", "{}/short.safetensors"),
    ),
    "recover": (
        *("recover", "{}/short.safetensors", "--teacher", "whole.safetensors", "--method", "solve", *DATA),
        *("-o", "{}/back.safetensors"),
    ),
    "export": ("export", "whole.safetensors", "-o", "{}/whole.onnx"),
    "calibrate": ("calibrate", "{}/whole.onnx", *DATA[:4], "-o", "{}/scales.json"),
    "eval": ("eval", "whole.safetensors", *DATA, "--json"),
}
SCRIPT = """
import json
from edgeres.cli.main import _run

def run(name, words, folder):
    sys.argv = ["edgeres", "-q", *(word.format(folder) for word in words)]
    with open(f"{folder}/{name}.out", "a") as out:
        os.dup2(out.fileno(), 1)
        sys.stdout = out
        code = _run()
    if code:
        raise SystemExit(code)

codes = [
    max(map(abs, ended(count, run, name, words, folder)))
    for name, words in json.loads(sys.argv[1]).items()
    for folder, count in (("one", 1), ("two", 2))
]
sys.exit(max(codes))
"""
ALONE = ("prune net.safetensors --drop 1", "qat net.onnx", "study lesion net.safetensors", "-q optimize net.pth")
SHARED = ("train resnet8", "recover net.safetensors --method solve", "study depth", "run demo")
UNALIKE = {"created", "environment", "duration_s", "source", "path", "statistics_s", "calibrators_s"}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_two_processes_write_what_one_does(checkpoint_of, spec_of, forking, tmp_path):
    checkpoint_of(spec_of("resnet14", width=8), "whole.safetensors")
    (tmp_path / "script.py").write_text(forking + SCRIPT)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "script.py", json.dumps(COMMANDS)]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    assert (one / "short.safetensors").read_bytes() == (two / "short.safetensors").read_bytes()
    assert (one / "whole.onnx").read_bytes() == (two / "whole.onnx").read_bytes()
    for name in ("lesions.json", "scales.json", "eval.out"):
        assert found_in(one / name) == found_in(two / name)
    weights, others = load_file(one / "back.safetensors"), load_file(two / "back.safetensors")
    start = load_file(one / "short.safetensors")
    assert any(not torch.equal(weights[key], start[key]) for key in start)
    for key, weight in weights.items():
        assert torch.allclose(others[key], weight, rtol=1e-5, atol=1e-5), key


@pytest.mark.parametrize(("words", "is_alone"), [(words, words in ALONE) for words in (*ALONE, *SHARED)])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_is_not_shared_is_done_by_the_first_process_alone(words, is_alone, rank, monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", rank), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, value)
    assert _is_anothers(words.split()) == (is_alone and rank == "1")
    assert ("WORLD_SIZE" in os.environ) != is_alone


def found_in(path: Path) -> object:
    """What stands there, but for times and places."""

    def found(value: object) -> object:
        if isinstance(value, dict):
            return {name: found(one) for name, one in value.items() if name not in UNALIKE}
        return [found(one) for one in value] if isinstance(value, list) else value

    return found(json.loads(path.read_text()))
