"""A recipe runs once, is reused when nothing changed, and goes on where it stopped."""

from __future__ import annotations

import json
import logging
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from edgeres.bench.config import BenchConfig
from edgeres.cli.show import LISTINGS
from edgeres.core.artifacts import Engine
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.progress import text_from
from edgeres.core.runs import Run, latest_run
from edgeres.core.stage import Recorder
from edgeres.data import data_fingerprint
from edgeres.export.stage import ExportConfig, export
from edgeres.pipeline import eval_bench
from edgeres.pipeline.calls import Call, call
from edgeres.pipeline.chain import Chain, redo_index, run_of_recipe
from edgeres.pipeline.recipe import Recipe, overridden, planned, recipe_from, shipped_recipes, toml_text
from edgeres.pipeline.show import exhibit_of
from edgeres.report.rows import rows_from


@pytest.fixture
def recipe(checkpoint_of, spec_of, kept):
    def make(folder):
        folder.mkdir()
        checkpoint_of(spec_of("resnet8")).path.replace(folder / "mine.safetensors")

    path = kept("mine of chains", make) / "mine.safetensors"
    return Recipe(
        name="short",
        data="digits",
        stage=(
            {"use": "import", "file": str(path)},
            {"use": "prune", "drop": 1, "images": 50},
            {"use": "recover", "images": 40, "epochs": 1, "lr": 0.001},
            {"use": "export"},
            {"use": "eval", "images": 60},
        ),
    )


@pytest.fixture
def have_run(kept, runs_folder):
    """`have_run(recipe)`: the first run of it, made once for all tests."""

    def have(recipe):
        def make(path):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("EDGERES_RUNS", str(path.parent))
                run(recipe)
            (path.parent / recipe.name).replace(path)

        shutil.copytree(kept(f"run of {recipe.model_dump_json()}", make), runs_folder / recipe.name)
        (runs_folder / "latest").symlink_to(recipe.name)

    return have


def run(recipe, redo_from=None):
    steps = planned(recipe, "test")
    start = redo_index(steps, redo_from) if redo_from else None
    return list(Chain(run_of_recipe(recipe, None), steps, start).execute())


