"""What a run keeps of a board, and what is chosen for it; no board is asked."""

import json
import os
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import pytest

from edgeres.bench.config import BoardConfig
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.metrics import Accuracy
from edgeres.core.runs import Run
from edgeres.core.stage import FileRef, Recorder, write_report
from edgeres.pipeline import board_calls
from edgeres.pipeline.board_calls import (
    bench_on_board,
    board_config,
    claimed,
    evaluate_on_board,
    key_on,
    whole_and_last,
)
from edgeres.pipeline.calls import Call, call

NOTHING_CUT = SimpleNamespace(dropped=())


class Named:
    def __init__(self, name, precision, dropped=()):
        self.name, self.precision, self.spec = name, precision, SimpleNamespace(dropped=dropped)


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')


def test_the_last_file_of_each_precision_is_measured():
    precisions = {"a": "fp32", "b": "int8", "h": "fp16", "c": "fp32", "d": "int8+fp16"}
    models = [Named(*one) for one in precisions.items()]
    assert [model.name for model in whole_and_last(models)] == ["c", "h", "d"]
    assert [model.name for model in whole_and_last(models[1:2])] == ["b"]


def test_what_was_cut_is_measured_beside_the_whole_network():
    cut = ("layer1.1",)
    models = [
        Named("whole", "fp32"),
        Named("early", "fp32", cut),
        Named("half", "fp16", cut),
        Named("end", "fp32", cut),
    ]
    assert [model.name for model in whole_and_last(models)] == ["whole", "end", "half"]


@pytest.mark.parametrize("error", [DeviceError("lost"), KeyboardInterrupt()])
def test_a_measurement_that_fails_leaves_no_folder_in_the_run(runs_folder, error):
    run = Run(runs_folder / "r")
    with pytest.raises(type(error)), claimed(run, "board", "key") as folder:
        _fail_in(folder, error)
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
    assert board_config({}, run, "bench").data == "digits"
    assert board_config({"data": "cifar10"}, run, "bench").data == "cifar10"
    assert board_config({}, None, "bench").data is None
    with pytest.raises(InputError, match=r"^bench: --duration-s: .*greater than or equal to 1"):
        board_config({"duration_s": 0}, None, "bench")


def test_another_board_or_other_options_are_another_measurement(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"m")
    model, desk = OnnxModel(tmp_path / "m.onnx"), board_calls.board_named("desk")
    keys = [
        key_on(desk, "board", model, BoardConfig()),
        key_on(desk, "board", model, BoardConfig(batch=2)),
        key_on(desk.model_copy(update={"host": "elsewhere"}), "board", model, BoardConfig()),
        key_on(desk, "eval", model, BoardConfig()),
    ]
    assert len(set(keys)) == 4
    assert keys[0] == key_on(desk, "board", model, BoardConfig())


def test_a_run_without_an_onnx_file_says_how_to_make_one(runs_folder):
    (runs_folder / "r" / "00-train").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no ONNX file that a board takes; make one: edgeres export"):
        list(bench_on_board([], Call("bench", on="desk", run="r")))


def test_a_model_outside_any_run_needs_a_place_for_what_is_made(tmp_path, checkpoint_of, spec_of, monkeypatch):
    monkeypatch.setattr("edgeres.pipeline.board_stages.session", lambda board: pytest.fail("the board was asked"))
    checkpoint = checkpoint_of(spec_of())
    with pytest.raises(InputError, match=r"needs a \.onnx file"):
        call(Call("compile", checkpoint.path, on="desk"))
    with pytest.raises(InputError, match=r"is in no run: say where the result goes, --out FILE"):
        call(Call("latency", checkpoint.path, on="desk"))
    for option in ("data", "idle_s"):
        with pytest.raises(InputError, match=rf"--{option[:4]}\S* does not go with --per-module --on"):
            call(Call("latency", checkpoint.path, values={option: "1"}, on="desk"))


