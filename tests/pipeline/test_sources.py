"""What a stage is given is looked at before a run is made."""

from __future__ import annotations

import logging
import shutil
from types import SimpleNamespace

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from edgeres.cli.compare import compare
from edgeres.core.artifacts import Engine
from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError, StageError
from edgeres.core.runs import latest_run
from edgeres.core.stage import Recorder, StageReport, StageResult
from edgeres.pipeline.calls import Call, call
from edgeres.pipeline.chain import Chain, run_of_recipe
from edgeres.pipeline.eval_bench import agree_call, bench_call, evaluate_call
from edgeres.pipeline.recipe import Recipe, planned
from edgeres.pipeline.rerun import recipe_of
from edgeres.pipeline.show import exhibit_of
from edgeres.pipeline.stages import filled, source_in
from edgeres.quantize.config import QuantizeConfig
from edgeres.report.folder import run_folder_from
from edgeres.report.gate import GateConfig, gate
from edgeres.report.networks import base_of, networks_in
from edgeres.report.rows import rows_from

DIGITS = {"data": "digits", "images": 32}


@pytest.fixture
def whole(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet8"), "whole.safetensors")


def poisoned(checkpoint, value):
    path = checkpoint.path.with_name("nan.safetensors")
    weights = load_file(checkpoint.path)
    weights["layer2.0.conv1.weight"].view(-1)[3] = value
    with safe_open(checkpoint.path, "pt") as file:
        save_file(weights, path, file.metadata())
    return path


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "NaN"), (float("-inf"), "infinity")])
@pytest.mark.parametrize(
    ("stage", "values"),
    [
        ("prune", {"modules": "layer1.0"}),
        ("lesion", {"data": "digits"}),
        ("recover", {"data": "digits"}),
        ("export", {}),
    ],
)
def test_weights_that_are_not_finite_are_refused_before_a_run_is_made(whole, runs_folder, stage, values, value, what):
    path = poisoned(whole, value)
    with pytest.raises(InputError, match=rf"nan\.safetensors: layer2\.0\.conv1\.weight holds {what}"):
        call(Call(stage, source=path, values=values))
    assert not runs_folder.exists()


def test_a_teacher_that_is_not_finite_is_refused(whole, tmp_path):
    cut = call(Call("prune", source=whole.path, out=tmp_path / "cut.safetensors", values={"modules": "layer1.0"}))
    values = {"data": "digits", "teacher": poisoned(whole, float("nan"))}
    with pytest.raises(InputError, match="holds NaN"):
        call(Call("recover", source=cut.output.path, values=values))


@pytest.mark.parametrize("error", [InputError, StageError])
def test_a_stage_that_fails_leaves_neither_its_new_run_nor_another_current_one(
    whole, runs_folder, checkpoint_of, spec_of, monkeypatch, error
):
    call(Call("import", values={"file": checkpoint_of(spec_of("resnet8"), "first.safetensors").path}))

    def failing(source, config, out_dir):
        raise error("no")

    monkeypatch.setattr("edgeres.prune.stage.prune", failing)
    with pytest.raises(error):
        call(Call("prune", source=whole.path, values={"modules": "layer1.0"}))
    assert not (runs_folder / "whole").exists()
    assert latest_run().name == "first"


def test_an_interrupted_stage_keeps_its_new_run(whole, runs_folder, monkeypatch):
    def interrupted(source, config, out_dir):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeres.prune.stage.prune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(Call("prune", source=whole.path, values={"modules": "layer1.0"}))
    assert latest_run().name == "whole"


def test_pruning_the_pruned_without_naming_it_is_a_warning_that_names_the_whole(whole, caplog):
    first = call(Call("import", values={"file": whole.path})).output.path
    once = call(Call("prune", values={"modules": "layer1.0"}))
    assert not once.report.warnings
    with caplog.at_level(logging.INFO, "edgeres"):
        twice = call(Call("prune", values={"modules": "layer2.0"}))
    (said,) = twice.report.warnings
    assert "already lacks 1 module (layer1.0)" in said
    assert said.endswith(f"to start from the whole network, the same options: edgeres prune {first}")
    assert "01-prune/model.safetensors, which already lacks layer1.0" in caplog.text
    assert record_from_json(StageReport, twice.output.path.parent / "report.json") == twice.report
    named = call(Call("prune", source=once.output.path, values={"modules": "layer3.0"}))
    assert not named.report.warnings


