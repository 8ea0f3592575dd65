"""Building, measuring and judging on a pretend board over real ssh."""

import numpy as np
import pytest

from edgeres.bench.board_images import bytes_needed, parts_of, tables_of
from edgeres.bench.board_session import session
from edgeres.bench.boards import checked_board
from edgeres.bench.on_board import Bench, BoardConfig, check_model, images_for, without_folder
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.spec import Preprocess
from edgeres.data import dataset_from, split_from_arrays

DESK = checked_board("desk", "orin")
SHORT = {"warmup_s": 0, "duration_s": 1, "idle_s": 0.5}


def bench_of(opened, model, **more):
    config = BoardConfig(**SHORT, **more)
    return Bench(opened, config, images_for([model], config))


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_through_the_tables_are_what_the_data_set_yields(spec_of, channels):
    preprocess = Preprocess(mean=(0.485, 0.456, 0.406)[:channels], std=(0.229, 0.224, 0.225)[:channels])
    spec = spec_of(channels=channels).model_copy(update={"preprocess": preprocess})
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, channels), dtype=np.uint8)
    split = split_from_arrays("val", pixels, np.zeros(50))
    (images, _), *_ = split.batches(spec, 50)
    tables = tables_of(preprocess, channels)
    sent = np.concatenate(list(parts_of(split, spec, part_bytes=channels * 64 * 7)))
    assert tables.shape == (channels, 256)
    assert np.array_equal(np.stack([tables[c][sent[:, c]] for c in range(channels)], 1), images)
    assert sent.nbytes == bytes_needed(split, spec)


def test_images_too_many_for_memory_are_packed_alike(spec_of, monkeypatch):
    split, spec = dataset_from("digits").val.subset(range(30)), spec_of()
    whole = np.concatenate(list(parts_of(split, spec)))
    monkeypatch.setattr(type(split), "inputs", lambda self, spec: None)
    pieces = list(parts_of(split, spec, part_bytes=64 * 4))
    assert [len(piece) for piece in pieces] == [4] * 7 + [2]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_what_no_board_takes_is_refused_before_any_is_asked(checkpoint_of, spec_of):
    with pytest.raises(InputError, match=r"is no ONNX file, which boards take: edgeres export"):
        check_model(checkpoint_of(spec_of()))
    with pytest.raises(InputError, match=r"--images is the number of images of a data set"):
        BoardConfig(images=3).check()


def test_a_command_is_told_without_the_folder_that_is_gone():
    class Folder:
        folder = "/tmp/edgeres-run-abc"

    assert without_folder(["/bin/trtexec", "--onnx=/tmp/edgeres-run-abc/m"], Folder) == ["/bin/trtexec", "--onnx=m"]
    assert without_folder(None, Folder) is None


@pytest.mark.parametrize(
    "jetpack", ["6.2", *(pytest.param(old, marks=pytest.mark.slow) for old in ("4.6", "5.1", "7.2"))]
)
def test_a_board_is_as_right_as_onnx_runtime(host, hosts, float_onnx, jetpack, tmp_path):
    host.start(jetpack=jetpack)
    if not host.fakes.has_compiler():
        pytest.skip("no C compiler for the libcudart stand-in")
    with session(DESK) as opened:
        done = bench_of(opened, float_onnx, data="digits", images=100).run(float_onnx, tmp_path / "out")
    report, figures = done.report, done.report.results["figures"]
    agreement, accuracy = figures["agreement"], report.accuracy[0]
    assert accuracy.n == 100
    assert accuracy.correct_top1 == agreement["reference_correct_top1"]
    assert agreement["same_top1"] == 100
    assert report.latency[0].machine.startswith("desk: ")
    assert f"JetPack {jetpack}" in report.latency[0].machine
    assert report.energy[0].mj_per_image > 0
    assert figures["is_valid"], figures["problems"]
    assert np.load(tmp_path / "out" / "predictions.npy").shape == (100, 2)
    assert done.layers is not None or jetpack == "4.6"
    assert host.left_behind() == []


