from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres.compile import isolated, stage
from edgeres.compile.stage import CompileConfig, compile_engine
from edgeres.compile.worker import WorkerResult
from edgeres.core.artifacts import PROFILE_KEY, Engine, OnnxModel
from edgeres.core.errors import DeviceError, InputError, MissingDependency, StageError
from edgeres.runtime.cuda import Gpu
from edgeres.runtime.manifest import Host, LayerCounts, check_runnable, manifest_of, plan_header, this_system

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed (extra: rtx)"
)


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
def test_a_dynamic_float_engine_takes_a_range_of_batches(onnx_of, tmp_path):
    source = onnx_of(dynamic=True)
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
    with pytest.raises(StageError, match=r"(?i)workspace.*; --workspace-mib 1 may be too little"):
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
    def no_gpu() -> Gpu:
        raise DeviceError("no GPU")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(stage, "local_gpu", no_gpu)
    with pytest.raises(DeviceError, match="no GPU"):
        compile_engine(float_model, CompileConfig(runtime="tensorrt"), tmp_path / "out")


def worker_is(monkeypatch, program: str, inspector: str = "raise SystemExit(1)") -> None:
    """Puts programs in the place of the worker (arguments: job, result) and the inspector (module, plan, out)."""
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen:
        chosen = program if command[3] == "build" else inspector
        return real([sys.executable, "-c", chosen, *command[4:]], **options)

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


ORIN = Gpu("sm87", "Orin (nvgpu)", "12.6")
TENSORRT = {
    "version": "10.3.0",
    "inputs": {"images": {"shape": (1, 1, 8, 8), "dtype": "FLOAT"}},
    "outputs": {"logits": {"shape": (1, 10), "dtype": "FLOAT"}},
    "timing_cache": "tensorrt-10.3.0-Orin.timing",
}
PLAN = b"ftrt" + bytes(20) + bytes((10, 3, 0, 30)) + bytes(36)
LAYERS = (Path(__file__).parent / "data" / "trtexec_layers_10.json").read_text()


def on_an_orin(monkeypatch, built: dict[str, object] | None = None, inspector: str = "raise SystemExit(1)") -> None:
    monkeypatch.setattr(stage, "local_gpu", lambda: ORIN)
    worker_is(monkeypatch, answer(WorkerResult(built=TENSORRT | (built or {})), PLAN), inspector)


def test_a_build_on_the_board_is_described_in_full(int8_model, tmp_path, monkeypatch):
    on_an_orin(monkeypatch, inspector=f"import pathlib, sys; pathlib.Path(sys.argv[3]).write_text({LAYERS!r})")
    result = compile_engine(int8_model, CompileConfig(runtime="tensorrt", version_compatible=True), tmp_path / "out")
    manifest = manifest_of(result.output)
    assert (manifest.targets, manifest.gpu, manifest.cuda) == (("sm87",), "Orin (nvgpu)", "12.6")
    assert (manifest.onnx_name, manifest.dtypes) == ("model.int8.onnx", {"images": "FLOAT", "logits": "FLOAT"})
    assert (manifest.version_compatible, manifest.timing_cache) == (True, "tensorrt-10.3.0-Orin.timing")
    assert manifest.layers == LayerCounts(
        kernels={"INT8": 2}, reformats=1, headline="0/3 residual adds fused in INT8, 3 not found"
    )
    assert any("kernel times kept in" in note for note in result.report.notes)
    assert result.output.path.with_name("model.plan.layers.json").is_file()
    assert check_runnable(result.output.path, Host(this_system(), ORIN, {"tensorrt": "10.3.0"})) == ()


@pytest.mark.parametrize(
    ("inspector", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the inspector was killed by SIGSEGV"),
        ("import sys; sys.exit('the engine cannot be loaded here')", "the engine cannot be loaded here"),
        ("import pathlib, sys; pathlib.Path(sys.argv[3]).write_text('{}')", "holds no layers"),
    ],
)
def test_an_inspector_that_fails_costs_the_layer_report_only(inspector, message, float_model, tmp_path, monkeypatch):
    on_an_orin(monkeypatch, inspector=inspector)
    result = compile_engine(float_model, CompileConfig(runtime="tensorrt"), tmp_path / "out")
    assert any(message in warning for warning in result.report.warnings)
    assert manifest_of(result.output).layers is None


def test_another_target_than_the_gpu_here_is_refused(float_model, tmp_path, monkeypatch):
    on_an_orin(monkeypatch)
    config = CompileConfig(runtime="tensorrt", targets=("sm86",))
    with pytest.raises(DeviceError, match=r"builds for the GPU it runs on \(sm87\), sm86 was asked for"):
        compile_engine(float_model, config, tmp_path / "out")