@pytest.mark.parametrize("out", [None, "made.json"])
def test_a_file_of_the_network_before_a_cut_that_was_never_exported_says_so_to_the_end(whole, caplog, tmp_path, out):
    call(Call("import", values={"file": whole.path}))
    call(Call("export"))
    assert "never exported" not in str(call(Call("calibrate", values=DIGITS)).report.warnings)
    call(Call("prune", values={"modules": "layer1.0"}))
    run = latest_run()
    cut = run.path / "03-prune/model.safetensors"
    told = f"{cut.parent} is newer and was never exported, so its work is not in {{}}: edgeres export {cut}"
    with caplog.at_level(logging.INFO, "edgeres"):
        calibrated = call(Call("calibrate", out=out and tmp_path / out, values=DIGITS))
    assert f"calibrate: takes {run.path}/01-export/model.onnx, not the newer {cut.parent}" in caplog.text
    assert calibrated.report.warnings[0] == told.format("this")
    made = call(Call("quantize", values={"scales": calibrated.output.path, "effort": "quick"}))
    assert made.report.warnings[0] == told.format("this")
    assert record_from_json(StageReport, made.output.path.parent / "report.json") == made.report
    evaluate_call(made.output.path, None, {"data": "digits"})
    line = told.format(made.output.path.parent.name)
    assert f"not judged, {line}" in gate(run.path, GateConfig(max_size="1GB")).notes
    assert line in rows_from(run.path).problems
    call(Call("export"))
    assert line not in rows_from(run.path).problems
    assert not any("never exported" in str(stage.warnings) for stage in run_folder_from(run.path).stages)


def test_a_whole_network_exported_after_the_cut_one_is_held_against_and_not_gone_on_with(whole, caplog):
    caplog.set_level("INFO", logger="edgeres")
    first = call(Call("import", values={"file": whole.path})).output
    call(Call("prune", values={"modules": "layer1.0"}))
    again = call(Call("export", source=first.path)).output
    folder = latest_run().path
    assert (
        f"{folder}/01-prune is newer and was never exported"
        in call(Call("calibrate", values=DIGITS)).report.warnings[0]
    )
    cut = call(Call("export")).output
    last = call(Call("export", source=first.path, values={"batch": 4})).output
    scales = call(Call("calibrate", values=DIGITS))
    made = call(Call("quantize", values={"effort": "quick"}))
    assert {scales.report.source.sha256, made.report.source.sha256} == {cut.sha256}
    assert "never exported" not in str(scales.report.warnings)
    assert f"calibrate: leaves out {last.path}, of an earlier network of the run" in caplog.messages
    assert again.sha256 != cut.sha256
    half = call(Call("export", values={"half": True})).output
    assert source_in(latest_run(), "compile").path == half.path  # the newest of the newest network
    scales = call(Call("calibrate", source=last.path, values=DIGITS)).output.path
    back = call(Call("quantize", source=last.path, values={"effort": "quick", "scales": scales})).output
    assert source_in(latest_run(), "compile").path == back.path  # what was gone on with on purpose


def test_a_run_that_is_given_a_second_network_says_that_figures_hold_one_against_the_other(
    whole, checkpoint_of, spec_of, tmp_path, caplog
):
    import torch

    def brought(name, **values):
        weights = load_file(whole.path) | {"bn1.bias": torch.full((16,), float(name))}
        torch.save(weights, tmp_path / f"{name}.pth")
        caplog.clear()
        call(Call("import", run="one", values={"file": tmp_path / f"{name}.pth", "arch": "resnet8", **values}))
        return [one for one in caplog.messages if "two networks" in one]

    assert brought("1") == brought("1", mean=(0.5,), std=(0.2,)) == []
    (said,) = brought("2")
    assert said.startswith("warning: 01-import and 02-import are two networks of which none comes")
    run = latest_run().path
    assert [line for line in rows_from(run).problems if "two networks" in line] == [said.removeprefix("warning: ")]
    call(Call("import", run="one", values={"file": run / "00-import/model.safetensors", "fit": "squash"}))  # a copy
    assert len([line for line in rows_from(run).problems if "two networks" in line]) == 1
    torch.save({"net": load_file(whole.path), "ema": load_file(whole.path)}, tmp_path / "both.pth")
    for key in ("net", "ema"):
        caplog.clear()
        values = {"file": tmp_path / "both.pth", "arch": "resnet8", "key": key}
        call(Call("import", run="two", values=values))
    assert "00-import and 01-import are two networks" in caplog.text
    assert "left out" not in caplog.text


def test_a_network_that_came_back_cut_from_ones_own_training_is_held_against_the_whole_one(tmp_path, caplog):
    import torch
    from torchvision.models import resnet18

    from edgeres import api

    torch.manual_seed(0)
    mine, images = resnet18(num_classes=3).eval(), torch.randn(2, 3, 32, 32)
    feeding = api.Preprocess(mean=(0.5,), std=(0.25,))
    api.trace(mine, images, tmp_path / "whole.safetensors", preprocess=feeding, classes=("a", "b", "c"))
    short = api.drop(mine, ["layer2.1"], images)
    api.trace(short.eval(), images, tmp_path / "short.safetensors", preprocess=feeding)
    values = [{"file": tmp_path / f"{name}.safetensors"} for name in ("whole", "short")]
    brought = [call(Call("import", run="own", values=one)).report.notes for one in values]
    assert "two networks" not in caplog.text
    networks = networks_in(run_folder_from(latest_run().path))
    assert networks[1].parent == networks[0].sha256
    assert base_of(networks[1], networks) is networks[0]
    said = [[one for one in notes if "it lacks 1 module already, layer2.1" in one] for notes in brought]
    assert [len(one) for one in said] == [0, 1]