@pytest.mark.parametrize("arch", ["torchvision/resnet18", "timm/resnet26d", "hf/.", "resnet20"])
def test_a_recipe_imports_whatever_import_does(arch, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04")
    entry = {"use": "import", "file": str(tmp_path / "w.pth"), "arch": arch}
    steps = planned(Recipe(name="mine", data="digits", stage=(entry, {"use": "prune", "drop": 1})), "test")
    assert [step.use for step in steps] == ["import", "prune"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"import.mean": "0.5"}, "stage 00-import: --mean and --std belong together: give both or neither"),
        ({"import.mean": "0.5", "import.std": "0.5,0.5,0.5"}, "stage 00-import: preprocessing: mean has 1 values and"),
        ({"import.mean": "123.7", "import.std": "58.4"}, "divide by 255"),
        ({"import.mean": "0.5", "import.std": "0"}, "std must be positive"),
        ({"import.fit": "letterbox", "import.resize": "64"}, "--fit letterbox crops nothing; leave out --resize 64"),
        ({"import.fit": "squash", "import.border": "9"}, "border 9 is what surrounds a letterboxed image"),
        ({"eval.mean": "0.5"}, "stage 04-eval: the network says itself how images become its input; leave out mean"),
    ],
)
def test_what_is_said_of_images_is_checked_before_anything_runs(recipe, options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        planned(overridden(recipe, options), "test")


def test_modules_of_a_graph_are_known_once_it_is_imported(checkpoint_of, spec_of, tmp_path, runs_folder):
    graph = export(checkpoint_of(spec_of("resnet8")), ExportConfig(), tmp_path).output
    entries = ({"use": "import", "file": str(graph.path)}, {"use": "export"}, {"use": "prune", "modules": "layer1.00"})
    with pytest.raises(InputError, match=r"stage 02-prune: model has no module 'layer1.00'; did you mean layer1.0"):
        run(Recipe(name="mine", data="digits", stage=entries))
    assert [folder.path.name for folder in Run(runs_folder / "mine").folders()] == ["00-import"]


def test_a_chain_makes_every_artifact_and_reuses_all_of_it_the_second_time(recipe, runs_folder):
    first = run(recipe)
    assert [done.reused for done in first] == [False] * 5
    names = [folder.path.name for folder in Run(runs_folder / "short").finished()]
    assert names == ["00-import", "01-prune", "02-recover", "03-export"]
    assert all((folder.path / "eval.json").is_file() for folder in latest_run().finished())
    before = {path: path.read_bytes() for path in runs_folder.rglob("*") if path.is_file()}
    assert [done.reused for done in run(recipe)] == [True] * 5
    assert {path: path.read_bytes() for path in runs_folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("first", ["import", "train"])
@pytest.mark.parametrize(
    "late",
    [{"use": "recover", "method": ["mimic"]}, {"use": "prune", "drop": 1, "recover": ["mimic"]}],
    ids=lambda entry: entry["use"],
)
def test_a_budget_that_is_too_short_is_refused_before_what_takes_long(
    first, late, checkpoint_of, spec_of, runs_folder, monkeypatch
):
    path = checkpoint_of(spec_of("resnet8"), "mine.safetensors").path
    begins = {"use": "import", "file": str(path)} if first == "import" else {"use": "train", "arch": "resnet8"}
    entries = (begins, {"use": "prune", "drop": 1, "images": 50}, {**late, "budget": "1s", "images": 200})
    recipe, now_s = Recipe(name="short", data="digits", stage=entries), iter(range(100_000))
    monkeypatch.setattr("edgeres.prune.recover.budget.time.perf_counter", lambda: float(next(now_s)))
    with pytest.raises(InputError, match=rf"^stage 02-{late['use']}: --budget 1s is too short"):
        run(recipe)
    assert [folder.path.name for folder in Run(runs_folder / "short").folders()] == ["00-import"] * (first == "import")


def test_each_step_is_announced_with_the_time_that_another_run_of_the_recipe_took(recipe, runs_folder, caplog):
    def announced(of):
        caplog.clear()
        with caplog.at_level(logging.INFO, "edgeres"):
            run(of)
        return [message for message in caplog.messages if message.startswith("step ")]

    assert announced(recipe)[:2] == ["step 1 of 5: import", "step 2 of 5: prune"]
    for path, seconds in (("00-import/report", 100), ("03-export/report", 20), ("02-recover/eval", 3)):
        file = runs_folder / "short" / f"{path}.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "duration_s": seconds}))
    again = announced(recipe.model_copy(update={"name": "again"}))
    assert re.fullmatch(rf"step 1 of 5: import; about 2m\d+s left, as {runs_folder}/short took", again[0])
    assert re.search(r"step 4 of 5: export; about 2[3-9]s left", again[3])
    other = {"stage": (*recipe.stage[:1], {"use": "export"}), "name": "other"}
    assert announced(recipe.model_copy(update=other)) == ["step 1 of 2: import", "step 2 of 2: export"]


def test_other_images_judge_anew_and_what_was_judged_before_is_kept(have_run, recipe, runs_folder, monkeypatch, caplog):
    def judging(images):
        run(recipe.model_copy(update={"stage": (*recipe.stage[:-1], {"use": "eval", "images": images})}))

    have_run(recipe)
    folder = runs_folder / "short" / "00-import"
    before = {path.name: path.read_bytes() for path in folder.glob("eval.*")}
    with monkeypatch.context() as patch:
        patch.setattr("edgeres.pipeline.eval_bench.evaluate", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            judging(50)
    assert {path.name: path.read_bytes() for path in folder.glob("eval.*")} == before
    with caplog.at_level(logging.INFO, "edgeres"):
        judging(50)
    assert f"{folder / 'eval.json'} is of another call, or damaged: kept as eval.json.old1" in caplog.messages
    assert {name: (folder / f"{name}.old1").read_bytes() for name in before} == before
    assert (folder / "eval.json").read_bytes() != before["eval.json"]
    assert (
        exhibit_of(str(runs_folder / "short"))
        .lines[-1]
        .endswith("deleted: 00-import/*.old1, 01-prune/*.old1, 02-recover/*.old1, 03-export/*.old1")
    )


def test_a_session_of_other_options_or_files_keeps_the_one_before(recipe, runs_folder, monkeypatch):
    def timed(**options):
        stages = (*recipe.stage[:1], {"use": "export", **options}, {"use": "bench"})
        return run(recipe.model_copy(update={"stage": stages}))[-1].reports[0].created

    def failed(*_, command):
        raise KeyboardInterrupt

    times = iter("abc")
    made = Recorder("bench", BenchConfig(), None).finish(None)
    monkeypatch.setattr(
        eval_bench, "bench_report", lambda *_, command: made.model_copy(update={"created": next(times)})
    )
    assert [timed(), timed(), timed(batch=2)] == ["a", "a", "b"]
    with monkeypatch.context() as patch:
        patch.setattr(eval_bench, "bench_report", failed)
        with pytest.raises(KeyboardInterrupt):
            timed(batch=3)
    said = {
        path.parent.name: json.loads(path.read_text())["created"] for path in runs_folder.rglob("*bench*/report.json")
    }
    assert said == {"02-bench": "b", "02-bench.old1": "a"}
    assert timed(batch=3) == "c"
    assert Run(runs_folder / "short").set_aside == "01-export.old1, 01-export.old2, 02-bench.old1, 02-bench.old2"


def test_an_evaluation_is_charged_with_what_it_judged_and_what_was_replaced_with_nothing(recipe, runs_folder, caplog):
    judge, export = {"use": "eval", "images": 60}, {"use": "export"}
    judging = (recipe.stage[0], judge, export, judge, {"use": "export", "batch": 2}, {**judge, "images": 50})
    done = recipe.model_copy(update={"stage": judging})
    run(done)
    took_s = {"00-import": 60, "02-export": 600, "04-export": 6000}
    for path in (runs_folder / "short").glob("*/*.json"):
        spent_s = took_s[path.parent.name] if path.name == "eval.json" else 0
        path.write_text(json.dumps({**json.loads(path.read_text()), "duration_s": spent_s}))
    shutil.copytree(runs_folder / "short/02-export", runs_folder / "short/02-export.old1")
    again = done.model_copy(update={"name": "again"})

    def announced(redo_from=None):
        caplog.clear()
        with caplog.at_level(logging.INFO, "edgeres"):
            next(Chain(run_of_recipe(again, None), planned(again, "test"), redo_from).execute())
        return caplog.messages[0]

    def expected(left_s):
        return f"step 1 of 6: import; about {text_from(left_s)} left, as {runs_folder}/short took"

    assert announced() == expected(60 + 600 + (60 + 600 + 6000))
    shutil.copytree(runs_folder / "short/02-export", runs_folder / "again/02-export")
    assert announced() == expected(60 + (60 + 6000))  # which is not made again
    assert announced(redo_from=0) == expected(60 + 600 + (60 + 600 + 6000))


def test_the_teacher_is_the_network_before_pruning(recipe, runs_folder):
    done = run(recipe)
    imported, recovered = done[0].reports[0], done[2].reports[0]
    assert recovered.results["teacher_sha256"] == imported.output.sha256


def test_a_changed_option_redoes_its_stage_and_what_follows_and_keeps_the_old(have_run, recipe, runs_folder):
    have_run(recipe)
    stages = [dict(entry) for entry in recipe.stage]
    stages[2]["epochs"] = 2
    changed = run(recipe.model_copy(update={"stage": tuple(stages)}))
    assert [done.reused for done in changed] == [True, True, False, False, False]
    assert (runs_folder / "short" / "02-recover.old1" / "report.json").is_file()
    told = exhibit_of(str(runs_folder / "short")).lines[-1], LISTINGS["runs"]()["short"]
    assert [one.partition("replaced since")[2] for one in told] == [
        f"{more}: 02-recover.old1, 03-export.old1" for more in (", in no figure, may be deleted", "")
    ]


def test_from_redoes_that_stage(have_run, recipe):
    have_run(recipe)
    assert [done.reused for done in run(recipe, "export")] == [True, True, True, False, False]


def test_from_names_a_stage_or_a_folder_and_says_what_runs_again(recipe, caplog):
    export = {"use": "export"}
    steps = planned(recipe.model_copy(update={"stage": (recipe.stage[0], export, {"use": "eval"}, export)}), "test")
    with caplog.at_level(logging.INFO, "edgeres"):
        assert [redo_index(steps, named) for named in ("export", "03-export", "eval")] == [1, 3, 2]
    assert caplog.messages == [
        "--from export: 01-export and all that follows runs again; from the next on: --from 03-export",
        "--from 03-export: 03-export and all that follows runs again",
        "--from eval: 02-eval and all that follows runs again",
    ]
    with pytest.raises(InputError, match=r"--from 02-export: .* did you mean 0[13]-export"):
        redo_index(steps, "02-export")


def test_an_interrupted_chain_goes_on(recipe, monkeypatch, runs_folder):
    def interrupted(source, config, out_dir):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgeres.export.stage.export", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(recipe)
    started = runs_folder / "short" / "03-export" / "started.json"
    assert json.loads(started.read_text())["stage"] == "export"
    assert [done.reused for done in run(recipe)] == [True, True, True, False, False]
    assert not started.exists()


def test_what_another_network_left_behind_is_no_row_of_an_interrupted_run(
    have_run, recipe, monkeypatch, runs_folder, checkpoint_of, spec_of
):
    def interrupted(source, config, out_dir):
        raise KeyboardInterrupt

    have_run(recipe)
    another = {"use": "import", "file": str(checkpoint_of(spec_of("resnet8"), seed=5).path)}
    monkeypatch.setattr("edgeres.prune.stage.prune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(recipe.model_copy(update={"stage": (another, *recipe.stage[1:])}))
    summary = rows_from(runs_folder / "short")
    assert [row.name for row in summary.rows] == ["00-import"]
    strays = [problem.partition(": made from")[0] for problem in summary.problems if ": made from" in problem]
    assert strays == ["01-prune", "02-recover", "03-export"]


@pytest.mark.parametrize("left", [[], ["state.bin"]])
@pytest.mark.parametrize("error", [DeviceError("desk does not answer"), KeyboardInterrupt()])
def test_what_was_made_before_stays_until_something_is_made_in_its_place(
    have_run, recipe, monkeypatch, runs_folder, error, left
):
    def fails(source, config, out_dir):
        for name in left:
            (out_dir / name).write_text("to go on from")
        raise error

    have_run(recipe)
    folder = runs_folder / "short" / "03-export"
    before = (folder / "report.json").read_text()
    monkeypatch.setattr("edgeres.export.stage.export", fails)
    with pytest.raises(type(error)):
        run(recipe, "export")
    aside = folder.with_name("03-export.old1")
    assert ((aside if left else folder) / "report.json").read_text() == before
    assert (folder / "started.json").exists() == aside.exists() == bool(left)


@pytest.mark.parametrize("damage", ["report.json", "model.safetensors"])
def test_a_damaged_stage_is_made_again(have_run, recipe, runs_folder, damage):
    have_run(recipe)
    (runs_folder / "short" / "01-prune" / damage).write_text("damaged")
    again = run(recipe)
    assert not again[1].reused
    assert again[1].reports[0].output.sha256


def test_the_recipe_in_the_run_reads_back_to_what_was_run(recipe, runs_folder):
    run_of_recipe(recipe, None)
    written, steps = recipe_from(str(runs_folder / "short" / "recipe.toml"), {})
    assert written == recipe
    assert toml_text(written, steps) == (runs_folder / "short" / "recipe.toml").read_text()


def test_the_recipe_in_the_run_is_found_from_anywhere(checkpoint_of, spec_of, tmp_path, monkeypatch):
    (tmp_path / "pictures" / "val").mkdir(parents=True)
    shutil.copyfile(checkpoint_of(spec_of("resnet8")).path, tmp_path / "mine.safetensors")
    stages = ({"use": "import", "file": "mine.safetensors"}, {"use": "eval", "data": "folder:pictures"})
    monkeypatch.chdir(tmp_path)
    path = run_of_recipe(Recipe(name="r", stage=stages), None).path.absolute() / "recipe.toml"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _, (brought, judged) = recipe_from(str(path), {})
    assert brought.config.file == tmp_path / "mine.safetensors"
    assert judged.config.data == f"folder:{(tmp_path / 'pictures').resolve()}"


def test_shipped_recipes_are_valid_once_their_file_is_named(tmp_path):
    (tmp_path / "x.pth").write_bytes(b"PK\x03\x04")
    overrides = {"data": "digits", "import.file": "x.pth", "import.arch": "resnet20"}
    for name in shipped_recipes():
        recipe, steps = recipe_from(name, {} if name == "demo" else overrides)
        assert recipe.name == name
        assert recipe.about
        assert [step.use for step in steps][-3:] == ["eval", "bench", "report"]


@pytest.mark.parametrize("name", ["int8", "prune4-int8"])
def test_a_shipped_recipe_needs_what_its_line_says_and_no_more(name, tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text("def net(): ...\n")
    monkeypatch.chdir(tmp_path)
    given = {"import.file": "own_net:net", "data": "digits"}
    recipe, _ = recipe_from(name, given)
    assert re.search(r"\(needs (.*)\)", recipe.about)[1].split(", ") == [*given]
    for lacking in given:
        with pytest.raises(InputError, match=lacking.rpartition(".")[2]):
            recipe_from(name, {one: value for one, value in given.items() if one != lacking})


def test_engines_are_not_evaluated_here(recipe, runs_folder):
    pytest.importorskip("tensorrt_rtx")
    stages = (*recipe.stage[:1], {"use": "export"}, {"use": "compile", "targets": "sm86"}, {"use": "eval"})
    run(recipe.model_copy(update={"stage": stages}))
    folder = runs_folder / "short" / "02-compile"
    assert isinstance(Run(runs_folder / "short").models()[-1][1], Engine)
    assert not (folder / "eval.json").exists()


def test_a_recipe_that_repeats_stages_is_reused_whole_and_every_stage_keeps_its_own_parents(recipe, runs_folder):
    quick = {"use": "recover", "images": 40, "epochs": 1, "lr": 0.001}
    calibrate, prune = {"use": "calibrate", "images": 64}, {"use": "prune", "drop": 1, "images": 50}
    stages = (recipe.stage[0], {"use": "export"}, calibrate, {"use": "quantize"}, prune, quick, prune, quick)
    stages = (*stages, {"use": "export"}, calibrate, {"use": "quantize"})
    repeated = recipe.model_copy(update={"stage": stages})
    first = run(repeated)
    teachers = [done.reports[0].results["teacher_sha256"] for done in first if done.step.use == "recover"]
    assert teachers == [first[0].reports[0].output.sha256, first[5].reports[0].output.sha256]
    assert all(done.reused for done in run(repeated))
    assert not list((runs_folder / "short").glob("*.old*"))


def test_a_calibration_by_hand_does_not_enter_the_recipe(have_run, recipe):
    stages = (recipe.stage[0], {"use": "export"}, {"use": "calibrate", "images": 64}, {"use": "quantize"})
    quantizing = recipe.model_copy(update={"stage": stages})
    have_run(quantizing)
    call(Call("calibrate", values={"images": "40", "data": "digits"}))
    assert all(done.reused for done in run(quantizing))


def test_a_file_that_an_earlier_stage_makes_need_not_be_there_yet(recipe):
    def cut_by(latency):
        cut = {"use": "prune", "target_latency": "0.9x", "latency": latency}
        return recipe.model_copy(update={"stage": (recipe.stage[0], {"use": "latency"}, cut)})

    assert len(planned(cut_by("runs/short/01-latency/latency.json"), "r")) == 3
    with pytest.raises(InputError, match=r"^r, stage 02-prune: latency: .*02-latency/latency.json does not exist"):
        planned(cut_by("runs/short/02-latency/latency.json"), "r")


def test_stages_a_recipe_no_longer_has_leave_the_run(have_run, recipe, runs_folder):
    have_run(recipe)
    before = runs_folder / "short" / "recipe.toml"
    before.write_text(before.read_text().replace("mine.safetensors", "gone.safetensors"))
    run(recipe.model_copy(update={"stage": (*recipe.stage[:2], *recipe.stage[3:])}))
    names = [folder.path.name for folder in Run(runs_folder / "short").finished()]
    assert names == ["00-import", "01-prune", "02-export"]
    assert (runs_folder / "short" / "03-export.old1").is_dir()


def test_a_changed_scale_table_is_made_again(have_run, recipe, runs_folder):
    stages = (recipe.stage[0], {"use": "export"}, {"use": "calibrate", "images": 64}, {"use": "quantize"})
    quantizing = recipe.model_copy(update={"stage": stages})
    have_run(quantizing)
    path = runs_folder / "short" / "02-calibrate" / "scales.json"
    path.write_text(path.read_text().replace('"minmax"', '"minmaxx"'))
    assert [done.reused for done in run(quantizing)] == [True, True, False, True]


def test_images_that_changed_are_evaluated_again(recipe, tmp_path):
    photos = tmp_path / "photos"
    for number, name in enumerate("abcdefghij"):
        for split in ("train", "val"):
            folder = photos / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(folder / "0.png")
    stages = (recipe.stage[0], {"use": "eval"})
    judging = recipe.model_copy(update={"stage": stages, "data": f"folder:{photos}"})
    first = run(judging)
    assert run(judging)[1].reused
    (photos / "val" / "a").rename(photos / "val" / "x")
    (photos / "val" / "b").rename(photos / "val" / "a")
    (photos / "val" / "x").rename(photos / "val" / "b")
    data_fingerprint.cache_clear()
    again = run(judging)
    assert not again[1].reused
    assert again[1].reports[0].key != first[1].reports[0].key