class FakeBench:
    """A fake of edgeres.bench.board_measuring.Bench: what it reports is made up, no board is asked."""

    def __init__(self, opened, config, images=None, accuracy_only=False, *, weighs=False):
        assert weighs  # the table shows it
        self.session, self.config, self.accuracy_only, self.failures = opened, config, accuracy_only, []

    def measured(self, models):
        return [SimpleNamespace(model=model, answer=None) for model in models]

    def each(self, act, subjects):
        return [act(one) for one in subjects]

    def finished(self, one, out=None):
        recorder = Recorder("eval" if self.accuracy_only else "board", self.config, one.model)
        recorder.results |= {"board": {"name": "desk"}, "figures": {"agreement": {"n": 3}}}
        recorder.notes += self.session.said()
        n = self.config.images or 449
        recorder.warnings += [f"evaluated on {n} of the 449 val images only", "hot"] if n < 449 else []
        if out is not None:
            (out / "predictions.npy").write_bytes(b"made up")
        name = "predictions.npy" if out else None
        made_up = {
            "correct_top1": 1,
            "correct_top5": 2,
            "dataset": "d",
            "split": "val",
            "runtime": "r",
            "artifact": "a",
        }
        recorder.accuracy.append(Accuracy(n=n, predictions=name, **made_up))
        return recorder.finish(None)


@pytest.fixture
def exported(runs_folder, monkeypatch, caplog, found_of):
    """A file in a run; what was said before the board was asked is in the notes of its reports."""
    caplog.set_level("INFO", logger="edgeres")
    opened = SimpleNamespace(board=board_calls.board_named("desk"), found=found_of(), said=lambda: caplog.messages)
    monkeypatch.setattr(board_calls, "Bench", FakeBench)
    monkeypatch.setattr(board_calls, "session", lambda board: nullcontext(opened))
    monkeypatch.setattr(board_calls, "images_for", lambda models, config, whole: None)
    folder = runs_folder / "r" / "01-export"
    folder.mkdir(parents=True)
    for name in ("model.onnx", "report.json"):
        (folder / name).write_bytes(b"{}")
    return folder / "model.onnx"


def kept_in(model):
    return [json.loads(path.read_text()) for path in sorted(model.parents[1].glob("*-board/report.json"))]


def test_a_run_keeps_what_the_board_judged_on_the_whole_of_val(exported, caplog):
    report = evaluate_on_board(Call("eval", exported, on="desk", values={"data": "digits"}))
    (kept,) = kept_in(exported)
    assert (report.stage, kept["stage"]) == ("eval", "board")
    assert kept["accuracy"][0]["n"] == 449
    assert kept["results"]["figures"]["is_valid"] is None
    assert (exported.parents[1] / "02-board" / kept["accuracy"][0]["predictions"]).is_file()
    assert not any("takes" in message for message in caplog.messages)


@pytest.mark.parametrize("stage", ["eval", "bench", "compile", "latency", "optimize"])
def test_a_file_that_was_replaced_is_not_taken_to_a_board_without_a_word(exported, stage, caplog):
    request = Call(stage, exported, on="desk", values={"data": "digits"} if stage in {"eval", "optimize"} else {})

    def said(sha256):
        output = FileRef(path=f"01-export/{exported.name}", sha256=sha256, size_bytes=2)
        report = Recorder("export", BoardConfig(), None).finish(None).model_copy(update={"output": output})
        write_report(report, exported.with_name("report.json"))
        caplog.clear()
        with suppress(InputError):  # it is no graph, which is looked at later
            if stage in {"eval", "bench"}:
                _ = evaluate_on_board(request) if stage == "eval" else list(bench_on_board([exported], request))
            else:
                call(request)
        return [one.partition(";")[0] for one in caplog.messages if "speaks of" in one]

    assert said(OnnxModel(exported).sha256) == []
    assert said("0") == [f"warning: {exported}: not the file its report speaks of (another sha256)"]


@pytest.mark.parametrize("measure", [lambda call: [evaluate_on_board(call)], lambda call: bench_on_board([], call)])
def test_what_a_board_measured_after_the_page_says_that_the_page_is_older(exported, measure, caplog, monkeypatch):
    monkeypatch.setattr(board_calls, "_of_run", lambda run: [OnnxModel(exported)])
    page = exported.parents[1] / "report.html"
    page.write_text("")
    list(measure(Call("x", on="desk", run="r", values={"data": "digits"})))
    assert caplog.messages[-1] == f"{page} is older and does not show it; to make it anew: edgeres report r"


@pytest.mark.parametrize("measure", [lambda call: [evaluate_on_board(call)], lambda call: bench_on_board([], call)])
def test_what_fails_and_keeps_nothing_does_not_say_that_an_old_page_is_older(exported, measure, caplog, monkeypatch):
    def refused(board):
        raise DeviceError("does not answer")

    monkeypatch.setattr(board_calls, "_of_run", lambda run: [OnnxModel(exported)])
    monkeypatch.setattr(board_calls, "session", refused)
    page = exported.parents[1] / "report.html"
    page.write_text("")
    os.utime(page, (1, 1))
    with pytest.raises(DeviceError):
        list(measure(Call("x", on="desk", run="r", values={"data": "digits"})))
    assert not any("is older" in message for message in caplog.messages)


