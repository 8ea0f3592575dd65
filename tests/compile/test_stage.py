from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys

import pytest
from pydantic import ValidationError

from edgeres.compile import stage
from edgeres.compile.plan import plan_header
from edgeres.compile.stage import CompileConfig, compile_engine
from edgeres.compile.worker import WorkerResult
from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.errors import DeviceError, InputError, MissingDependency, StageError
from edgeres.export.stage import ExportConfig, export
from edgeres.quantize.scales import CalibrateConfig, calibrate
from edgeres.quantize.stage import QuantizeConfig, quantize

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed (extra: rtx)"
)


@pytest.fixture
def float_model(spec_of, checkpoint_of, tmp_path) -> OnnxModel:
    return export(checkpoint_of(spec_of()), ExportConfig(), tmp_path / "float").output


@pytest.fixture
def int8_model(float_model, tmp_path) -> OnnxModel:
    scales = calibrate(float_model, CalibrateConfig(data="digits", images=64), tmp_path / "scales").output
    return quantize(float_model, QuantizeConfig(scales=scales.path), tmp_path / "int8").output


@needs_rtx
def test_an_int8_engine_for_three_targets_with_its_manifest(int8_model, tmp_path):
    result = compile_engine(int8_model, CompileConfig(), tmp_path / "out")
    engine = Engine(result.output.path)
    manifest = engine.manifest
    assert plan_header(engine.path).runtime == manifest.runtime == "tensorrt-rtx"
    assert plan_header(engine.path).version == manifest.runtime_version
    assert manifest.targets == ("sm86", "sm89", "sm120")
    assert (engine.precision, manifest.onnx_sha256) == ("int8", int8_model.sha256)
    assert (manifest.inputs, manifest.outputs) == ({"images": (1, 1, 8, 8)}, {"logits": (1, 10)})
    assert manifest.batch == (1, 1, 1)
    assert (engine.spec, engine.card.parent) == (int8_model.spec, int8_model.sha256)
    assert sorted(path.name for path in engine.path.parent.iterdir()) == ["model.plan", "model.plan.json"]


@needs_rtx
def test_a_dynamic_float_engine_takes_a_range_of_batches(spec_of, checkpoint_of, tmp_path):
    source = export(checkpoint_of(spec_of()), ExportConfig(dynamic=True), tmp_path / "float").output
    config = CompileConfig(targets=("sm86",), batch_opt=4, batch_max=16)
    manifest = compile_engine(source, config, tmp_path / "out").output.manifest
    assert (manifest.batch, manifest.precision) == ((1, 4, 16), "fp32")
    assert manifest.inputs == {"images": (-1, 1, 8, 8)}


@needs_rtx
def test_a_graph_the_parser_refuses_is_one_line_that_names_the_node(float_model, tmp_path):
    node = float_model.proto.graph.node[1]
    node.op_type, node.domain = "Unheard", "nowhere"
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(float_model.proto.SerializeToString())
    with pytest.raises(StageError, match=r"node relu Unheard: ") as caught:
        compile_engine(OnnxModel(broken), CompileConfig(targets=("sm86",)), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


@needs_rtx
def test_a_failed_build_gives_the_reason_of_the_log(float_model, tmp_path):
    config = CompileConfig(targets=("sm86",), workspace_mib=1)
    with pytest.raises(StageError, match="workspace"):
        compile_engine(float_model, config, tmp_path / "out")


@needs_rtx
def test_a_jetson_target_is_refused_before_anything_is_built(float_model, tmp_path):
    with pytest.raises(InputError, match="sm87 is Jetson Orin"):
        compile_engine(float_model, CompileConfig(targets=("sm87",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_an_absent_runtime_is_a_missing_dependency(runtime, float_model, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'edgeres\[(rtx|tensorrt)\]'"):
        compile_engine(float_model, CompileConfig(runtime=runtime), tmp_path / "out")


def test_tensorrt_without_a_gpu_is_a_device_error(float_model, tmp_path, monkeypatch):
    def no_gpu() -> str:
        raise DeviceError("no GPU")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(stage, "local_target", no_gpu)
    with pytest.raises(DeviceError, match="no GPU"):
        compile_engine(float_model, CompileConfig(runtime="tensorrt"), tmp_path / "out")


def worker_is(monkeypatch, program: str) -> None:
    """Puts `program` in the worker's place; its arguments are the job and the result file."""
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen:
        return real([sys.executable, "-c", program, *command[3:]], **options)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(subprocess, "Popen", popen)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"was killed by SIGSEGV while building"),
        ("raise RuntimeError('no memory')", r"failed with exit code 1 \(RuntimeError: no memory\)"),
    ],
)
def test_a_worker_that_dies_is_one_sentence(program, message, float_model, tmp_path, monkeypatch):
    worker_is(monkeypatch, program)
    with pytest.raises(StageError, match=message) as caught:
        compile_engine(float_model, CompileConfig(), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def answer(result: WorkerResult, plan: bytes = b"") -> str:
    return (
        "import json, sys, pathlib\n"
        "job = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        f"pathlib.Path(job['plan_path']).write_bytes({plan!r})\n"
        f"pathlib.Path(sys.argv[2]).write_text({result.model_dump_json()!r})\n"
    )


def test_a_binding_without_its_library_is_a_device_error_that_names_it(float_model, tmp_path, monkeypatch):
    worker_is(monkeypatch, answer(WorkerResult(error="libnvinfer.so.10: cannot open", usable=False)))
    with pytest.raises(DeviceError, match=r"cannot be imported here: libnvinfer\.so\.10"):
        compile_engine(float_model, CompileConfig(), tmp_path / "out")


def test_a_plan_of_another_runtime_is_not_kept(float_model, tmp_path, monkeypatch):
    built = {"version": "10.3.0", "inputs": {}, "outputs": {}}
    worker_is(monkeypatch, answer(WorkerResult(built=built), b"ftrt" + bytes(60)))
    with pytest.raises(StageError, match="asked for a tensorrt-rtx plan, the builder wrote one of tensorrt"):
        compile_engine(float_model, CompileConfig(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unknown_signal_still_has_a_number():
    assert stage._death(-signal.SIGSEGV, "") == "was killed by SIGSEGV"
    assert stage._death(-250, "") == "was killed by signal 250"


@pytest.mark.parametrize(
    "values",
    [{"batch_min": 4, "batch_opt": 2}, {"optimization_level": 6}, {"runtime": "trt"}, {"workspace_mib": 0}],
)
def test_impossible_options_are_refused(values):
    with pytest.raises(ValidationError):
        CompileConfig(**values)
