"""Processes as torchrun starts them share the images of a solve, one takes the steps, and find what one alone finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from edgeres.models.weights import checkpoint_without, load_weights
from edgeres.prune.config import RecoverConfig
from edgeres.prune.recover import solve as solve_module
from edgeres.prune.recover.stage import recovered

OPTIONS = {"data": "digits", "images": 300, "threads": 1, "method": ("solve",)}
STEPS = {**OPTIONS, "method": ("bn", "mimic"), "epochs": 2, "batch": 33}  # a batch that two could not share
BATCH = 40  # 7 batches to learn from, of which the second process takes 4; one to judge on, which both take
SHARED = f"""
import time, torch
from pathlib import Path
from edgeres.core import processes
from edgeres.core.artifacts import Checkpoint
from edgeres.prune.config import PruneConfig, RecoverConfig
from edgeres.prune.recover import solve as solve_module, planning as planning_module
from edgeres.prune.recover.stage import recover, recovered
from edgeres.prune.stage import prune

solve_module._BATCH = {BATCH}

def run():
    rank = int(os.environ["RANK"])
    if rank:  # what the first process then removes has to be there still
        load = planning_module.load_network
        def slow(checkpoint):
            time.sleep(1.5 * (checkpoint.path.name == "start.safetensors"))
            return load(checkpoint)
        planning_module.load_network = slow
    begin = solve_module._Walk._begin
    def noted(walk, most):
        begin(walk, most)
        Path(f"{{rank}}.txt").write_text(str(len(walk._batches)))
    solve_module._Walk._begin = noted
    if rank:
        return processes.follow()
    processes.lead()
    config = RecoverConfig(teacher=Path("whole.safetensors"), **{OPTIONS})
    found = recover(Checkpoint(Path("cut.safetensors")), config, Path("out")).report.results
    Path("solved.txt").write_text(str(found["solved"]))
    steps, teacher = RecoverConfig(**{STEPS}), Checkpoint(config.teacher)
    cut = PruneConfig(modules=("layer1.1",), data="digits", images=300, recover=("bn",))
    assert list(prune(teacher, cut, Path("again")).output.path.parent.iterdir()) == [Path("again/model.safetensors")]
    torch.save(recovered(Checkpoint(Path("cut.safetensors")), teacher, steps, Path("back")).weights, "back.pt")
    processes.let_go()

sys.exit(max(map(abs, ended(2, run))))
"""


@pytest.mark.slow
def test_two_processes_find_what_one_does(checkpoint_of, spec_of, forking, tmp_path, monkeypatch):
    teacher = checkpoint_of(spec_of("resnet14", width=8), "whole.safetensors")
    pruned = checkpoint_without(teacher, ("layer1.1",), tmp_path / "cut.safetensors")
    (tmp_path / "script.py").write_text(forking + SHARED)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "script.py"], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(solve_module, "_BATCH", BATCH)
    alone = recovered(pruned, teacher, RecoverConfig(**OPTIONS), tmp_path / "alone")
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["4", "5"]
    assert (tmp_path / "solved.txt").read_text() == str(alone.results["solved"])
    before = load_weights(pruned)
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == alone.weights.keys()
    for key, weight in alone.weights.items():
        assert torch.allclose(found[key], weight, rtol=1e-5, atol=1e-5), key
    assert not all(torch.equal(before[key], alone.weights[key]) for key in before)
    alone = recovered(pruned, teacher, RecoverConfig(**STEPS), tmp_path / "stepped")
    assert alone.results["best_step"] > 0
    found = torch.load(tmp_path / "back.pt")
    assert all(torch.equal(found[key], weight) for key, weight in alone.weights.items())