def test_an_import_done_anew_with_other_options_leaves_out_the_earlier_one_and_what_came_of_it(whole, tmp_path, caplog):
    import torch

    def brought(file=tmp_path / "net.pth", **values):
        caplog.clear()
        call(Call("import", run="one", values={"file": file, "arch": "resnet8", "resize": 32, **values}))
        return [one.removeprefix("warning: ") for one in caplog.messages if "left out" in one]

    torch.save(load_file(whole.path), tmp_path / "net.pth")
    assert brought(std=(0.002,), mean=(0.3,)) == []
    evaluate_call(None, None, {"data": "digits"})
    call(Call("export"))
    (said,) = brought(std=(0.38,), mean=(0.3,))
    assert said == "00-import: left out of every figure, as 02-import brought the same network in with other options"
    evaluate_call(None, None, {"data": "digits"})
    call(Call("prune", values={"modules": ("layer1.0",)}))
    evaluate_call(None, None, {"data": "digits"})
    run = latest_run().path
    summary = rows_from(run)
    assert [row.name for row in summary.rows] == ["02-import", "03-prune"]
    assert f"00-import, 01-export: left out {said.partition('left out ')[2]}" in summary.problems
    assert summary.headline.endswith("(03-prune against 02-import).")
    (loss,) = gate(run, GateConfig(max_loss=1)).outcomes
    assert "against 02-import" in loss.text
    assert brought(std=(0.38,), mean=(0.3,), interpolation="bilinear") == []  # what it is unless said
    assert [row.name for row in rows_from(run).rows] == ["02-import", "03-prune", "04-import"]
    shutil.rmtree(run / "04-import")
    (run / "names.txt").write_text("\n".join("abcdefghij"))
    assert brought(std=(0.38,), mean=(0.3,), labels=run / "names.txt") == []  # the same, by other names
    assert brought(run / "02-import/model.safetensors", arch=None, resize=None, fit="squash")[0].startswith(
        "02-import: left out"
    )
    assert len(rows_from(run).rows) == 2


def test_what_is_quantized_is_the_newest_float32_file_whatever_was_exported_after_it(whole, caplog):
    caplog.set_level("INFO", logger="edgeres")
    call(Call("import", values={"file": whole.path}))
    full = call(Call("export")).output
    call(Call("export", values={"half": True}))
    call(Call("calibrate", values={"data": "digits", "images": 32}))
    call(Call("quantize"))
    assert [message for message in caplog.messages if ": takes" in message][-2:] == [
        f"calibrate: takes {full.path}",
        f"quantize: takes {full.path}",
    ]


def test_what_is_compiled_is_the_newest_file_for_tensorrt_in_a_recipe_and_a_rerun_too(
    whole, runs_folder, monkeypatch, caplog
):
    def compile_engine(source, config, folder):
        (folder / "model.plan").write_bytes(b"engine")
        recorder, engine = Recorder("compile", config, source), Engine(folder / "model.plan")
        card = {"card": source.card, "precision": source.precision}
        monkeypatch.setattr(Engine, "manifest", SimpleNamespace(**card))
        return StageResult(engine, recorder.finish(engine))

    monkeypatch.setattr("edgeres.compile.stage.compile_engine", compile_engine)
    stages = [{"use": "import", "file": str(whole.path)}, {"use": "export"}, {"use": "calibrate", "images": 32}]
    quantized = [{"use": "quantize", "effort": "quick"}, {"use": "quantize", "profile": "ort-cpu"}]
    recipe = Recipe(name="r", data="digits", stage=(*stages, *quantized, {"use": "compile"}))
    run = run_of_recipe(recipe, None)
    done = list(Chain(run, planned(recipe, "r")).execute())
    assert done[-1].reports[0].source.path.endswith("03-quantize/model.int8.onnx")
    with caplog.at_level(logging.INFO, "edgeres"):
        assert call(Call("compile")).report.source == done[-1].reports[0].source
    assert f"leaves out {run.path}/04-quantize/model.int8.onnx, quantized for ONNX Runtime on a CPU" in caplog.text
    (run.path / "recipe.toml").unlink()
    assert recipe_of(run).stage[-1]["use"] == "compile"