def test_what_was_judged_on_a_part_of_val_is_shown_and_not_kept_which_is_said_before(exported):
    report = evaluate_on_board(Call("eval", exported, on="desk", values={"data": "digits", "images": 100}))
    assert report.accuracy[0].n == 100
    assert kept_in(exported) == []
    assert len([note for note in report.notes if "not kept in the run" in note]) == 2  # before, and after


def test_a_benchmark_with_a_part_of_val_keeps_the_latency_without_the_accuracy(exported):
    call = Call("bench", on="desk", values={"data": "digits", "images": 100})
    (report,) = bench_on_board([exported], call)
    (kept,) = kept_in(exported)
    assert (kept["accuracy"], kept["results"]["figures"]["agreement"], kept["warnings"]) == ([], None, ["hot"])
    assert report.accuracy[0].n == 100
    assert len([note for note in report.notes if "not kept in the run" in note]) == 2  # before, and after
    assert not (exported.parents[1] / "02-board" / "predictions.npy").exists()


def latency_in(session):
    return SimpleNamespace(latency=(SimpleNamespace(session=session),))


@pytest.fixture
def two_files(exported, monkeypatch):
    """A run whose board is asked for two files; what it has is in `known`, by precision."""
    models = [
        SimpleNamespace(precision=kind, path=exported, sha256=kind, spec=NOTHING_CUT) for kind in ("fp32", "int8")
    ]
    known = {}
    monkeypatch.setattr(board_calls, "_of_run", lambda run: models)
    monkeypatch.setattr(board_calls, "key_on", lambda board, stage, model, config: model.precision)
    monkeypatch.setattr(board_calls, "_known", lambda run, key: known.get(key))
    monkeypatch.setattr(board_calls, "_measured", lambda board, models, *_, **__: [one.sha256 for one in models])
    return Run(exported.parents[1]), known


def test_what_one_session_of_a_board_has_measured_is_reused_in_so_many_words(two_files, caplog):
    run, known = two_files
    known |= {"fp32": latency_in("one"), "int8": latency_in("one")}
    assert list(board_calls.board_of_run(run, Call("bench", on="desk"))) == list(known.values())
    assert caplog.messages[-1].endswith("measured already on desk, reused")


@pytest.mark.parametrize("known", [{"fp32": "one"}, {"fp32": "one", "int8": "another"}])
def test_what_two_sessions_measured_is_measured_again_so_that_a_ratio_may_be_told(two_files, known):
    run, there = two_files
    there |= {kind: latency_in(session) for kind, session in known.items()}
    assert list(board_calls.board_of_run(run, Call("bench", on="desk"))) == ["fp32", "int8"]


def test_a_duration_too_short_for_rounds_is_not_measured_again_and_again(two_files):
    run, there = two_files
    there |= {"fp32": latency_in("one"), "int8": latency_in("another")}
    found = list(board_calls.board_of_run(run, Call("bench", on="desk", values={"duration_s": 4})))
    assert found == list(there.values())


def test_what_kept_one_of_several_files_from_being_measured_is_said_when_the_others_are_done(exported, monkeypatch):
    def failing(self, models):
        self.failures.append(DeviceError("no memory"))
        return [SimpleNamespace(model=model, answer=None) for model in models[1:]]

    monkeypatch.setattr(FakeBench, "measured", failing)
    found = bench_on_board([exported, exported], Call("bench", on="desk"))
    assert next(found).stage == "board"
    with pytest.raises(DeviceError, match=r"^no memory$"):
        next(found)


class FakeImages:
    """A fake of edgeres.bench.board_accuracy.Images."""

    def dataset(self, spec):
        return SimpleNamespace(val=range(5000))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, ["desk: 5000 val images go there, for the accuracy (fewer: --images N)"]),
        ({"images": 9}, ["desk: 5000 val images go there, for the accuracy"]),
        ({"data": "digits"}, []),
    ],
)
def test_images_that_travel_unasked_are_counted_before(values, said, caplog):
    caplog.set_level("INFO", logger="edgeres")
    call = Call("bench", on="desk", values=values)
    board_calls._say_what_travels(FakeImages(), [SimpleNamespace(spec=None)], call)
    assert caplog.messages == said


def _fail_in(folder, error):
    assert folder.name == "00-board"
    assert (folder / "started.json").is_file()
    (folder / "predictions.npy").write_bytes(b"judged, and not said of what")
    raise error
