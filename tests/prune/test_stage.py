"""`prune` writes a shorter network and refuses what cannot be."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.data.split import OWN_GUESSES
from edgeres.models import modules_of
from edgeres.models.weights import load_network
from edgeres.prune.config import PruneConfig
from edgeres.prune.stage import prune


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


def test_choosing_looks_at_train_only_and_shows_the_independent_ranking_beside_it(checkpoint, tmp_path, monkeypatch):
    from edgeres.data import Split

    seen = []
    original = Split.batches
    monkeypatch.setattr(Split, "batches", lambda self, *a: seen.append(self.name) or original(self, *a))
    result = prune(checkpoint, PruneConfig(drop=2, data="digits", images=100), tmp_path / "out")
    assert set(seen) == {"train"}
    results = result.report.results
    assert results["levels"][-1]["dropped"] == results["chosen"]
    assert len(results["independent"]["dropped"]) == 2
    assert results["independent"]["score"] >= results["score"]
    assert results["images_chosen_on"] == 100
    assert result.output.spec.dropped == tuple(sorted(result.report.results["chosen"]))


def test_pruning_twice_adds_up(checkpoint, tmp_path):
    once = prune(checkpoint, PruneConfig(modules=("layer1.1",)), tmp_path / "a").output
    twice = prune(once, PruneConfig(modules=("layer1.2",)), tmp_path / "b").output
    assert twice.spec.dropped == ("layer1.1", "layer1.2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of --drop K.* got none"),
        ({"drop": 1, "modules": ("layer1.1",)}, "got --drop and --modules"),
        ({"drop": 1, "data": "digits", "images": 8}, "8 images are too few"),
        ({"drop": 1, "data": "digits", "budget": "3m"}, "--budget 3m is for recovering"),
        ({"modules": ("layer1.1",), "recover": ("bn",)}, "recovering needs images"),
        ({"macs": "0.001x", "data": "digits"}, "cannot be reached; best reachable"),
        ({"macs": "half", "data": "digits"}, "say a share such as 0.5x"),
        ({"target_latency": "3ms", "data": "digits"}, "needs a latency table"),
        (
            {"max_loss": 0.5, "data": "digits", "images": 1300, "recover": ("bn",)},
            "48 of 1348 are left, .*say --images 1148 or fewer",
        ),
        ({"drop": 1, "data": "digits", "recover": ("mimic",), "budget": "0.01s", "images": 200}, "budget"),
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
        "from edgeres.models.weights import cost_of, load_network\ntorch.set_num_threads(1)\ntorch.manual_seed(0)\n"
        "images, source = torch.randn(3, 1, 8, 8), Checkpoint(Path(sys.argv[1]))\n"
        "torch.save(load_network(source)(images).detach(), sys.argv[2])\n"
        "assert cost_of(source.spec) == source.card.cost\n"
        "assert 'torch._dynamo' not in sys.modules  # torch's compiler: a second and more, for nothing"
    )
    logits = tmp_path / "logits.pt"
    subprocess.run([sys.executable, "-c", code, str(output.path), str(logits)], check=True, cwd=tmp_path)
    assert torch.allclose(torch.load(logits, weights_only=True), expected, rtol=0, atol=1e-5)


def test_max_loss_drops_as_many_as_it_may_and_judges_them_on_unused_train_images(tmp_path, monkeypatch):
    from edgeres.data import Split
    from edgeres.train.stage import TrainConfig, train

    config = TrainConfig(arch="resnet14", data="digits", epochs=3, width=8, threads=1)
    trained = train(None, config, tmp_path / "train").output
    seen = []
    original = Split.batches
    monkeypatch.setattr(Split, "batches", lambda self, *a: seen.append(self.name) or original(self, *a))
    config = PruneConfig(max_loss=20, data="digits", images=400, choose_on=100)
    result = prune(trained, config, tmp_path / "out")
    tries = {one["count"]: one["lost_points"] for one in result.report.results["tries"]}
    count = len(result.output.spec.dropped)
    assert set(seen) == {"train"}
    assert tries[count] <= 20
    assert count + 1 == 7 or tries[count + 1] > 20
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.safetensors"]
    dear = {"max_loss": 0.01, "keep": tuple(i.name for i in modules_of(trained.spec) if i.name != "layer3.0")}
    with pytest.raises(InputError, match=r"alone costs .* points"):
        prune(trained, config.model_copy(update=dear), tmp_path / "tight")


def test_recovering_in_one_go_leaves_one_file_and_says_how(checkpoint, tmp_path):
    config = PruneConfig(modules=("layer1.1",), data="digits", images=100, recover=("bn", "mimic"), epochs=1)
    result = prune(checkpoint, config, tmp_path / "out")
    assert result.output.spec.dropped == ("layer1.1",)
    assert result.output.card.parent == checkpoint.sha256
    assert result.report.results["recovery"]["methods"] == ["bn", "mimic"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_an_interrupted_choice_goes_on_with_what_it_had_measured(checkpoint, tmp_path, monkeypatch):
    from edgeres.prune import measured

    config, out = PruneConfig(drop=3, data="digits", images=60, batch=20), tmp_path / "out"
    walked, original = [], measured.walk_subsets

    def counting(network, images, subsets, *how):
        walked.extend(subsets)
        if len(walked) > stop:
            raise KeyboardInterrupt
        return original(network, images, subsets, *how)

    monkeypatch.setattr(measured, "walk_subsets", counting)
    stop = 40
    with pytest.raises(KeyboardInterrupt):
        prune(checkpoint, config, out)
    before, stop = len(walked), 10**9
    resumed = prune(checkpoint, config, out)
    after = len(walked) - before
    walked.clear()
    fresh = prune(checkpoint, config, tmp_path / "fresh")
    assert resumed.report.results["chosen"] == fresh.report.results["chosen"]
    assert resumed.report.results["score"] == pytest.approx(fresh.report.results["score"], rel=1e-6)
    assert after < len(walked)


def test_max_loss_leaves_images_to_judge_on_by_itself(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeres.prune.max_loss._MOST_IMAGES", 200)
    result = prune(checkpoint, PruneConfig(max_loss=100, data="digits", choose_on=16), tmp_path / "out")
    assert any("on 200 train images neither chosen nor recovered on" in note for note in result.report.notes)


def test_without_labels_the_whole_networks_first_guess_is_the_right_one(checkpoint, unlabelled, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeres.prune.max_loss._MOST_IMAGES", 200)
    config = PruneConfig(max_loss=100, data=unlabelled, choose_on=16, images=32)
    report = prune(checkpoint, config, tmp_path / "out").report
    assert OWN_GUESSES in report.notes
    assert all(0 <= one["lost_points"] <= 100 for one in report.results["tries"])
    one = PruneConfig(max_loss=1e-9, **config.model_dump(include={"data", "choose_on", "images"}))
    with pytest.raises(InputError, match=r"alone costs .* points") as err:
        prune(checkpoint, one, tmp_path / "tight")
    assert OWN_GUESSES in str(err.value)


def test_max_loss_with_too_few_images_in_all_does_not_ask_for_fewer():
    from edgeres.prune.max_loss import leaving_some

    asked = PruneConfig(max_loss=1, data="digits")
    assert leaving_some(asked, 119) is asked
    assert leaving_some(asked, 500).images == 300
    assert leaving_some(asked, 1200) is asked  # 1000 are chosen on, nothing recovers on the others
    assert leaving_some(asked.model_copy(update={"recover": ("bn",)}), 1200).images == 1000
    assert leaving_some(asked, 5000).images == asked.images


def test_max_loss_judges_on_all_that_was_not_chosen_on_and_doubts_an_interval_wider_than_the_limit(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr("edgeres.prune.max_loss._largest", lambda *_: 1)
    goal = {"data": "digits", "choose_on": 500, "keep": tuple(i.name for i in modules_of(checkpoint.spec)[1:])}
    wide = prune(checkpoint, PruneConfig(max_loss=0.01, **goal), tmp_path / "wide").report
    assert any("on 848 train images neither chosen nor recovered on" in note for note in wide.notes)
    (doubt,) = wide.warnings
    assert "points on 848 images are too few for --max-loss 0.01: about " in doubt
    assert "name a larger data set, or allow " in doubt
    assert prune(checkpoint, PruneConfig(max_loss=90, **goal), tmp_path / "sure").report.warnings == ()


def test_a_doubted_loss_says_which_images_would_settle_it(checkpoint, tmp_path):
    from edgeres.prune.choose import Chooser
    from edgeres.prune.max_loss import Try, _Judge

    config = PruneConfig(max_loss=1, data="digits", images=1148, recover=("bn",))
    judge = _Judge(checkpoint, Chooser(checkpoint, config, tmp_path), config, tmp_path)
    tried = Try(count=1, dropped=("layer1.0",), lost_points=-0.5, half_width_points=2.0)
    (doubt,) = judge.doubts_on(tried)
    assert doubt.startswith("-0.50 ± 2.00 points on 200 images are too few for --max-loss 1: ")
    assert doubt.endswith(": about 800 are needed, which --images 548 leaves")
    assert judge.doubts_on(tried.model_copy(update={"half_width_points": 1.0})) == []


def test_macs_say_what_became_of_them(checkpoint, tmp_path):
    result = prune(checkpoint, PruneConfig(macs="0.7x", data="digits", images=60), tmp_path / "out")
    results, costs = result.report.results, (checkpoint.card.cost.macs, result.output.card.cost.macs)
    assert (results["macs_before"], results["macs_after"]) == costs
    assert results["macs_met"] is True
    (said,) = [note for note in result.report.notes if "multiply-accumulates" in note]
    assert said.endswith(": met")


def test_points_before_a_recovery_are_marked(checkpoint, tmp_path):
    values = {"drop": 1, "data": "digits", "images": 60, "recover": ("bn",)}
    result = prune(checkpoint, PruneConfig(**values), tmp_path / "out")
    assert result.report.results["points_are"] == "before recovery"
    assert any("points lost before recovery, on the 60 train images" in note for note in result.report.notes)


def test_keeping_every_module_is_said(checkpoint, tmp_path):
    every = tuple(info.name for info in modules_of(checkpoint.spec))
    with pytest.raises(InputError, match="--keep names all modules of resnet20 that are left"):
        prune(checkpoint, PruneConfig(drop=1, data="digits", keep=every), tmp_path / "out")


def test_a_share_of_a_network_that_lacks_modules_says_of_what(checkpoint, tmp_path):
    once = prune(checkpoint, PruneConfig(modules=("layer1.1",)), tmp_path / "a").output
    result = prune(once, PruneConfig(macs="0.8x", data="digits", images=60), tmp_path / "b")
    assert any("--macs 0.8x is taken of the network given, which already lacked 1" in x for x in result.report.notes)