def test_a_run_of_half_precision_alone_is_told_what_is_missing(whole):
    call(Call("import", values={"file": whole.path}))
    call(Call("export", values={"half": True}))
    with pytest.raises(InputError, match=r"holds no float32 \.onnx file for `edgeres calibrate`"):
        call(Call("calibrate", values={"data": "digits"}))


def test_a_recipe_quantizes_its_float32_file_where_half_precision_was_exported_last(whole, runs_folder, tmp_path):
    stages = [{"use": "import", "file": str(whole.path)}, {"use": "export"}, {"use": "export", "half": True}]
    recipe = Recipe(name="r", data="digits", stage=(*stages, {"use": "calibrate", "images": 32}))
    done = list(Chain(run_of_recipe(recipe, None), planned(recipe, "r")).execute())
    assert done[-1].reports[0].source.path.endswith("01-export/model.onnx")


def words_on_replaced(caplog, act):
    caplog.clear()
    act()
    return [one.partition(" --")[0] for one in caplog.messages if "speaks of" in one]


@pytest.fixture
def replaced(whole, checkpoint_of, tmp_path):
    """Puts another network's export in the place of the file."""
    other = checkpoint_of(whole.spec, "other.safetensors", seed=1)
    another = call(Call("export", source=other.path, out=tmp_path / "another.onnx")).output.path
    call(Call("import", values={"file": whole.path}))
    return lambda path: shutil.copyfile(another, path)


def told(path, command):
    again = f"edgeres export {latest_run().path}/00-import/model.safetensors"
    said = f"not the file its report speaks of (another sha256); {command} goes on with it as it is"
    return [f"warning: {path}: {said}; to make that one again: {again}"]


@pytest.mark.parametrize("place", ["newest of the run", "in a run", "outside", "linked"])
def test_a_stage_says_that_its_source_was_replaced(replaced, tmp_path, caplog, place):
    path = made = call(Call("export", out=tmp_path / "out.onnx" if place == "outside" else None)).output.path
    if place == "linked":
        (path := tmp_path / "model.onnx").symlink_to(made.resolve())

    def act():
        named = None if place == "newest of the run" else path
        call(Call("calibrate", source=named, out=tmp_path / "s.json", values=DIGITS))

    assert words_on_replaced(caplog, act) == []
    replaced(made)
    assert words_on_replaced(caplog, act) == told(path, "calibrate")


@pytest.mark.parametrize("is_named", [True, False])
def test_so_do_eval_bench_agree_compare_and_show(replaced, monkeypatch, caplog, is_named):
    report = SimpleNamespace(saying=lambda notes: None, latency=(1,), model_copy=lambda update: report)
    made = call(Call("export")).output.path
    named = [made] if is_named else []
    for name in ("bench_report", "write_report", "evaluate", "agree", "_float_and_int8", "_keep"):
        monkeypatch.setattr(f"edgeres.pipeline.eval_bench.{name}", lambda *args, **named: report)
    monkeypatch.setattr("edgeres.cli.compare.versus", lambda *args: report)
    monkeypatch.setattr("edgeres.cli.compare._print_versus", lambda *args, **named: None)
    acts = {
        "eval": lambda: evaluate_call(*(named or [None]), None, {"data": "digits"}),
        "bench": lambda: bench_call(tuple(named), None, {}),
    }
    if is_named:
        acts["agree"] = lambda: agree_call(named, {"data": "digits"})
        acts["compare"] = lambda: compare.callback((str(made), str(made)), across=False, as_json=True)
        acts["show"] = lambda: exhibit_of(str(made))
    assert all(words_on_replaced(caplog, act) == [] for act in acts.values())
    replaced(made)
    for command, act in acts.items():
        assert set(words_on_replaced(caplog, act)) == {*told(made, command)}


def test_a_table_that_was_replaced_is_told_too(whole, caplog):
    call(Call("import", values={"file": whole.path}))
    source, table = call(Call("export")).output, call(Call("calibrate", values=DIGITS)).output.path
    table.write_text(table.read_text() + " ")
    caplog.clear()
    assert filled("quantize", QuantizeConfig(), source, list(latest_run().reports())).scales == table
    assert caplog.messages[0].startswith(f"warning: {table}: not the file its report speaks of")


def test_a_newer_table_of_another_file_is_left_out_and_named(whole, caplog):
    call(Call("import", values={"file": whole.path}))
    first = call(Call("export", values={"opset": 17})).output
    last = call(Call("export", values={"opset": 18})).output
    taken = call(Call("calibrate", values=DIGITS)).output.path
    newer = call(Call("calibrate", source=first.path, values=DIGITS)).output.path
    caplog.clear()
    caplog.set_level("INFO", logger="edgeres")
    tables = [filled("quantize", QuantizeConfig(), one, list(latest_run().reports())).scales for one in (first, last)]
    assert tables == [newer, taken]
    assert caplog.messages == [f"quantize: leaves out {newer}, made for {first.path}"]
