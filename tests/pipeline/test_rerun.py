"""A run made again has the same numbers, or the stage that has not is named."""

import json
import shutil

import numpy as np
import pytest

from edgeres.core.errors import InputError
from edgeres.core.runs import Run
from edgeres.core.spec import Preprocess
from edgeres.core.stage import REPORT_NAME
from edgeres.models import network_from, spec_from_arch
from edgeres.models.weights import save_checkpoint
from edgeres.pipeline.chain import Chain, run_of_recipe
from edgeres.pipeline.recipe import Recipe, planned
from edgeres.pipeline.rerun import name_for, recipe_of, rerun_verdict


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Import, prune, export and eval of a random resnet8."""
    folder = tmp_path_factory.mktemp("rerun")
    grey = Preprocess(mean=(0.3,), std=(0.4,))
    spec = spec_from_arch("resnet8", num_classes=10, input_shape=(1, 8, 8), preprocess=grey)
    save_checkpoint(network_from(spec).state_dict(), spec, folder / "mine.safetensors", stage="test")
    stages = (
        {"use": "import", "file": str(folder / "mine.safetensors")},
        {"use": "lesion", "images": 40, "draws": 0},
        {"use": "prune", "drop": 1, "images": 50},
        {"use": "export"},
        {"use": "eval"},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGERES_RUNS", str(folder / "runs"))
        return executed(Recipe(name="once", data="digits", stage=stages), "once").path


@pytest.fixture
def run(made, runs_folder):
    return Run(shutil.copytree(made, runs_folder / "once"))


def executed(recipe, name):
    run = run_of_recipe(recipe, name)
    list(Chain(run, planned(recipe, "test")).execute())
    return run


def outcomes(old, new):
    return {stage.stage: stage.outcome for stage in rerun_verdict(old, new).stages}


@pytest.fixture
def copy(run, runs_folder):
    shutil.copytree(run.path, runs_folder / "copy")
    return Run(runs_folder / "copy")


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_run_again_is_identical_stage_by_stage(run):
    again = executed(recipe_of(run), name_for(run, None))
    assert again.name == "once-again"
    assert set(outcomes(run, again).values()) == {"identical"}
    assert list(outcomes(run, again)) == ["00-import", "01-lesion", "02-prune", "03-export"]


def test_a_run_without_its_recipe_is_made_again_from_its_reports(run):
    (run.path / "recipe.toml").unlink()
    recipe = recipe_of(run)
    assert [entry["use"] for entry in recipe.stage] == ["import", "lesion", "prune", "export", "eval"]
    assert recipe.stage[2]["images"] == 50
    assert recipe.stage[2] == {"use": "prune", "data": "digits", "drop": 1, "images": 50}
    assert recipe.stage[4]["data"] == "digits"
    assert set(outcomes(run, executed(recipe, "again")).values()) == {"identical"}


def test_what_boards_did_by_single_commands_is_built_there_again_and_not_measured(run, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')
    (run.path / "recipe.toml").unlink()
    exported = json.loads((run.path / "03-export" / REPORT_NAME).read_text())
    built = {"stage": "compile", "results": {"on": "desk"}, "source": exported["output"]}
    for name, changed in (("04-compile", built), ("05-board", {"stage": "board", "source": exported["output"]})):
        (run.path / name).mkdir()
        output = {**exported["output"], "sha256": "3" * 64, "path": "model.plan"} if name == "04-compile" else None
        report = {**exported, "config": {}, "results": {}, "output": output, **changed}
        (run.path / name / REPORT_NAME).write_text(json.dumps(report))
    entries = recipe_of(run).stage
    assert [entry["use"] for entry in entries] == ["import", "lesion", "prune", "export", "compile", "eval"]
    assert [entry.get("on") for entry in entries] == [None] * 4 + ["desk", None]


def other_file(copy, stage):
    edited(copy.path / stage / REPORT_NAME, lambda report: report["output"].update(sha256="0" * 64))
    edited(copy.path / stage / "eval.json", lambda report: report["accuracy"][0].update(artifact="0" * 64))


def flipped(copy, stage, count, *, wrong):
    """Changes the first `count` predictions that are right to wrong ones, or the other way round."""
    path = copy.path / stage / "eval.npy"
    table = np.load(path)
    right = table[:, 0] == table[:, 1]
    rows = np.flatnonzero(right if wrong else ~right)[:count]
    table[rows, 0] = (table[rows, 1] + 1) % 10 if wrong else table[rows, 1]
    np.save(path, table)
    correct = int((table[:, 0] == table[:, 1]).sum())
    edited(copy.path / stage / "eval.json", lambda report: report["accuracy"][0].update(correct_top1=correct))


def test_another_file_with_nearly_the_same_guesses_agrees(run, copy):
    other_file(copy, "02-prune")
    flipped(copy, "02-prune", 1, wrong=False)
    assert outcomes(run, copy)["02-prune"] == "agrees"


def test_an_accuracy_outside_the_paired_interval_differs(run, copy):
    other_file(copy, "02-prune")
    flipped(copy, "02-prune", 100, wrong=False)
    verdict = rerun_verdict(run, copy)
    assert [stage.stage for stage in verdict.differing] == ["02-prune"]
    assert "points (95 %: " in verdict.differing[0].text


def test_figures_that_cannot_differ_by_chance_are_compared_exactly(run, copy):
    edited(copy.path / "02-prune" / REPORT_NAME, lambda report: report["cost"].update(macs=1))
    verdict = rerun_verdict(run, copy)
    assert "macs" in verdict.differing[0].text


def test_another_file_that_was_not_evaluated_is_not_judged(run, copy):
    other_file(copy, "02-prune")
    (copy.path / "02-prune" / "eval.json").unlink()
    assert outcomes(run, copy)["02-prune"] == "not judged"


def test_another_result_from_the_same_input_differs(run, copy):
    def change(report):
        report["output"].update(sha256="0" * 64)

    edited(copy.path / "01-lesion" / REPORT_NAME, change)
    assert outcomes(run, copy)["01-lesion"] == "differs"
    edited(copy.path / "01-lesion" / REPORT_NAME, lambda report: report["source"].update(sha256="1" * 64))
    assert outcomes(run, copy)["01-lesion"] == "not judged"


def test_a_stage_the_new_run_lacks_is_not_judged(run, copy):
    shutil.rmtree(copy.path / "03-export")
    assert outcomes(run, copy)["03-export"] == "not judged"


def test_the_run_itself_is_never_written_over(run):
    with pytest.raises(InputError, match="is the run itself"):
        name_for(run, "once")
    assert name_for(run, "other") == "other"


def test_a_run_no_recipe_can_name_is_refused(run):
    (run.path / "recipe.toml").unlink()
    first = json.loads((run.path / "00-import" / REPORT_NAME).read_text())["output"]["sha256"]
    for sha256, why in ((first, "not from the newest network, 02-prune"), ("2" * 64, "03-export: made from a file")):
        edited(
            run.path / "03-export" / REPORT_NAME, lambda report, sha256=sha256: report["source"].update(sha256=sha256)
        )
        with pytest.raises(InputError, match=why):
            recipe_of(run)


def test_a_teacher_of_the_run_is_found_again_and_one_from_elsewhere_is_named(run, tmp_path):
    (run.path / "recipe.toml").unlink()
    report = run.path / "02-prune" / REPORT_NAME
    edited(report, lambda content: content["config"].update(latency="runs/once/01-lesion/latency.json"))
    assert "latency" not in recipe_of(run).stage[2]
    mine = tmp_path / "mine.json"
    edited(report, lambda content: content["config"].update(latency=str(mine)))
    with pytest.raises(InputError, match=r"stage 02-prune: latency: .*mine\.json does not exist"):
        recipe_of(run)
    mine.touch()
    assert recipe_of(run).stage[2]["latency"] == str(mine)


def test_a_run_with_a_damaged_report_says_which(run):
    (run.path / "recipe.toml").unlink()
    (run.path / "02-prune" / REPORT_NAME).write_text('{"sch')
    with pytest.raises(
        InputError, match=r"cannot be run again, .* 02-prune: report\.json is not a readable StageReport"
    ):
        recipe_of(run)


def test_an_option_of_another_version_is_left_out_if_it_did_nothing_and_named_if_it_did(run, copy):
    (copy.path / "recipe.toml").unlink()
    report = copy.path / "02-prune" / REPORT_NAME
    edited(report, lambda content: content["config"].update(adaptors=0, search="beam", swaps=True))
    assert [entry["use"] for entry in recipe_of(copy).stage][:3] == ["import", "lesion", "prune"]
    edited(report, lambda content: content["config"].update(search="greedy"))
    with pytest.raises(InputError, match=r"prune was asked for search greedy; this version has no such option"):
        recipe_of(copy)
    edited(report, lambda content: content["config"].update(search="beam", adaptors=200))
    with pytest.raises(InputError, match=r"prune was asked for adaptors 200; this version has no such option"):
        recipe_of(copy)


def test_an_empty_name_is_refused(run):
    with pytest.raises(InputError, match="--name is empty"):
        name_for(run, "")


def test_an_empty_run_is_refused(runs_folder):
    (runs_folder / "empty").mkdir(parents=True)
    with pytest.raises(InputError, match="no finished stage"):
        recipe_of(Run(runs_folder / "empty"))
