"""Building, measuring and judging on a pretend board over real ssh."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeres.bench.board_accuracy import Images, bytes_needed, logits_of, parts_of, tables_of
from edgeres.bench.board_measuring import Bench, check_model, images_for, without_folder
from edgeres.bench.board_session import session
from edgeres.bench.boards import checked_board
from edgeres.bench.config import BoardConfig
from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.errors import DeviceError, InputError
from edgeres.core.spec import Preprocess
from edgeres.core.statistics import ratio_interval
from edgeres.data import dataset_from, split_from_arrays

DESK = checked_board("desk", "orin")
SHORT = {"warmup_s": 0, "duration_s": 1, "idle_s": 0.5}


def bench_of(opened, model, **more):
    config = BoardConfig(**SHORT, **more)
    return Bench(opened, config, images_for([model], config), weighs=True)


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


def quantized(float_onnx, path, zero_point, *, constant=False, opset=17):
    """The network with its input through a Q/DQ pair; without a zero point if it is None."""
    proto = onnx.load(str(float_onnx.path))
    proto.opset_import[0].version = opset
    name = proto.graph.input[0].name
    for node in proto.graph.node:
        node.input[:] = ["real" if one == name else one for one in node.input]
    parameters = ["scale"] if zero_point is None else ["scale", "zero"]
    tensors = [numpy_helper.from_array(np.float32(0.1), "scale")]
    nodes = [
        helper.make_node("QuantizeLinear", [name, *parameters], ["whole"]),
        helper.make_node("DequantizeLinear", ["whole", *parameters], ["real"]),
    ]
    if zero_point is not None:
        zero = numpy_helper.from_array(zero_point, "zero")
        nodes[:0] = [helper.make_node("Constant", [], ["zero"], value=zero)] if constant else []
        tensors += [] if constant else [zero]
    proto.graph.initializer.extend(tensors)
    for index, node in enumerate(nodes):
        proto.graph.node.insert(index, node)
    onnx.save(proto, str(path))
    return OnnxModel(path)


@pytest.mark.parametrize(
    ("zero_point", "constant"), [(np.uint8(0), False), (np.uint8(128), True), (None, False)], ids=str
)
def test_uint8_pairs_are_refused_with_what_to_do(float_onnx, tmp_path, zero_point, constant):
    model = quantized(float_onnx, tmp_path / "u.onnx", zero_point, constant=constant)
    said = r"u\.onnx has uint8 Q/DQ pairs, .*edgeres lint --fix .*u\.onnx, or .*FLOAT\.onnx --profile tensorrt$"
    with pytest.raises(InputError, match=said):
        check_model(model)


@pytest.mark.parametrize("constant", [False, True])
def test_int8_pairs_are_taken(float_onnx, tmp_path, constant):
    check_model(quantized(float_onnx, tmp_path / "s.onnx", np.int8(0), constant=constant))


def test_a_time_limit_that_would_end_a_run_is_refused():
    with pytest.raises(InputError, match=r"--timeout-s 12 would end a run, which takes 12 s; give it more"):
        BoardConfig(warmup_s=2, duration_s=10, timeout_s=12).check_time()


def test_a_command_is_told_without_the_folder_that_is_gone():
    class Folder:
        folder = "/tmp/edgeres-run-abc"

    assert without_folder(["/bin/trtexec", "--onnx=/tmp/edgeres-run-abc/m"], Folder) == ["/bin/trtexec", "--onnx=m"]


@pytest.mark.parametrize(
    "jetpack", ["6.2", *(pytest.param(one, marks=pytest.mark.exhaustive) for one in ("4.6", "5.1", "7.2"))]
)
def test_a_board_is_as_right_as_onnx_runtime_at_the_batch_asked_for(host, hosts, jetpack, tmp_path):
    model = hosts.onnx_file(tmp_path / "onnx", batch=None, opset=13 if jetpack == "4.6" else 17)
    host.start(jetpack=jetpack)
    with session(DESK) as opened:
        bench = bench_of(opened, model, batch=4, data="digits", images=98)
        (one,) = bench.measured([model])
        report = bench.finished(one, tmp_path / "out")
    figures = report.results["figures"]
    agreement, accuracy = figures["agreement"], report.accuracy[0]
    assert (accuracy.n, report.latency[0].batch) == (98, 4)
    assert any("optShapes" in word for word in figures["build_command"])
    assert accuracy.correct_top1 == agreement["reference_correct_top1"]
    assert agreement["same_top1"] == 98
    assert agreement["equal_bits"] is (agreement["sqnr_db"] is None)
    assert accuracy.runtime == report.latency[0].runtime
    assert figures["p99_ms"] is None
    assert any(note.startswith("p99 needs 368 calls, there were 200") for note in report.notes)
    assert report.latency[0].machine.startswith("desk: ")
    assert f"JetPack {jetpack}" in report.latency[0].machine
    assert report.energy[0].mj_per_image > 0
    assert figures["is_valid"], figures["problems"]
    assert np.load(tmp_path / "out" / "predictions.npy").shape == (98, 2)
    assert one.answer.layers is not None or jetpack == "4.6"
    assert host.left_behind() == []


def test_two_runs_at_once_do_not_spoil_each_other(host, hosts, float_onnx):
    host.start()
    host.mode("hang")
    with session(DESK) as first, session(DESK) as second:
        onnx = first.upload(float_onnx.path, "model.onnx")
        words = ["python3", f"{first.folder}/agent.pyz", "--leash", "build", "--onnx", onnx]
        running = first.link.started([*words, "--engine", f"{first.folder}/model.plan"])
        hosts.wait_until(lambda: any("--saveEngine" in program for program in host.programs()))
        with pytest.raises(DeviceError, match=r"^desk: another edgeres run .*is using this board"):
            Bench(second, BoardConfig(**SHORT))
        assert not (Path(second.folder) / "model.onnx").exists()
        running.close()
    hosts.wait_until(lambda: host.programs() == [] and host.left_behind() == [])


def test_a_report_says_what_the_board_lacks_and_what_a_killed_run_had_left_there(host, float_onnx, tmp_path):
    host.start(jetpack="4.6")
    int8 = quantized(float_onnx, tmp_path / "int8.onnx", np.int8(0), opset=13)
    left = host.root / f"jetson/var/tmp/edgeres-kept-{os.getuid()}"
    with session(DESK) as opened:
        with pytest.raises(DeviceError, match=r"has opset 17, TensorRT 8\.2\.1 there reads up to 13; export it so"):
            bench_of(opened, float_onnx).run(float_onnx)
        assert not (Path(opened.folder) / "model.onnx").exists()
        left.mkdir(mode=0o700)
        (left / "mode.json").write_text('{"before": 1, "during": 0}')
        report = Bench(opened, BoardConfig(**SHORT), accuracy_only=True).run(int8)
    assert any("Jetson Nano (sm53) has no INT8" in warning for warning in report.warnings)
    assert report.notes == ("a run that was killed had left power mode MAXN: put back",)
    assert report.results["board"]["power_mode"]["name"] == "5W"
    assert not left.exists()


def test_a_power_mode_the_board_does_not_have_is_refused_before_anything_is_sent(host, float_onnx):
    host.start()
    with session(DESK) as opened:
        with pytest.raises(InputError, match=r"^--power-mode 99W: desk has no such mode; it has: 15W \(0\), 25W"):
            bench_of(opened, float_onnx, power_mode="99W")
        assert not (Path(opened.folder) / "model.onnx").exists()


def test_images_beyond_val_are_told(spec_of):
    spec, whole = spec_of(), len(dataset_from("digits").val)
    assert Images("digits", whole + 1).remarks(spec) == (
        [f"--images {whole + 1}: val has {whole} images, all of them were taken"],
        [],
    )
    assert Images("digits", 5).remarks(spec) == ([], [f"evaluated on 5 of the {whole} val images only"])
    assert Images("digits", whole).remarks(spec) == Images("digits").remarks(spec) == ([], [])


def test_logits_that_are_not_finite_are_refused():
    class Judging:
        board, folder = DESK, "/tmp/edgeres-run-abc"

        def agent(self, kind, *words, takes_s):
            return kind(restored=(), tensorrt="10.3.0", n=2, classes=3, logits_sha256="0" * 64)

        def read(self, name, sha256, size):
            return np.full(6, np.nan, "<f4").tobytes()

    val = dataset_from("digits").val.subset(range(2))
    with pytest.raises(DeviceError, match=r"^desk: the engine gives logits that are not finite"):
        logits_of(Judging(), "e.plan", 1, val, "images", timeout_s=5)


@pytest.fixture
def int8_onnx(float_onnx, tmp_path):
    return quantized(float_onnx, tmp_path / "int8.onnx", np.int8(0))


def timed_on(host):
    """(place of the engine, seconds asked for) of each run of trtexec, in order."""
    lines = (host.root / "jetson/state/timed").read_text().splitlines()
    return [(int(name.partition("-")[0]), int(seconds)) for name, seconds in (line.split() for line in lines)]


ROUNDS = {**SHORT, "duration_s": 5}


@pytest.mark.slow
@pytest.mark.parametrize("weighs", [True, pytest.param(False, marks=pytest.mark.exhaustive)])
def test_engines_of_one_call_take_turns_although_one_cannot_be_built_and_share_one_session(
    host, float_onnx, int8_onnx, tmp_path, caplog, weighs
):
    host.start(FAKE_INT8_MS="1.25")
    caplog.set_level("INFO", "edgeres")
    plan = tmp_path / "x.plan"
    plan.write_bytes(b"vtrt" + bytes(100))
    with session(DESK) as opened:
        bench = Bench(opened, BoardConfig(**ROUNDS), weighs=weighs)
        measured = bench.measured([float_onnx, Engine(plan), int8_onnx])
        done = [bench.finished(one) for one in measured]
    (a,), (b,) = (one.latency for one in done)
    assert [one.model.path for one in measured] == [float_onnx.path, int8_onnx.path]
    assert timed_on(host) == [(0, 5), (2, 5)] * weighs + [(0, 1), (2, 1)] * 5
    assert (a.session, a.machine) == (b.session, b.machine)
    assert a.rounds == b.rounds == (200,) * 5
    assert ratio_interval(a, b).value == pytest.approx(1.25 / 2)
    assert "in 5 rounds, each after 0 s of warm-up" in a.note
    assert [len(one.energy) for one in done] == [weighs] * 2
    assert all(one.answer.layers for one in measured)
    (failure,) = bench.failures
    assert "is an engine of TensorRT-RTX" in str(failure)
    assert "the others go on" in caplog.text
    built = [f"{one.path.parent.name}/{one.path.name}" for one in (float_onnx, int8_onnx)]  # whose names are alike
    assert [one.rpartition(" ")[2] for one in caplog.messages if "building the engine" in one] == built
    assert host.left_behind() == []


@pytest.mark.slow
@pytest.mark.parametrize("config", [{**SHORT, "duration_s": 4}, ROUNDS])
def test_one_model_or_a_short_duration_is_one_run_each_and_several_say_so(host, float_onnx, config, caplog):
    caplog.set_level("INFO", "edgeres")
    host.start()
    models = [float_onnx] * (2 if config["duration_s"] == 4 else 1)
    with session(DESK) as opened:
        bench = Bench(opened, BoardConfig(**config))
        reports = [bench.finished(one) for one in bench.measured(models)]
    done, seconds = [one.latency[0] for one in reports], config["duration_s"]
    said = [note for one in reports for note in one.notes if note.startswith("no rounds: --duration-s 4 is too short")]
    assert len(said) == (2 if seconds == 4 else 0)
    assert all(one.endswith("with --duration-s 5 or more they take turns") for one in said)
    assert caplog.text.count("no rounds") == bool(said)
    assert timed_on(host) == [(place, seconds) for place in range(len(models))]
    assert len({one.session for one in done}) == len(models)
    assert {one.rounds for one in done} == {()}


def test_where_no_others_are_left_none_go_on(caplog):
    def fails(_: int) -> None:
        raise InputError("no room")

    link = SimpleNamespace(is_up=True)
    bench = Bench(SimpleNamespace(link=link, claim=lambda: ()), BoardConfig(**ROUNDS))
    bench._is_alone = False
    assert bench.each(fails, [0, 1]) == []
    assert [record.getMessage() for record in caplog.records] == ["no room; the others go on", "no room"]


@pytest.mark.slow
@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_lost_connection_ends_all(host, float_onnx, int8_onnx, monkeypatch, is_noticed):
    host.start(cuts=[])
    with session(DESK) as opened:
        if not is_noticed:  # the transport learns of it a moment later than who reads from it
            monkeypatch.setattr(type(opened.link), "is_up", True)
        bench = Bench(opened, BoardConfig(**ROUNDS))
        loaded = bench._loaded
        bench._loaded = lambda numbered: host.wire.cut() or loaded(numbered)
        with pytest.raises(DeviceError, match="connection"):
            bench.measured([float_onnx, int8_onnx])
    assert bench.failures == []
