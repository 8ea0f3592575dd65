import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.bench.figures import lines_from
from edgeres.bench.stage import BenchConfig, bench_report
from edgeres.bench.tasks import label_of, reason_to_skip
from edgeres.bench.worker import images_for
from edgeres.core.artifacts import CARD_KEY, PROFILE_KEY, Engine, Manifest, OnnxModel
from edgeres.core.environment import available_cores
from edgeres.core.errors import InputError
from edgeres.core.metrics import Energy
from edgeres.core.spec import Card, Cost, ModelSpec, Preprocess
from edgeres.core.statistics import ratio_interval

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

SHAPE = (3, 8, 8)
QUICK = BenchConfig(rounds=5, seconds=0.05, samples=10, threads=1)
CARD = Card(
    spec=ModelSpec(
        family="resnet",
        variant="resnet20",
        num_classes=2,
        input_shape=SHAPE,
        preprocess=Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3),
    ),
    cost=Cost(params=1, macs=1),
    stage="export",
)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    """Saves the second in which the load of other programs is measured."""
    monkeypatch.setattr("edgeres.bench.stage.busy_cores", lambda: 0.0)


def test_what_was_weighed_stands_in_the_report(timed_within, tmp_path, monkeypatch):
    energy = Energy(
        mj_per_image=2.0,
        half_width_mj=0.1,
        load_w=9.0,
        idle_w=5.0,
        load_samples=20,
        idle_samples=20,
        batch=1,
        source="fake",
        is_input=True,
        is_partial=False,
        artifact="0",
        machine="m",
    )
    monkeypatch.setattr(
        "edgeres.bench.stage.energies_of", lambda *given: ([energy], ["b: no energy: dark"], ["c: busy"])
    )
    report = bench_report([onnx_model(tmp_path / "a.onnx")], QUICK)
    assert report.energy == (energy,)
    assert "b: no energy: dark" in report.notes
    assert "c: busy" in report.warnings
    assert report.results["verdict"] != "steady"


def bench(models, config):
    """Latencies and notes of a session."""
    report = bench_report(models, config)
    return list(report.latency), list(report.notes)


