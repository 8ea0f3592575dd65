import json
import shlex
import shutil
from pathlib import Path

import click
import pytest

from edgeres.bench.config import BenchConfig, BoardConfig
from edgeres.cli.main import LazyGroup
from edgeres.compile.config import CompileConfig
from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import record_from_json
from edgeres.core.stage import Recorder, StageReport
from edgeres.evaluate.stage import EvalConfig
from edgeres.pipeline import eval_bench
from edgeres.pipeline.show import exhibit_of
from edgeres.pipeline.stages import STAGES
from edgeres.report.folder import command_from, run_folder_from
from edgeres.report.gate import GateConfig, gate
from edgeres.report.networks import networks_in
from edgeres.report.rows import rows_from
from edgeres.report.table import markdown_from

NEEDED = {"data": "digits", "arch": "resnet20", "file": "weights.pt", "sweep": "1..3"}


def files(run):
    return {file.path: file for file in rows_from(run.path).files}


def test_every_file_names_its_parent_and_its_command(whole_run):
    found = files(whole_run)
    assert list(found) == [
        "00-import/model.safetensors",
        "02-prune/model.safetensors",
        "03-recover/model.safetensors",
        "04-export/model.onnx",
        "05-quantize/model.onnx",
        "06-compile/model.plan",
    ]
    quantized = found["05-quantize/model.onnx"]
    assert (quantized.made_from, quantized.state) == ("04-export/model.onnx", "here")
    assert quantized.parent == found["04-export/model.onnx"].sha256
    assert quantized.command == "edgeres quantize /elsewhere/04-export/model.onnx --method entropy"


def test_a_file_that_is_gone_or_another_one_is_told_and_its_figures_stay(whole_run):
    (whole_run.path / "02-prune/model.safetensors").unlink()
    (whole_run.path / "04-export/model.onnx").write_bytes(b"something else")
    summary = rows_from(whole_run.path)
    states = {file.path: file.state for file in summary.files if file.state != "here"}
    assert states == {"02-prune/model.safetensors": "missing", "04-export/model.onnx": "changed"}
    told = [problem for problem in summary.problems if "figures are those of its report" in problem]
    assert len(told) == 2
    assert len(summary.rows) == 6


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"something else")])
@pytest.mark.parametrize("which", ["00-import", "01-prune"])
def test_the_headline_tells_of_a_lost_file_until_it_is_made_again(fake_run, which, harm):
    _, first = fake_run.model("import", "model.safetensors", 3000)
    folder, cut = fake_run.model("prune", "model.safetensors", 1000, source=first)
    for one, file in ((fake_run.path / "00-import", first), (folder, cut)):
        fake_run.evaluated(one, file, 0.9)
    harm(fake_run.path / which / "model.safetensors")
    lost = rows_from(fake_run.path)
    (problem,) = lost.problems
    assert problem.startswith(which)
    said = f"(01-prune against 00-import). {problem.partition(';')[0]}."
    assert lost.headline.endswith(said)
    fake_run.model("recover", "model.safetensors", 990, source=cut)
    last = "02-recover: accuracy not evaluated: edgeres eval --run fake"
    assert rows_from(fake_run.path).headline.endswith(f"{said} {last}")
    stage, size, source = {"00-import": ("import", 3000, None), "01-prune": ("prune", 1000, first)}[which]
    fake_run.model(stage, "model.safetensors", size, source=source)
    if harm is not Path.unlink:  # what stands there is still another file
        put_back(rows_from(fake_run.path).problems)
    found = rows_from(fake_run.path)
    assert ({file.state for file in found.files}, found.problems) == ({"here"}, ())
    assert found.headline.endswith(f" against 00-import).{f' {last}' if which == '00-import' else ''}")
    assert found.files[1].made_from == "00-import/model.safetensors"
    assert not any(one.lost for one in networks_in(run_folder_from(fake_run.path)))


def put_back(problems):
    """Does what the one problem says."""
    (problem,) = problems
    command, *files = shlex.split(problem.rpartition("; put it back: ")[2])
    assert command == "cp"
    shutil.copy(*files)


def test_a_changed_file_stays_changed_where_another_stage_made_what_it_was(fake_run):
    folder, first = fake_run.model("export", "model.onnx", 2000)
    fake_run.evaluated(folder, first, 0.92)
    folder, last = fake_run.model("quantize", "model.onnx", 600, source=first, precision="int8")
    fake_run.evaluated(folder, last, 0.918)
    shutil.copy(fake_run.path / "00-export/model.onnx", folder / "model.onnx")
    fake_run.model("quantize", "model.onnx", 600, source=first, precision="int8")
    said = "01-quantize/model.onnx: not the file its report speaks of (another sha256)"
    summary, report = rows_from(fake_run.path), gate(fake_run.path, GateConfig(max_loss=5))
    assert [one.state for one in summary.files] == ["here", "changed", "here"]
    assert [said in one for one in summary.problems] == [True]
    assert (report.judged, report.broken) == ("02-quantize", ())
    assert [said in one for one in report.notes] == [True]
    assert said in markdown_from(summary)
    assert said in "\n".join(exhibit_of(str(fake_run.path)).lines)
    assert "same file as" not in markdown_from(summary)
    put_back(summary.problems)
    assert "02-quantize is the same file as 01-quantize" in gate(fake_run.path, GateConfig(max_loss=5)).notes
    assert rows_from(fake_run.path).problems == ()