def test_a_graph_with_an_open_batch_is_built_and_run_at_the_batch_asked_for(host, hosts, tmp_path):
    host.start()
    model = hosts.onnx_file(tmp_path / "dynamic", batch=None)
    with session(DESK) as opened:
        done = bench_of(opened, model, batch=4, data="digits", images=10).run(model)
    assert done.report.latency[0].batch == 4
    assert done.report.results["figures"]["agreement"]["same_top1"] == 10
    assert any("optShapes" in word for word in done.report.results["figures"]["build_command"])


FAULTS = {
    "crash": r"^desk: the build failed: trtexec 10\.3\.0 ended with signal 11",
    "full": r"^desk: .*disk full",
    "silent": None,
    "throttle": "clock moved",
    "drift": "latency drifted",
    "newmode": "the power mode changed",
}


@pytest.mark.parametrize(
    "mode",
    ["crash", "throttle", *(pytest.param(m, marks=pytest.mark.slow) for m in ("full", "silent", "drift", "newmode"))],
)
def test_what_goes_wrong_is_one_line_or_a_mark_and_the_second_try_succeeds(host, float_onnx, mode):
    host.start()
    host.mode(mode)
    config, said = BoardConfig(**SHORT), FAULTS[mode]
    if mode in {"crash", "full"}:
        with session(DESK) as opened, pytest.raises(DeviceError, match=said):
            Bench(opened, config).run(float_onnx)
    else:
        with session(DESK) as opened:
            report = Bench(opened, config).run(float_onnx).report
        marks = [line for line in report.warnings if line.startswith("invalid: ")]
        assert report.results["figures"]["is_valid"] == (said is None)
        assert bool(marks) == (said is not None)
        if said is not None:
            assert said in marks[0]
            assert "INVALID" in report.latency[0].note
        else:
            assert report.energy == ()
            assert any(note.startswith("no energy: ") for note in report.notes)
    assert host.left_behind() == []
    host.mode("")
    with session(DESK) as opened:
        assert Bench(opened, config).run(float_onnx).report.results["figures"]["is_valid"]


@pytest.mark.parametrize("missing", ["trtexec", pytest.param("tegrastats", marks=pytest.mark.slow)])
def test_a_board_without_a_tool_says_so(host, float_onnx, missing):
    host.start()
    (host.root / "jetson" / "bin" / missing).unlink()
    with session(DESK) as opened:
        bench = Bench(opened, BoardConfig(**SHORT))
        if missing == "trtexec":
            with pytest.raises(DeviceError, match=r"^desk: no trtexec on this board; install it: sudo apt install"):
                bench.run(float_onnx)
        else:
            report = bench.run(float_onnx).report
            assert report.energy == ()
            assert any("no tegrastats" in warning for warning in report.warnings)
    assert host.left_behind() == []


def test_two_runs_at_once_do_not_spoil_each_other(host, hosts, float_onnx):
    host.start()
    host.mode("slowly")
    with session(DESK) as first, session(DESK) as second:
        onnx = first.upload(float_onnx.path, "model.onnx")
        plan = f"{first.folder}/model.plan"
        first.agent("build", "--onnx", onnx, "--engine", plan)
        words = ["python3", f"{first.folder}/agent.pyz", "--leash", "measure", "--engine", plan, "--idle-s", "0"]
        running = first.link.started([*words, "--folder", first.folder])
        hosts.wait_until(lambda: (host.root / "jetson" / "state" / "load").exists())
        with pytest.raises(DeviceError, match=r"^desk: another edgeres run .*is using this board"):
            Bench(second, BoardConfig(**SHORT)).run(float_onnx)
        running.close()
    hosts.wait_until(lambda: host.programs() == [] and host.left_behind() == [])


def test_logits_that_are_not_finite_are_refused(host, float_onnx, tmp_path):
    import onnx

    proto = onnx.load(str(float_onnx.path))
    bias = next(one for one in proto.graph.initializer if len(one.dims) == 1)
    bias.raw_data = np.full(bias.dims[0], np.nan, np.float32).tobytes()
    onnx.save(proto, str(tmp_path / "nan.onnx"))
    host.start()
    model = OnnxModel(tmp_path / "nan.onnx")
    with session(DESK) as opened, pytest.raises(DeviceError, match=r"^desk: the engine gives logits that are not fin"):
        bench_of(opened, model, data="digits", images=10).run(model)
    assert host.left_behind() == []