def onnx_model(path, *, batch=1, repeat=1, quantized=False):
    """A graph that adds the pooled channels `repeat` times; with a Q/DQ pair if `quantized`."""
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes, last = [], "images"
    if quantized:
        nodes.append(helper.make_node("QuantizeLinear", [last, "scale", "zero"], ["q"]))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]))
        last = "dq"
    for index in range(repeat):
        nodes.append(helper.make_node("Relu", [last], [f"r{index}"]))
        last = f"r{index}"
    nodes.append(helper.make_node("ReduceMean", [last], ["logits"], axes=[2, 3], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", number, [batch, *SHAPE])],
        [helper.make_tensor_value_info("logits", number, [batch, 3])],
        [
            helper.make_tensor("scale", number, [], [0.1]),
            helper.make_tensor("zero", onnx.TensorProto.INT8, [], [0]),
        ]
        if quantized
        else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key=CARD_KEY, value=CARD.model_dump_json())
    onnx.save(model, path)
    return OnnxModel(path)


def engine(path):
    path.write_bytes(b"vtrt" + bytes(20) + bytes([1, 3, 0, 0]))
    plan = Engine(path)
    manifest = Manifest(
        card=CARD,
        runtime="tensorrt-rtx",
        runtime_version="1.3",
        targets=("sm_86", "sm_89"),
        precision="int8",
        onnx_sha256="0",
        plan_sha256=plan.sha256,
        batch=(1, 1, 1),
        inputs={},
        outputs={},
        build_s=1.0,
    )
    plan.manifest_path.write_text(manifest.model_dump_json())
    return plan


def test_latencies_of_a_session_may_be_compared_and_come_in_the_order_given(tmp_path):
    models = [onnx_model(tmp_path / "a.onnx"), onnx_model(tmp_path / "b.onnx", repeat=3)]
    (first, second), _ = bench(models, QUICK)
    assert (first.artifact, second.artifact) == (models[0].sha256, models[1].sha256)
    assert first.session == second.session
    assert ratio_interval(first, second).value > 0
    assert sum(first.rounds) == len(first.samples_ms) >= 10
    assert len(first.rounds) == 5
    assert first.warmup > 0
    assert first.runtime.startswith("onnxruntime")


def test_an_engine_is_left_out_with_the_reason_which_is_told_before(timed_within, tmp_path, caplog):
    built = engine(tmp_path / "model.plan")
    with caplog.at_level("INFO", "edgeres"):
        report = bench_report([built, onnx_model(tmp_path / "a.onnx")], QUICK)
    told = caplog.messages
    assert told[0].endswith(report.results["skipped"][built.sha256])
    assert told[1] == "bench: 1 of 2 models"
    assert len(report.latency) == 1
    assert report.results["skipped"][built.sha256].startswith("built, not run: ")
    assert any("model.plan: built, not run" in note for note in report.notes)


def test_nothing_that_can_run_is_a_report_and_not_an_error(tmp_path):
    latencies, notes = bench([engine(tmp_path / "model.plan")], QUICK)
    assert latencies == []
    assert len(notes) == 1


def test_a_quantized_graph_is_timed_only_on_request_and_says_so(timed_within, tmp_path):
    model = onnx_model(tmp_path / "q.onnx", quantized=True)
    latencies, notes = bench([model], QUICK)
    assert latencies == []
    assert "--include-qdq" in notes[0]
    report = bench_report([model], QUICK.model_copy(update={"include_qdq": True}))
    (latency,) = report.latency
    assert "says nothing of INT8 speed" in latency.note
    assert f"  {latency.note}" in lines_from(report)
    assert "fused" in latency.runtime


@pytest.mark.parametrize(("profile", "what"), [("tensorrt", "a Q/DQ graph"), (None, "INT8 of another tool")])
def test_who_placed_the_pairs_is_said_where_they_are_not_timed(tmp_path, profile, what):
    model = onnx_model(tmp_path / "q.onnx", quantized=True)
    if profile:
        model.proto.metadata_props.add(key=PROFILE_KEY, value=profile)
    assert re.match(f"not timed: {what}.* placed for TensorRT.*--include-qdq", reason_to_skip(model, QUICK))


def test_a_fixed_batch_wins_and_is_told(timed_within, tmp_path):
    (latency,), notes = bench([onnx_model(tmp_path / "a.onnx", batch=4)], QUICK)
    assert latency.batch == 4
    assert any("its batch is fixed to 4, 1 was asked for" in note for note in notes)


def test_an_open_batch_takes_the_one_asked_for(timed_within, tmp_path):
    (latency,), _ = bench([onnx_model(tmp_path / "a.onnx", batch="n")], QUICK.model_copy(update={"batch": 2}))
    assert latency.batch == 2


def test_nothing_to_time_is_refused():
    with pytest.raises(InputError, match="no model to time"):
        bench([], QUICK)


def test_two_copies_of_a_file_are_timed_once(timed_within, tmp_path):
    latencies, notes = bench([onnx_model(tmp_path / "a.onnx"), onnx_model(tmp_path / "b.onnx")], QUICK)
    assert len(latencies) == 1
    assert [part.rpartition("/")[2] for part in notes[0].split(" is the same file as ")] == [
        "a.onnx",
        "b.onnx; timed once",
    ]


def test_a_float_graph_is_never_skipped(tmp_path):
    assert reason_to_skip(onnx_model(tmp_path / "a.onnx"), QUICK) == ""


def test_inputs_are_seeded_normalised_images(tmp_path):
    model = onnx_model(tmp_path / "a.onnx")
    images = images_for(model, 64, seed=3)
    assert images.shape == (64, *SHAPE)
    assert images.dtype == np.float32
    assert abs(images.mean()) < 0.05
    assert abs(images.std() - 1) < 0.05
    assert (images == images_for(model, 64, seed=3)).all()


def test_other_batches_are_timed_beside_the_one_asked_for(timed_within, tmp_path):
    model = onnx_model(tmp_path / "a.onnx", batch="n")
    report = bench_report([model], QUICK.model_copy(update={"batches": (1, 4)}))
    (latency,) = report.latency
    assert latency.batch == 1
    rows = report.results["throughput"]
    assert [row["batch"] for row in rows] == [1, 4]
    assert all(row["artifact"] == model.sha256 for row in rows)
    assert rows[1]["images_per_s"]["value"] == pytest.approx(4000 / rows[1]["p50_ms"]["value"])


@pytest.fixture
def photos(tmp_path):
    """`photos/{train,val}/{cat,dog}/0.png`: images of 8x8 pixels."""
    for number, name in enumerate(("train/cat", "train/dog", "val/cat", "val/dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.full(SHAPE[::-1], number, np.uint8)).save(tmp_path / "photos" / name / "0.png")
    return "folder:photos"


def test_the_way_from_file_to_class_is_timed_by_its_parts(tmp_path, photos):
    model = onnx_model(tmp_path / "a.onnx")
    report = bench_report([model], QUICK.model_copy(update={"data": photos}))
    found = report.results["end_to_end"]
    (row,) = found["models"]
    assert found["files"] == 2
    assert list(row["parts_ms"]) == ["decode", "preprocess", "inference", "argmax"]
    assert min(row["parts_ms"].values()) > 0
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["artifact"] == model.sha256
    assert len(report.latency) == 1
    text = "\n".join(lines_from(report))
    assert "end to end, one image after the other (2 files" in text
    assert "decode" in text


@pytest.mark.exhaustive
def test_real_hogs_started_in_the_middle_make_the_verdict_invalid(tmp_path):
    hogs = []

    def start():
        loop = [sys.executable, "-S", "-c", "while True: pass"]
        hogs.extend(subprocess.Popen(loop) for _ in range(available_cores()))

    model = onnx_model(tmp_path / "a.onnx", batch="n", repeat=5)
    lasting = QUICK.model_copy(update={"batch": 4096, "precision": "0.0001%", "max_seconds": 2.5})
    timer = threading.Timer(1.0, start)
    timer.start()
    try:
        report = bench_report([model], lasting)
    finally:
        timer.join()
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert report.results["verdict"].startswith("invalid: machine busy")
    assert any("stop them and run again" in warning for warning in report.warnings)


def test_a_file_is_called_by_its_folder_too():
    assert label_of(Path("runs/x/03-export/model.onnx")) == "03-export/model.onnx"
    assert label_of(Path("model.onnx")) == "model.onnx"
