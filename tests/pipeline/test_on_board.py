"""What a run keeps of a board, and what is chosen for it; no board is asked."""

import json

import pytest

from edgeres.bench.on_board import BoardConfig
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.runs import Run
from edgeres.pipeline import on_board
from edgeres.pipeline.board_compile import compile_on_board
from edgeres.pipeline.board_modules import module_costs_on_board
from edgeres.pipeline.on_board import BoardCall, bench_on_board, board_config, claimed, last_of_each


class Named:
    def __init__(self, name, precision):
        self.name, self.precision = name, precision


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')


def test_the_last_float_and_the_last_int8_file_are_measured():
    models = [Named("a", "fp32"), Named("b", "int8"), Named("c", "fp32"), Named("d", "int8+fp16")]
    assert [model.name for model in last_of_each(models)] == ["c", "d"]
    assert [model.name for model in last_of_each(models[1:2])] == ["b"]


def test_a_measurement_that_fails_leaves_no_folder_in_the_run(runs_folder):
    run = Run(runs_folder / "r")
    with pytest.raises(DeviceError, match="lost"), claimed(run, "board", "key") as folder:
        _fail_in(folder)
    assert run.folders() == []
    with claimed(run, "board", "key") as folder:
        (folder / "report.json").write_text("{}")
    assert [one.is_finished for one in run.folders()] == [True]
    assert not (folder / "started.json").exists()


def test_the_runs_data_set_is_taken_where_none_is_named(runs_folder):
    folder = runs_folder / "r" / "00-train"
    folder.mkdir(parents=True)
    report = {"stage": "train", "config": {"data": "digits"}, "created": "", "duration_s": 1}
    here = {"machine": "m", "cpu": "c", "cores": 1, "memory_gib": 1, "gpus": [], "system": "s", "python": "3"}
    text = json.dumps({**report, "environment": {**here, "edgeres": "0", "packages": {}}})
    (folder / "report.json").write_text(text)
    run = Run(runs_folder / "r")
    assert board_config({}, run).data == "digits"
    assert board_config({"data": "cifar10"}, run).data == "cifar10"
    assert board_config({}, None).data is None
    with pytest.raises(InputError, match=r"--duration-s: .*greater than or equal to 1"):
        board_config({"duration_s": 0}, None)


def test_another_board_or_other_options_are_another_measurement(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"m")
    model, desk = OnnxModel(tmp_path / "m.onnx"), on_board.board_named("desk")
    keys = [
        on_board._key(model, BoardConfig(), desk),
        on_board._key(model, BoardConfig(batch=2), desk),
        on_board._key(model, BoardConfig(), desk.model_copy(update={"host": "elsewhere"})),
    ]
    assert len(set(keys)) == 3
    assert keys[0] == on_board._key(model, BoardConfig(), desk)


def test_a_run_without_an_onnx_file_says_how_to_make_one(runs_folder):
    (runs_folder / "r" / "00-train").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no ONNX file that a board takes; make one: edgeres export"):
        list(bench_on_board([], BoardCall(on="desk", run="r")))


def test_a_model_outside_any_run_needs_a_place_for_what_is_made(tmp_path, checkpoint_of, spec_of, monkeypatch):
    monkeypatch.setattr("edgeres.pipeline.board_modules.session", lambda board: pytest.fail("the board was asked"))
    checkpoint = checkpoint_of(spec_of())
    with pytest.raises(InputError, match=r"needs a \.onnx file"):
        compile_on_board(checkpoint.path, "desk", {})
    with pytest.raises(InputError, match=r"is in no run: say where the table goes, --out FILE"):
        module_costs_on_board(checkpoint.path, BoardCall(on="desk"))
    with pytest.raises(InputError, match=r"--data does not go with --per-module --on"):
        module_costs_on_board(checkpoint.path, BoardCall(on="desk", values={"data": "digits"}))


def _fail_in(folder):
    assert folder.name == "00-board"
    assert (folder / "started.json").is_file()
    raise DeviceError("lost")
