"""Images without labels: what needs none does without and says so, what needs some refuses in one line."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(150):
        Image.fromarray(random.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    return f"images:{tmp_path / 'photos'}"


@pytest.fixture
def model(spec_of, checkpoint_of):
    return checkpoint_of(spec_of("resnet14")).path


@pytest.mark.slow
def test_lesion_and_prune_take_the_networks_own_guesses_and_say_so(edgeres, model, photos):
    for command in (("study", "lesion", model, "--draws", 4), ("prune", model, "--drop", 2)):
        code, out, err = edgeres(*command, "--data", photos)
        assert code == 0, err
        assert "no labels: an answer counts as right where it is the whole network's own" in out


@pytest.mark.slow
def test_recover_calibrate_quantize_and_agree_need_no_labels(aloud, model, photos):
    for command in (
        ("prune", model, "--modules", "layer1.1", "-o", "short.safetensors"),
        (
            "recover",
            "short.safetensors",
            "--teacher",
            model,
            "--method",
            "solve",
            "--data",
            photos,
            "-o",
            "r.safetensors",
        ),
        ("recover", "short.safetensors", "--teacher", model, "--epochs", 1, "--data", photos, "-o", "m.safetensors"),
        ("export", "r.safetensors", "-o", "net.onnx"),
        ("calibrate", "net.onnx", "--data", photos, "--images", 100, "-o", "scales.json"),
        ("quantize", "net.onnx", "--scales", "scales.json", "-o", "int8.onnx"),
    ):
        code, _, err = aloud("-q", *command)
        assert code == 0, err
    code, out, err = aloud("agree", "net.onnx", "int8.onnx", "--data", photos)
    assert code == 0, err
    assert "images of images:" in out
    assert "logits: SQNR" in out
    assert "top-1 0.00" not in out
    assert "only A right" not in out


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("prune", "--drop", 1, "--recover", "finetune"), "--recover finetune"),
    ],
)
def test_what_needs_labels_says_so(edgeres, model, photos, command, what):
    code, _, err = edgeres(command[0], model, *command[1:], "--data", photos)
    assert code == 2
    assert f"images have no labels, which {what} needs; folder:PATH has them" in err


def test_eval_takes_the_first_guesses_of_another_network_for_right(edgeres, model, photos):
    code, _, err = edgeres("eval", model, "--data", photos)
    assert code == 2
    assert "is judged by another network, no labels are there: --reference FILE" in err
    assert edgeres("prune", model, "--modules", "layer1.1", "-o", "short.safetensors")[0] == 0
    code, out, _ = edgeres("eval", "short.safetensors", "--reference", model, "--data", photos)
    assert code == 0
    assert out.startswith("same guess ")
    code, _, err = edgeres("eval", model, "--reference", model, "--data", "digits")
    assert code == 2
    assert "digits has labels, by which" in err


def test_training_needs_labels(edgeres, photos):
    code, _, err = edgeres("train", "resnet8", "--data", photos)
    assert code == 2
    assert "have no labels, which training needs" in err