def test_an_evaluation_of_a_changed_file_takes_no_accuracy_from_the_one_made_again(fake_run, monkeypatch):
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(folder, first, 0.92)
    cut_at, cut = fake_run.model("prune", "model.safetensors", 2000, source=first, dropped=("layer1.3",))
    fake_run.evaluated(cut_at, cut, 0.91)
    shutil.copy(folder / "model.safetensors", cut_at / "model.safetensors")
    again, _ = fake_run.model("prune", "model.safetensors", 2000, source=first, dropped=("layer1.3",))
    other = record_from_json(StageReport, folder / "eval.json")
    monkeypatch.setattr(eval_bench, "evaluate", lambda *_: other)
    eval_bench.evaluate_in_place(
        cut_at, Checkpoint(cut_at / "model.safetensors"), EvalConfig(data="digits"), fresh=True
    )
    assert record_from_json(StageReport, cut_at / "eval.json").source == first
    assert (again / "eval.npy").is_file()
    assert [row.accuracy.top1.value for row in rows_from(fake_run.path).rows] == [0.92, 0.91, 0.91]


def test_a_parent_outside_the_run_is_named_by_where_it_was(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 1000)
    fake_run.path = fake_run.path.with_name("second")
    fake_run.path.mkdir()
    fake_run.model("export", "model.onnx", 900, source=first)
    (file,) = rows_from(fake_run.path).files
    assert file.made_from == "/elsewhere/00-import/model.safetensors"


def test_words_with_blanks_are_quoted():
    command = command_from("import", {"file": "my weights.pt", "arch": "resnet56"})
    assert command == "edgeres import 'my weights.pt' --arch resnet56"


def test_nothing_is_asked_to_be_downloaded_and_unset_options_are_left_out():
    config = {"data": "cifar10", "download": True, "seed": 0, "trt_cache": None, "keep": [], "scope": ""}
    assert command_from("calibrate", config, "m.onnx") == "edgeres calibrate m.onnx --data cifar10 --seed 0"


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_command_line_understands_the_command_of_every_stage(stage):
    kind = STAGES[stage].config_class()
    needed = {name: value for name, value in NEEDED.items() if name in kind.model_fields}
    config = kind.model_validate(needed).model_dump(mode="json")
    command = command_from(stage, config, *(["m.onnx"] if STAGES[stage].source else []))
    words = command.split()[1:]
    group = LazyGroup("edgeres")
    with click.Context(group) as context:
        name, found, rest = group.resolve_command(context, words)
        if isinstance(found, click.Group):
            name, found, rest = found.resolve_command(context, rest)
        parsed = found.make_context(name, list(rest), parent=context).params
    assert all(str(parsed[name]) == value for name, value in needed.items())


@pytest.mark.parametrize("accuracy_only", [False, True])
def test_the_command_of_what_a_board_measured_is_what_was_typed_for_all_of_them(fake_run, accuracy_only):
    config = BoardConfig(data="digits").model_dump(mode="json")
    for name in ("a.onnx", "b.onnx"):
        path = fake_run.board(fake_run.model("export", name, 1000 + fake_run.count)[1]) / "report.json"
        report = json.loads(path.read_text()) | {"config": config} | ({"latency": []} if accuracy_only else {})
        path.write_text(json.dumps(report))
    commands = {one.name: one.command for one in rows_from(fake_run.path).stages}
    first, second = "/elsewhere/00-export/a.onnx", "/elsewhere/02-export/b.onnx"
    if accuracy_only:
        assert [commands[name] for name in ("01-board", "03-board")] == [
            f"edgeres eval {one} --batch 1 --data digits --timeout-s 3600 --on orin" for one in (first, second)
        ]
    else:
        assert commands["01-board"] == commands["03-board"]
        assert commands["01-board"].startswith(f"edgeres bench {first} {second} --batch 1 ")
    group = LazyGroup("edgeres")
    with click.Context(group) as context:
        name, found, rest = group.resolve_command(context, commands["03-board"].split()[1:])
        assert found.make_context(name, list(rest), parent=context).params["on"] == "orin"


def test_a_fixed_batch_leaves_no_range_in_the_command(onnx_of):
    fixed = Recorder("compile", CompileConfig(), onnx_of()).finish(None)
    assert "batch" not in command_from("compile", fixed.config)
    CompileConfig(**fixed.config).check_batch(onnx_of())


def test_a_recorded_command_has_no_option_that_changes_nothing():
    plain = Recorder("bench", BenchConfig(), None).finish(None)
    assert "--max-seconds" not in command_from("bench", plain.config)
    precise = Recorder("bench", BenchConfig(precision="1%"), None).finish(None)
    assert "--precision 1% --max-seconds 60.0" in command_from("bench", precise.config)
