"""The TensorRT runner on a fake driver and fake bindings of real versions, and on a GPU where there is one."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import DeviceError, InputError
from edgeres.runtime import runner_for, runtime_of
from edgeres.runtime.manifest import local_gpu

IMAGES = np.random.default_rng(0).standard_normal((9, 1, 8, 8), np.float32)
BINDINGS = [("tensorrt", version) for version in ("8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106")]


@pytest.fixture
def graph(onnx_of):
    def make(*, dynamic=True):
        return onnx_of(dynamic=dynamic)

    return make


def logits_of(model):
    with runner_for(model) as runner:
        return runner.infer(IMAGES)


@pytest.mark.parametrize(("runtime", "version"), [*BINDINGS, ("tensorrt-rtx", "rtx-1.7.1")])
def test_only_names_of_the_version_are_touched_and_everything_is_given_back(
    runtime, version, graph, gpu_machine, engine_from
):
    machine, model = gpu_machine(runtime, version=version), graph()
    engine = engine_from(model, runtime, version=version)
    with runner_for(engine) as runner:
        assert np.allclose(runner.infer(IMAGES), logits_of(model), atol=1e-5)
        runner.load(IMAGES[:2])
        runner.step()
        runner.synchronize()
        assert runner.name == f"{runtime} {version.removeprefix('rtx-')}"
        assert machine.driver.alive
    assert machine.driver.alive == {}
    assert runtime_of(engine) == runtime


def test_steps_are_launches_of_one_graph_that_computes_the_loaded_images(graph, gpu_machine, engine_from):
    machine = gpu_machine()
    with runner_for(engine_from(graph())) as runner:
        runner.load(IMAGES[:3])
        out = runner._engine.buffers[1]
        for _ in range(3):
            out.host[:] = bytes(len(out.host))
            runner.step()
            runner._engine.cuda.download(out, len(out.host))
            runner.synchronize()
            assert np.allclose(np.frombuffer(out.host, np.float32).reshape(3, 10), logits_of(graph())[:3], atol=1e-5)
        assert machine.driver.launches == 3
        assert "without" not in runner.name


def test_what_cannot_be_captured_runs_all_the_same_and_says_so(graph, gpu_machine, engine_from):
    machine = gpu_machine(capturable=False)
    with runner_for(engine_from(graph())) as runner:
        runner.load(IMAGES[:1])
        runner.step()
        runner.synchronize()
        assert machine.driver.launches == 0
        assert runner.name == "tensorrt 10.3.0 without CUDA graph"
    assert machine.driver.alive == {}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_any_number_of_images_fits_a_range_of_batches(count, graph, gpu_machine, engine_from):
    machine, model = gpu_machine(profile=(2, 2, 4)), graph()
    with runner_for(engine_from(model)) as runner:
        logits = runner.infer(IMAGES[:count])
    assert np.allclose(logits, logits_of(model)[:count], atol=1e-5)
    assert machine.driver.alive == {}


def test_an_engine_that_reads_and_writes_half_takes_and_gives_float32(graph, gpu_machine, engine_from):
    gpu_machine(half=True)
    with runner_for(engine_from(graph())) as runner:
        logits = runner.infer(IMAGES)
    expected = logits_of(graph())
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("half", [False, True])
def test_several_outputs_stand_in_the_files_order(half, graph, gpu_machine, engine_from, tmp_path):
    proto = onnx.load(graph().path)
    inner = next(node.output[0] for node in proto.graph.node if node.op_type == "Relu")
    proto.graph.output.append(onnx.helper.make_tensor_value_info(inner, onnx.TensorProto.FLOAT, ["batch", 16, 8, 8]))
    onnx.save(proto, tmp_path / "two.onnx")
    machine, model = gpu_machine(half=half), OnnxModel(tmp_path / "two.onnx")
    with runner_for(engine_from(model, outputs={"logits": (-1, 10), inner: (-1, 16, 8, 8)})) as runner:
        found = runner.infer(IMAGES)
        runner.load(IMAGES[:2])
        runner.step()
        runner.synchronize()
    expected = logits_of(model)
    assert found.shape == expected.shape == (9, 10 + 16 * 64)
    assert np.allclose(found, expected, atol=0.02 if half else 1e-5)
    assert machine.driver.alive == {}


def test_more_images_than_the_engine_takes_at_once_are_not_timed(graph, gpu_machine, engine_from):
    machine = gpu_machine()
    with runner_for(engine_from(graph())) as runner:
        with pytest.raises(InputError, match=r"takes 1 to 4 images at once, not 5: --batch 4, or compile"):
            runner.load(IMAGES[:5])
        with pytest.raises(InputError, match=r"reads images \(1, 8, 8\)"):
            runner.infer(np.zeros((1, 3, 8, 8), np.float32))
    assert machine.driver.alive == {}


def test_a_fixed_batch_is_known_before_the_engine_is_loaded(graph, gpu_machine, engine_from):
    gpu_machine()
    assert runner_for(engine_from(graph(dynamic=False))).batch == 1
    assert runner_for(engine_from(graph())).batch is None


def test_a_plan_that_cannot_be_loaded_is_refused_in_tensorrts_words(graph, gpu_machine, engine_from):
    machine, model = gpu_machine(), graph()
    assert model.card
    model.path.write_bytes(b"damaged")
    engine = engine_from(model)
    with pytest.raises(DeviceError, match=r"cannot load it: .*serialization failed"), runner_for(engine):
        pass
    assert machine.driver.alive == {}


def test_a_plan_changed_after_its_build_is_refused(graph, gpu_machine, engine_from):
    gpu_machine()
    engine = engine_from(graph())
    engine.path.write_bytes(engine.path.read_bytes() + b"x")
    with pytest.raises(InputError, match="describes another plan"):
        runner_for(engine)


@pytest.mark.parametrize("compatible", [False, True])
def test_code_in_a_plan_is_allowed_only_where_the_manifest_says_that_it_has_some(
    compatible, graph, gpu_machine, engine_from
):
    machine = gpu_machine()
    with runner_for(engine_from(graph(), version_compatible=compatible)):
        assert machine.binding.host_code == [compatible]


def test_a_gpu_without_memory_is_one_line(graph, gpu_machine, engine_from):
    machine = gpu_machine()
    machine.driver.fails["cuMemAlloc_v2"] = machine.fakes.MEMORY
    message = r"CUDA: cuMemAlloc_v2 failed: out of memory \(error 2\)"
    with runner_for(engine_from(graph())) as runner, pytest.raises(DeviceError, match=message):
        runner.infer(IMAGES)
    assert machine.driver.alive == {}


def test_an_old_driver_is_told_what_it_lacks(graph, gpu_machine, engine_from, monkeypatch):
    machine = gpu_machine()
    monkeypatch.delattr(machine.fakes.Driver, "cuGraphInstantiateWithFlags")
    message = r"lacks cuGraphInstantiateWithFlags; .* CUDA 11\.4 on"
    with runner_for(engine_from(graph())) as runner, pytest.raises(DeviceError, match=message):
        runner.load(IMAGES[:1])


def test_an_engine_of_another_gpu_is_refused_with_the_command_that_builds_one(graph, gpu_machine, engine_from):
    gpu_machine("tensorrt-rtx")
    engine = engine_from(graph(), "tensorrt-rtx", targets=("sm86",))
    message = r"was built for sm86 .* cannot run on sm89 \(RTX 4090\); build one for here: edgeres compile .* sm89$"
    with pytest.raises(DeviceError, match=message):
        runner_for(engine)


def test_an_engine_given_to_the_other_runtime_is_refused(graph, gpu_machine, engine_from):
    gpu_machine()
    with pytest.raises(DeviceError, match="is an engine of TensorRT, which TensorRT-RTX cannot run"):
        runner_for(engine_from(graph()), runtime="tensorrt-rtx")
    with pytest.raises(InputError, match="onnxruntime does not execute"):
        runner_for(engine_from(graph()), runtime="onnxruntime")


def gpu_here() -> str | None:
    try:
        return local_gpu().target
    except DeviceError:
        return None


@pytest.mark.gpu
@pytest.mark.skipif(gpu_here() is None, reason="no NVIDIA GPU")
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("dynamic", [False, True])
def test_on_a_real_gpu_an_engine_gives_the_logits_of_its_graph(dynamic, graph, tmp_path):
    from edgeres.compile.stage import CompileConfig, compile_engine

    model = graph(dynamic=dynamic)
    engine = compile_engine(model, CompileConfig(targets=(gpu_here(),), batch_max=4), tmp_path / "out").output
    with runner_for(model) as reference, runner_for(engine) as runner:
        for count in (1, 1) if not dynamic else (1, 3, 4):
            expected = reference.infer(IMAGES[:count])
            assert np.allclose(runner.infer(IMAGES[:count]), expected, atol=1e-2)
        runner.load(IMAGES[:1])
        runner.step()
        runner.synchronize()
