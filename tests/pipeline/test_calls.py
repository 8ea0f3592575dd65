"""A command without an artifact finds its source; a named one keeps its run; nothing is written elsewhere."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from edgeres.cli.show import LISTINGS
from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import record_from_json
from edgeres.core.errors import AlwaysRefused, InputError
from edgeres.core.runs import Run, latest_run
from edgeres.core.stage import StageReport
from edgeres.data import data_fingerprint
from edgeres.evaluate.agreement import Agreement
from edgeres.evaluate.stage import EvalConfig
from edgeres.models.importing import ImportConfig
from edgeres.pipeline.calls import Call, call
from edgeres.pipeline.eval_bench import agree_call, evaluate_call, evaluate_in_place
from edgeres.pipeline.show import exhibit_of
from edgeres.pipeline.stages import stage_key
from edgeres.report.stage import ReportConfig, report
from edgeres.train.config import TrainConfig


@pytest.fixture
def imported(checkpoint_of, spec_of):
    """A run that begins with an imported checkpoint."""
    path = checkpoint_of(spec_of("resnet14"), "mine.safetensors").path
    return call(Call("import", values={"file": path}))


@pytest.mark.parametrize("by", ["option", "shell"])
def test_the_run_that_an_import_begins_may_be_named(checkpoint_of, spec_of, monkeypatch, by):
    """`import --run NEW` makes it, `import --run NEW` again adds to it."""
    if by == "shell":
        monkeypatch.setenv("EDGERES_RUN", "called")
    run, values = (
        "called" if by == "option" else None,
        {"file": checkpoint_of(spec_of("resnet8"), "some.safetensors").path},
    )
    first, again = (call(Call("import", run=run, values=values)).output.path for _ in range(2))
    assert [path.parts[-3:-1] for path in (first, again)] == [("called", "00-import"), ("called", "01-import")]
    if by == "shell":
        assert call(Call("prune", values={"modules": "layer1.0"})).output.path.parts[-3] == "called"


def test_a_run_is_begun_under_a_name_that_a_run_can_have(checkpoint_of, spec_of, runs_folder):
    file = checkpoint_of(spec_of("resnet8"), "some.safetensors").path
    with pytest.raises(InputError, match="no run can be called 'latest'"):
        call(Call("import", run="latest", values={"file": file}))
    assert not runs_folder.exists()


def test_prune_works_as_typed_and_says_what_it_took(imported, caplog):
    with caplog.at_level(logging.INFO, "edgeres"):
        result = call(Call("prune", values={"modules": "layer1.1"}))
    assert result.report.source.sha256 == imported.output.sha256
    assert str(imported.output.path) in caplog.text
    assert result.output.path.parent.name == "01-prune"
    assert record_from_json(StageReport, result.output.path.parent / "report.json") == result.report


def test_an_evaluation_is_of_the_run_that_is_named_or_refused(imported, checkpoint_of, spec_of):
    call(Call("import", values={"file": checkpoint_of(spec_of("resnet8"), "other.safetensors").path}))
    with pytest.raises(InputError, match=r"lies in the run mine, not in other: leave out --run"):
        evaluate_call(imported.output.path, "other", {"data": "digits"})
    assert evaluate_call(imported.output.path, "mine", {"data": "digits", "images": 8}).accuracy


def test_the_newest_artifact_is_taken(imported):
    first = call(Call("prune", values={"modules": "layer1.1"}))
    second = call(Call("prune", values={"modules": "layer1.0"}))
    assert second.report.source.sha256 == first.output.sha256
    assert second.output.spec.dropped == ("layer1.0", "layer1.1")


@pytest.mark.parametrize("command", ["export", "eval"])
def test_what_comes_after_a_failed_stage_says_that_it_takes_what_was_before(imported, caplog, command):
    failed = imported.output.path.parent.parent / "01-prune"
    failed.mkdir()
    (failed / "started.json").write_text('{"stage": "prune", "key": "k"}')
    if command == "export":
        call(Call("export"))
    else:
        evaluate_call(None, None, {"data": "digits", "images": 8})
    assert "warning: 01-prune did not finish, so " in caplog.text
    assert f"{command} takes what was there before" in caplog.text
    caplog.clear()
    call(Call("prune", values={"modules": "layer1.1"}))
    assert "did not finish" not in caplog.text


def test_a_named_artifact_decides_the_run(imported, checkpoint_of, spec_of):
    other = call(Call("import", values={"file": checkpoint_of(spec_of("resnet8"), "other.safetensors").path}))
    assert latest_run().name == "other"
    result = call(Call("prune", source=imported.output.path, values={"modules": "layer1.1"}))
    assert Run(result.output.path.parent.parent).name == "mine" == latest_run().name
    assert other.output.path.parent.parent.name == "other"


def test_a_checkpoint_from_outside_begins_a_run_with_its_copy(checkpoint_of, spec_of):
    outside = checkpoint_of(spec_of("resnet8"), "outside.safetensors")
    result = call(Call("prune", source=outside.path, values={"modules": "layer1.0"}))
    folders = [folder.path.name for folder in latest_run().finished()]
    assert folders == ["00-import", "01-prune"]
    assert result.report.source.sha256 == outside.sha256


def test_out_writes_there_and_nowhere_else(checkpoint_of, spec_of, tmp_path, runs_folder):
    outside = checkpoint_of(spec_of("resnet8"), "outside.safetensors")
    target = tmp_path / "new" / "short.safetensors"
    call(Call("prune", source=outside.path, out=target, values={"modules": "layer1.0"}))
    assert Checkpoint(target).spec.dropped == ("layer1.0",)
    assert sorted(path.name for path in target.parent.iterdir()) == [
        "short.safetensors",
        "short.safetensors.report.json",
    ]
    assert not runs_folder.exists()


def test_a_second_run_of_the_same_name_is_numbered(checkpoint_of, spec_of):
    path = checkpoint_of(spec_of("resnet8"), "mine.safetensors").path
    names = [call(Call("import", values={"file": path})).output.path.parent.parent.name for _ in range(2)]
    assert names == ["mine", "mine-2"]


OWN = """
import torch
def classifier():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
"""


def test_a_run_is_called_what_a_folder_of_any_system_can_be(checkpoint_of, spec_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "package_of_run").mkdir()
    (tmp_path / "package_of_run" / "mynet.py").write_text(OWN)
    file = checkpoint_of(spec_of("resnet8"), "a:b.safetensors").path
    calls = [{"file": Path("package_of_run.mynet:classifier"), "size": 32}, {"file": file}]
    names = [call(Call("import", values=values)).output.path.parent.parent.name for values in calls]
    assert names == ["mynet-classifier", "a-b"]


def test_a_stage_that_is_refused_leaves_the_current_run_as_it_was(checkpoint_of, spec_of, runs_folder):
    file = checkpoint_of(spec_of("resnet8", width=4)).path
    for name in ("other", "mine"):
        call(Call("import", run=name, values={"file": file}))
    with pytest.raises(InputError, match="cannot drop 9"):
        call(Call("prune", run="other", values={"drop": 9, "data": "digits", "images": 60}))
    assert (runs_folder / "latest").resolve().name == "mine"
    call(Call("export", run="other"))
    assert (runs_folder / "latest").resolve().name == "other"


def test_a_checkpoint_called_latest_begins_a_run_like_any_other(checkpoint_of, spec_of):
    for name in ("latest.safetensors", "next.safetensors"):
        made = call(Call("import", values={"file": checkpoint_of(spec_of("resnet8"), name).path}))
        assert latest_run().path.resolve() == made.output.path.parent.parent.resolve()


def test_what_killed_calls_left_is_gone_when_the_folder_is_taken_up_again(imported, tmp_path, monkeypatch):
    request = Call("prune", source=imported.output.path, out=tmp_path / "p.safetensors", values={"modules": "layer1.1"})
    with monkeypatch.context() as patch:
        patch.setattr("edgeres.prune.stage.prune", lambda source, config, folder: interrupted_in(folder))
        with pytest.raises(KeyboardInterrupt):
            call(request)
    assert list(tmp_path.glob(".p.safetensors.*/.networks-x/n.onnx"))
    call(request)
    names = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((".", "p.")))
    assert names == ["p.safetensors", "p.safetensors.report.json"]


def interrupted_in(folder):
    """As a process that was killed leaves it."""
    (folder / ".networks-x").mkdir()
    (folder / ".networks-x" / "n.onnx").touch()
    (folder / ".model.safetensors.16321.tmp").write_text("half")
    raise KeyboardInterrupt


def test_an_interrupted_stage_goes_on_in_its_folder(imported, monkeypatch):
    def interrupted(source, config, out_dir):
        raise KeyboardInterrupt

    request = Call("prune", values={"modules": "layer1.1"})
    with monkeypatch.context() as patch:
        patch.setattr("edgeres.prune.stage.prune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(request)
    started = latest_run().folders()[-1]
    assert not started.is_finished
    assert started.started_key
    assert call(request).output.path.parent == started.path
    assert latest_run().folders()[-1].is_finished


def test_a_stage_that_goes_on_after_another_was_made_is_the_newest_of_the_run(imported, monkeypatch):
    request = Call("prune", values={"modules": "layer1.1"})
    with monkeypatch.context() as patch:
        patch.setattr("edgeres.prune.stage.prune", lambda source, config, folder: interrupted_in(folder))
        with pytest.raises(KeyboardInterrupt):
            call(request)
    other = call(Call("prune", source=imported.output.path, values={"modules": "layer2.1"})).output
    last = call(Call("prune", source=imported.output.path, values={"modules": "layer1.1"})).output
    assert [one.path.parent.name for one in (other, last)] == ["02-prune", "03-prune"]
    assert [folder.path.name for folder in latest_run().folders()] == ["00-import", "02-prune", "03-prune"]
    assert call(Call("export")).report.source.sha256 == last.sha256


def test_a_checkpoint_that_is_gone_is_said_by_what_takes_an_older_one(imported, caplog):
    gone = call(Call("prune", values={"modules": "layer1.1"})).output.path
    gone.unlink()
    assert call(Call("export")).report.source.sha256 == imported.output.sha256
    assert "what 01-prune made is gone, so export takes what was there before" in caplog.text
    (latest_run().path / "02-export" / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"holds no float32 \.onnx file .*; that of 02-export is gone"):
        call(Call("calibrate", values={"data": "digits"}))
    imported.output.path.unlink()
    with pytest.raises(
        InputError, match=r"holds no \.safetensors file .*; that of 00-import is gone; that of 01-prune"
    ):
        call(Call("prune", values={"modules": "layer1.1"}))


@pytest.mark.parametrize("begins", ["import", "prune"])
def test_a_new_run_is_told_of_where_there_is_one(checkpoint_of, spec_of, tmp_path, caplog, runs_folder, begins):
    path = checkpoint_of(spec_of("resnet8"), "outside.safetensors").path
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    bad = Call("import", run="bad", values={"file": tmp_path / "bad.pth"})
    good = Call("import", run="good", values={"file": path})
    if begins == "prune":
        bad, good = (Call("prune", source=path, values={"modules": name}) for name in ("layer9.9", "layer1.0"))
    with caplog.at_level(logging.INFO, "edgeres"):
        with pytest.raises(InputError):
            call(bad)
        assert "new run" not in caplog.text
        assert not runs_folder.exists() or not any(runs_folder.iterdir())
        call(good)
    assert "new run" in caplog.text


def test_a_current_run_that_is_gone_is_said_by_show(imported, runs_folder):
    (runs_folder / "latest").unlink()
    (runs_folder / "latest").symlink_to("gone")
    with pytest.raises(InputError, match="there is no current run"):
        exhibit_of("latest")


def test_a_folder_without_stages_is_no_run(imported, runs_folder):
    (runs_folder / "train" / "cats").mkdir(parents=True)
    assert list(LISTINGS["runs"]()) == [latest_run().name]


@pytest.mark.parametrize(
    ("stage", "values"),
    [
        ("prune", {"target_latency": "50%", "data": "digits"}),
        ("prune", {"target_latency": "0,5x", "data": "digits"}),
        ("prune", {"target_latency": "1.5x"}),
        ("prune", {"macs": "some", "data": "digits"}),
        ("prune", {"drop": 1, "recover": ("solve",), "budget": "5 minutes", "data": "digits"}),
        ("sweep", {"sweep": "12..1", "data": "digits"}),
        ("recover", {"budget": "0s", "data": "digits"}),
    ],
)
def test_a_value_that_cannot_be_read_is_refused_before_weights_are(imported, monkeypatch, stage, values):
    monkeypatch.setattr("edgeres.models.weights.load_weights", lambda source: pytest.fail("weights were read"))
    with pytest.raises(InputError, match=rf"^{stage}: .*(say |no length of time|backwards)"):
        call(Call(stage, source=imported.output.path, values=values))


@pytest.mark.parametrize("begun_before", [False, True])
@pytest.mark.parametrize("stage", ["prune", "export", "lesion"])
def test_a_refused_stage_leaves_nothing_of_what_it_began(imported, monkeypatch, stage, begun_before):
    """What an interrupted call had kept stays."""
    where = {"prune": "prune.stage:prune", "export": "export.stage:export", "lesion": "study.lesion:lesion"}[stage]
    ways = [KeyboardInterrupt()] if begun_before else []

    def refused(source, config, out_dir):
        (out_dir / "tried").mkdir(exist_ok=True)
        (out_dir / "tried" / "whole.json").write_text("{}")
        raise next(iter(ways), AlwaysRefused("--budget 5s is too short"))

    monkeypatch.setattr(f"edgeres.{where.replace(':', '.')}", refused)
    request = Call(stage, values={"prune": {"modules": "layer1.1"}, "lesion": {"data": "digits"}}.get(stage, {}))
    if begun_before:
        with pytest.raises(KeyboardInterrupt):
            call(request)
        ways.clear()
    with pytest.raises(InputError, match="too short"):
        call(request)
    assert [folder.stage for folder in latest_run().folders()] == ["import", *([stage] if begun_before else [])]


@pytest.mark.parametrize("reason", ["no space left on device", "photos does not exist"])
def test_what_was_done_before_a_disk_was_full_or_gone_stays(imported, monkeypatch, reason):
    def stopped(source, config, out_dir):
        (out_dir / "search.json").write_text("{}")
        raise InputError(reason)

    monkeypatch.setattr("edgeres.prune.stage.prune", stopped)
    with pytest.raises(InputError, match=reason):
        call(Call("prune", values={"modules": "layer1.1"}))
    assert latest_run().folders()[-1].stage == "prune"


def test_eval_stands_beside_the_model_and_remembers_the_data(imported):
    report = evaluate_call(None, None, {"data": "digits"})
    folder = imported.output.path.parent
    assert record_from_json(StageReport, folder / "eval.json").accuracy == report.accuracy
    assert (folder / "eval.npy").is_file()


def test_eval_outside_of_a_run_writes_nothing(checkpoint_of, spec_of, tmp_path):
    path = checkpoint_of(spec_of("resnet8"), "alone.safetensors").path
    before = sorted(tmp_path.rglob("*"))
    evaluate_call(path, None, {"data": "digits"})
    assert sorted(tmp_path.rglob("*")) == before


def test_an_onnx_file_from_outside_needs_a_place_for_the_result(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(InputError):
        call(Call("quantize", source=tmp_path / "x.onnx"))


def test_an_interrupted_out_goes_on_and_leaves_nothing_but_the_result(checkpoint_of, spec_of, tmp_path, monkeypatch):
    outside = checkpoint_of(spec_of("resnet8"), "outside.safetensors")
    request = Call("prune", source=outside.path, out=tmp_path / "o" / "x.safetensors", values={"modules": "layer1.0"})

    def interrupted(source, config, out_dir):
        (out_dir / "state.pt").write_text("half-way")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edgeres.prune.stage.prune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call(request)
    assert [path.name for path in (tmp_path / "o").glob(".x*/*.pt")] == ["state.pt"]
    call(request)
    assert not list((tmp_path / "o").glob(".*"))
    assert (tmp_path / "o" / "x.safetensors").is_file()


def test_a_file_named_through_latest_stays_in_its_run(imported, runs_folder):
    through = runs_folder / "latest" / "00-import" / "model.safetensors"
    result = call(Call("prune", source=through, values={"modules": "layer1.1"}))
    assert result.output.path == runs_folder / "mine" / "01-prune" / "model.safetensors"
    assert latest_run().name == "mine"


def test_a_partial_evaluation_does_not_replace_the_whole_one(imported):
    whole = evaluate_call(None, None, {"data": "digits"})
    part = evaluate_call(None, None, {"data": "digits", "images": 50})
    assert part.accuracy[0].n == 50
    kept = record_from_json(StageReport, imported.output.path.parent / "eval.json")
    assert kept.accuracy == whole.accuracy


def test_a_run_judged_on_part_of_val_goes_on_with_that_part(imported, caplog):
    folder = imported.output.path.parent
    evaluate_in_place(folder, imported.output, EvalConfig(data="digits", images=50))
    call(Call("export"))
    (*_, exported) = latest_run().folders()
    with caplog.at_level("INFO", "edgeres"):
        assert evaluate_call(None, None, {}).accuracy[0].n == 50
    assert "images: 50 of val, as before in" in caplog.text
    assert record_from_json(StageReport, exported.path / "eval.json").accuracy[0].n == 50
    (note,) = evaluate_call(None, None, {"images": 60}).notes
    assert note == "not kept in the run, whose networks are judged on 50 images of val: leave out --images"
    assert evaluate_call(None, None, {}, replace=True).accuracy[0].n == 449
    assert record_from_json(StageReport, exported.path / "eval.json").accuracy[0].n == 449
    said = report(latest_run().path, ReportConfig(html=False)).headline
    assert "they are of different images: 00-import on 50 of digits val, 01-export on 449 of digits val." in said


def test_an_evaluation_on_another_data_set_replaces_none_unless_asked(imported):
    evaluate_call(None, None, {"data": "digits"})
    path = imported.output.path.parent / "eval.json"
    path.write_text(path.read_text().replace("digits", "folder:photos"))
    before = path.read_text()
    photos = Path("photos").resolve()
    note = f"not kept in the run, whose networks are judged on folder:{photos}; --replace keeps it"
    assert evaluate_call(None, None, {"data": "digits"}).notes[-1] == note
    assert path.read_text() == before
    kept = evaluate_call(None, None, {"data": "digits"}, replace=True)
    assert record_from_json(StageReport, path).accuracy == kept.accuracy


def test_an_agreement_is_kept_by_the_rule_of_evaluations_beside_the_one_before(imported, caplog):
    call(Call("export"))
    _, file = (model for _, model in latest_run().models())
    kept = file.path.parent / "agree.json"

    def agreed(a, **values):
        return agree_call([a.path, file.path], {"data": "digits", **values})[0]

    whole = agreed(imported.output)
    assert (whole.n, whole.notes) == (449, ())
    assert agreed(imported.output, images=50).notes[-1].startswith("not kept in the run: its report shows")
    assert record_from_json(Agreement, kept) == whole
    with caplog.at_level("INFO", "edgeres"):
        agreed(imported.output)
        assert "kept as" not in caplog.text
        assert agreed(file) == record_from_json(Agreement, kept)
    assert f"{kept} is of another call, or damaged: kept as agree.json.old1" in caplog.text
    assert record_from_json(Agreement, kept.with_name("agree.json.old1")) == whole
    evaluate_call(None, None, {"data": "digits"})
    path = file.path.parent / "eval.json"
    path.write_text(path.read_text().replace("digits", "folder:photos"))
    assert agreed(imported.output).notes[-1].endswith(f"judged on folder:{Path('photos').resolve()}")


def test_the_data_named_last_in_the_run_is_taken_again_but_not_by_a_study_that_trains(imported):
    from edgeres.pipeline.calls import with_default_data
    from edgeres.pipeline.stages import STAGES

    run = latest_run()
    call(Call("lesion", values={"data": "digits", "images": 20, "draws": 0}))
    for stage in ("lesion", "prune", "recover", "sweep"):
        assert with_default_data(STAGES[stage].config_class(), {}, run) == {"data": "digits"}, stage
    assert with_default_data(STAGES["lesion"].config_class(), {"data": "cifar10"}, run) == {"data": "cifar10"}
    assert with_default_data(STAGES["depth"].config_class(), {}, run) == {}


def test_a_study_that_trains_networks_of_its_own_does_not_become_the_current_run(imported, monkeypatch):
    from edgeres.core.artifacts import StudyFile
    from edgeres.core.files import write_text
    from edgeres.core.stage import Recorder, StageResult

    def made(source, config, out_dir):
        output = StudyFile(out_dir / "study.json")
        write_text(output.path, "{}")
        return StageResult(output, Recorder("depth", config, source).finish(output))

    monkeypatch.setattr("edgeres.study.depth.depth", made)
    made_at = call(Call("depth")).output.path
    assert made_at.parent.parent.name == "depth-digits"
    assert latest_run().name == "mine"


def test_an_interrupted_call_leaves_nothing_or_says_where(checkpoint_of, spec_of, tmp_path, monkeypatch, caplog):
    source, out = checkpoint_of(spec_of("resnet8")).path, tmp_path / "a.onnx"

    def interrupted(source, config, folder):
        raise KeyboardInterrupt

    def interrupted_halfway(source, config, folder):
        (folder / "state.pt").write_text("x")
        raise KeyboardInterrupt

    for stage in (interrupted, interrupted_halfway):
        assert not list(tmp_path.glob(".a.onnx.*"))
        monkeypatch.setattr("edgeres.export.stage.export", stage)
        with pytest.raises(KeyboardInterrupt):
            call(Call("export", source=source, out=out))
    (kept,) = tmp_path.glob(".a.onnx.*")
    assert f"what was done is kept in {kept}" in caplog.text


@pytest.mark.parametrize(("option", "value"), [("latency", "x.json"), ("data", "digits")])
def test_an_option_that_changes_nothing_is_refused(checkpoint_of, spec_of, tmp_path, option, value):
    model = call(Call("export", source=checkpoint_of(spec_of("resnet8")).path, out=tmp_path / "a.onnx")).output.path
    with pytest.raises(InputError, match=f"quantize: --{option} changes nothing here"):
        call(Call("quantize", source=model, out=tmp_path / "b.onnx", values={"effort": "quick", option: value}))


def test_a_damaged_source_is_named_before_an_option_that_is_lacking(checkpoint_of, spec_of):
    path = checkpoint_of(spec_of("resnet8"), "cut.safetensors").path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.safetensors is cut off or damaged"):
        call(Call("prune", source=path, values={"drop": 1}))


@pytest.mark.parametrize("adopting", [False, True])
def test_an_interrupted_import_leaves_no_run(checkpoint_of, spec_of, runs_folder, monkeypatch, adopting):
    def interrupted(source, config, out_dir):
        raise KeyboardInterrupt

    path = checkpoint_of(spec_of("resnet8"), "mine.safetensors").path
    monkeypatch.setattr("edgeres.models.importing.import_checkpoint", interrupted)
    request = Call("prune", source=path, values={"modules": "layer1.0"})
    with pytest.raises(KeyboardInterrupt):
        call(request if adopting else Call("import", values={"file": path}))
    assert [one.name for one in runs_folder.iterdir()] == []


def test_an_interrupted_import_leaves_the_folder_of_another_process_alone(checkpoint_of, spec_of, monkeypatch):
    path = checkpoint_of(spec_of("resnet8"), "mine.safetensors").path

    def interrupted(source, config, out_dir):
        monkeypatch.setattr("edgeres.core.runs.StageFolder.is_busy", property(lambda folder: True))
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeres.models.importing.import_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(Call("import", values={"file": path}))
    assert [folder.path.name for folder in latest_run().folders()] == ["00-import"]


def test_the_list_of_runs_says_what_was_begun_and_not_finished(imported):
    run = latest_run()
    run.claim("prune", "key")
    assert LISTINGS["runs"]() == {"mine": "00-import, 01-prune (not finished)"}


@pytest.mark.parametrize("module", ["net", "own.net", "own.inner.net"])
@pytest.mark.parametrize("is_package", [True, False])
def test_a_function_is_another_once_its_code_is(tmp_path, monkeypatch, module, is_package):
    def keys():
        data_fingerprint.cache_clear()
        own = {"import": ImportConfig(file=f"{module}:Net")}
        own["eval"] = EvalConfig(data="digits", metric=f"{module}:score")
        own["train"] = TrainConfig(arch="resnet8", data=f"{module}:photos")
        return {stage_key(stage, None, config) for stage, config in own.items()}

    code = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    code.parent.mkdir(parents=True, exist_ok=True)
    for folder in code.parents[: module.count(".")] if is_package else ():
        (folder / "__init__.py").write_text("raise RuntimeError")
    code.write_text("raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    before = keys()
    assert keys() == before
    code.write_text("raise RuntimeError  # in another way")
    assert not keys() & before
    assert not {"own", "net"} & {*sys.modules}
    code.unlink()
    assert len(keys()) == 3
