"""`prune` writes a shorter network and refuses what cannot be."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.models.weights import load_network
from edgeres.prune.stage import PruneConfig, prune


@pytest.fixture
def checkpoint(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet20"))


def test_named_modules_go_and_the_file_reloads_by_itself(checkpoint, tmp_path):
    result = prune(checkpoint, PruneConfig(modules=("layer3.1", "layer2.0")), tmp_path / "out")
    again = Checkpoint(result.output.path)
    assert again.spec.dropped == ("layer2.0", "layer3.1")
    assert again.card.parent == checkpoint.sha256
    assert again.card.cost.params < checkpoint.card.cost.params
    assert load_network(again)(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert any("layer2.0 the shortcut" in note for note in result.report.notes)


def test_choosing_looks_at_train_only_and_records_its_steps(checkpoint, tmp_path, monkeypatch):
    from edgeres.data import Split

    seen = []
    original = Split.batches
    monkeypatch.setattr(Split, "batches", lambda self, *a: seen.append(self.name) or original(self, *a))
    result = prune(checkpoint, PruneConfig(drop=2, data="digits", images=100), tmp_path / "out")
    assert set(seen) == {"train"}
    assert [step["chosen"] for step in result.report.results["steps"]] == result.report.results["chosen"]
    assert result.output.spec.dropped == tuple(sorted(result.report.results["chosen"]))


def test_pruning_twice_adds_up(checkpoint, tmp_path):
    once = prune(checkpoint, PruneConfig(modules=("layer1.1",)), tmp_path / "a").output
    twice = prune(once, PruneConfig(modules=("layer1.2",)), tmp_path / "b").output
    assert twice.spec.dropped == ("layer1.1", "layer1.2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --drop K or --modules"),
        ({"drop": 1, "modules": ("layer1.1",)}, "either --drop K or --modules"),
        ({"drop": 1}, "--data"),
        ({"drop": 10, "data": "digits"}, "cannot drop 10 modules: resnet20 has 9"),
        ({"drop": 8, "data": "digits", "keep": ("layer1.0", "layer1.1")}, "has 7 that may be dropped"),
        ({"drop": 1, "data": "digits", "keep": ("layer9.0",)}, "no module 'layer9.0'"),
        ({"modules": ("layer1.7",)}, "did you mean layer1"),
    ],
)
def test_impossible_requests_are_refused(checkpoint, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        prune(checkpoint, PruneConfig(**options), tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_dropping_the_same_module_again_is_refused(checkpoint, tmp_path):
    once = prune(checkpoint, PruneConfig(modules=("layer1.1",)), tmp_path / "a").output
    with pytest.raises(InputError, match="dropped already"):
        prune(once, PruneConfig(modules=("layer1.1",)), tmp_path / "b")


def test_a_dropped_checkpoint_is_rebuilt_in_a_new_process_from_the_file_alone(checkpoint, tmp_path):
    output = prune(checkpoint, PruneConfig(modules=("layer1.1", "layer2.0", "layer3.2")), tmp_path / "out").output
    torch.manual_seed(0)
    images = torch.randn(3, 1, 8, 8)
    expected = load_network(output)(images)
    code = (
        "import sys, torch\nfrom pathlib import Path\nfrom edgeres.core.artifacts import Checkpoint\n"
        "from edgeres.models.weights import load_network\ntorch.set_num_threads(1)\ntorch.manual_seed(0)\n"
        "images = torch.randn(3, 1, 8, 8)\n"
        "torch.save(load_network(Checkpoint(Path(sys.argv[1])))(images).detach(), sys.argv[2])"
    )
    logits = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-c", code, str(output.path), str(logits)], check=True, cwd=tmp_path)
    assert torch.allclose(torch.load(logits, weights_only=True), expected, rtol=0, atol=1e-5)
