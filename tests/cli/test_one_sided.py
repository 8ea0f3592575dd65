"""Scores of which one is always the first guess: KL sees nothing there, and prune goes by the centred scores."""

from __future__ import annotations

import json

import pytest

from edgeres.models.weights import load_weights, save_checkpoint

SURE = 60.0  # added to one score: no image changes the guess


@pytest.fixture
def sure(spec_of, checkpoint_of, tmp_path):
    spec = spec_of("resnet14")
    weights = load_weights(checkpoint_of(spec))
    weights["fc.bias"] = weights["fc.bias"].clone()
    weights["fc.bias"][3] += SURE
    return save_checkpoint(weights, spec, tmp_path / "sure.safetensors", stage="test").path


def test_the_choice_says_which_measure_decided_and_why(edgeres, sure):
    choice = (
        "prune",
        sure,
        "--drop",
        2,
        "--recover",
        "solve",
        "--data",
        "digits",
        "--images",
        160,
        "-o",
        "p.safetensors",
    )
    code, out, err = edgeres(*choice, "--json")
    assert code == 0, err
    found = json.loads(out)["results"]
    assert found["measure"] == "centred"
    assert found["score"] > 1e-4  # the divergence of such scores is below 1e-20
    assert found["measured_so_because"].startswith("100.0% of the images have the same first guess")
    assert found["recovery"]["measure"] == "relative error of the centred outputs"
    (said,) = (note for note in json.loads(out)["notes"] if note.startswith("decided by"))
    assert said == f"decided by the relative error of the centred outputs: {found['measured_so_because']}"


def test_a_study_of_lesions_warns_that_it_sees_nothing(edgeres, sure):
    code, _, err = edgeres(
        "study", "lesion", sure, "--data", "digits", "--images", 60, "--draws", 0, "-o", "lesions.json"
    )
    assert code == 0
    said = "have the same first guess, so that KL tells nothing apart, nor points of top-1; prune goes by the relative"
    assert said in " ".join(err.split())


def test_scores_of_many_guesses_say_nothing_of_a_measure(edgeres, spec_of, checkpoint_of):
    model = checkpoint_of(spec_of("resnet14")).path
    code, out, _ = edgeres(
        "prune", model, "--drop", 1, "--data", "digits", "--images", 160, "-o", "p.safetensors", "--json"
    )
    assert code == 0
    assert not {"measure", "measured_so_because"} & json.loads(out)["results"].keys()