def test_a_dla_engine_says_what_the_builder_was_allowed(float_model, tmp_path, monkeypatch):
    on_an_orin(monkeypatch, {"flags": ("FP16", "GPU_FALLBACK"), "strongly_typed": False})
    result = compile_engine(float_model, CompileConfig(runtime="tensorrt", dla_core=0), tmp_path / "out")
    assert (result.output.precision, manifest_of(result.output).dla_core) == ("fp16", 0)
    assert any("experimental" in note for note in result.report.notes)


def test_graphs_a_dla_does_not_take_are_refused(int8_model, onnx_of, tmp_path):
    config = CompileConfig(runtime="tensorrt", dla_core=0)
    with pytest.raises(InputError, match="which a DLA does not take; give it the float graph"):
        compile_engine(int8_model, config, tmp_path / "out")
    dynamic = onnx_of(dynamic=True)
    with pytest.raises(InputError, match="a DLA only a fixed one"):
        compile_engine(dynamic, config, tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dla_core": 0}, "--dla-core is for --runtime tensorrt, not for tensorrt-rtx"),
        ({"hardware_compatible": "ampere+"}, "--hardware-compatible is for --runtime tensorrt"),
        ({"version_compatible": True}, "--version-compatible is not for tensorrt-rtx"),
    ],
)
def test_options_of_another_runtime_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        CompileConfig(**values).check()


def test_torch_tensorrt_takes_no_pairs(int8_model, tmp_path):
    with pytest.raises(InputError, match="which torch-tensorrt does not take"):
        compile_engine(int8_model, CompileConfig(runtime="torch-tensorrt"), tmp_path / "out")


def test_torch_tensorrt_without_a_driver_is_a_device_error(float_model, tmp_path, monkeypatch):
    """It asks for the GPU when it is imported, and dies of a RuntimeError."""
    fake = tmp_path / "lib" / "torch_tensorrt.py"
    fake.parent.mkdir()
    fake.write_text("raise RuntimeError('Found no NVIDIA driver\\non your system')\n")
    monkeypatch.setenv("PYTHONPATH", str(fake.parent))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(stage, "local_gpu", lambda: ORIN)
    message = r"^torch_tensorrt is installed but cannot be imported here: Found no NVIDIA driver on your system$"
    with pytest.raises(DeviceError, match=message):
        compile_engine(float_model, CompileConfig(runtime="torch-tensorrt"), tmp_path / "out")


def test_an_unknown_signal_still_has_a_number():
    assert isolated.death(-signal.SIGKILL, "") == "was killed by SIGKILL (memory ran out?)"
    assert isolated.death(-signal.SIGSEGV, "") == "was killed by SIGSEGV"
    assert isolated.death(-250, "") == "was killed by signal 250"


@pytest.mark.parametrize(
    "values",
    [{"batch_min": 4, "batch_opt": 2}, {"optimization_level": 6}, {"runtime": "trt"}, {"workspace_mib": 0}],
)
def test_impossible_options_are_refused(values):
    with pytest.raises(InputError):
        CompileConfig(**values)


def test_a_range_of_batches_is_for_a_dynamic_graph(int8_model, tmp_path):
    with pytest.raises(InputError, match=r"takes 1 image a call, so --batch-max changes nothing"):
        compile_engine(int8_model, CompileConfig(batch_max=9), tmp_path / "out")


def test_weights_that_are_no_numbers_are_a_warning(float_model, tmp_path, monkeypatch):
    weight = float_model.proto.graph.initializer[0]
    weight.raw_data = b"\x00\x00\xc0\x7f" + weight.raw_data[4:]
    path = tmp_path / "nan.onnx"
    path.write_bytes(float_model.proto.SerializeToString())
    on_an_orin(monkeypatch)
    result = compile_engine(OnnxModel(path), CompileConfig(runtime="tensorrt"), tmp_path / "out")
    assert any(f"nan.onnx: {weight.name} holds NaN or infinity" in warning for warning in result.report.warnings)


def test_a_refused_qdq_file_of_another_tool_is_sent_to_lint(int8_model, tmp_path, monkeypatch):
    worker_is(monkeypatch, answer(WorkerResult(error="node q QuantizeLinear: zero point must be zero")))
    with pytest.raises(StageError, match=r"zero point must be zero$"):
        compile_engine(int8_model, CompileConfig(), tmp_path / "out")
    kept = [entry for entry in int8_model.proto.metadata_props if entry.key != PROFILE_KEY]
    del int8_model.proto.metadata_props[:]
    int8_model.proto.metadata_props.extend(kept)
    path = tmp_path / "theirs.onnx"
    path.write_bytes(int8_model.proto.SerializeToString())
    with pytest.raises(StageError, match=r"zero point must be zero; .* another tool's: edgeres lint .*theirs\.onnx"):
        compile_engine(OnnxModel(path), CompileConfig(), tmp_path / "out")
