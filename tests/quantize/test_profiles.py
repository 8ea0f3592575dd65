from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from edgeres.compile.stage import CompileConfig, compile_engine
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import InputError
from edgeres.models.family import ORDERINGS
from edgeres.quantize import cpu
from edgeres.quantize.cpu import affine_from, has_wide_sums, reduces_range
from edgeres.quantize.decision import Decision
from edgeres.quantize.lint import lint
from edgeres.quantize.placement import Options, observed_of
from edgeres.quantize.profiles import PROFILE_KEY, PROFILES, placement_for, quantized

IMAGES = np.random.default_rng(3).standard_normal((32, 1, 8, 8), dtype=np.float32)


def bounds_of(model) -> Decision:
    """Exact extremes on IMAGES."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = [name for name in observed_of(model) if name != "images"]
    for name in names:
        copy.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = [session.run(names, {"images": image[None]}) for image in IMAGES]
    extremes = {"images": (float(IMAGES.min()), float(IMAGES.max()))}
    for index, name in enumerate(names):
        values = np.stack([run[index] for run in runs])
        extremes[name] = float(values.min()), float(values.max())
    return Decision({name: max(-low, high) or 1.0 for name, (low, high) in extremes.items()}, extremes=extremes)


def as_written(source: OnnxModel, profile: str, **options):
    return quantized(source.proto, profile, bounds_of(source.proto), Options(**options))


def logits_of(model, *, literal: bool):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", str(int(literal)))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": image[None]})[0] for image in IMAGES])


def sqnr_db(signal, other) -> float:
    return float(10 * np.log10(np.square(signal).sum() / np.square(signal - other).sum()))


def fused_operators(model, path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def metadata_of(model):
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("options", [{"shortcut": "A"}, {"shortcut": "B"}, {"ordering": "full-preact"}])
def test_every_profile_computes_nearly_what_the_float_graph_does(profile, options, onnx_of):
    source = onnx_of("resnet8", **options)
    model = as_written(source, profile, reduce_range="off")
    onnx.checker.check_model(model, full_check=True)
    assert sqnr_db(logits_of(source.proto, literal=True), logits_of(model, literal=True)) > 25
    assert metadata_of(model).items() >= (metadata_of(source.proto) | {PROFILE_KEY: profile}).items()


@pytest.mark.parametrize("shortcut", "AB")
def test_onnx_runtime_fuses_all_of_an_ort_cpu_file(shortcut, onnx_of, tmp_path):
    source = onnx_of("resnet8", shortcut=shortcut)
    found = fused_operators(as_written(source, "ort-cpu"), tmp_path / "fused.onnx")
    projections = 2
    assert found["QLinearConv"] == 7 + projections
    assert (found["QLinearAdd"], found["QGemm"], found["QLinearGlobalAveragePool"]) == (3, 1, 1)
    assert not {"Conv", "Gemm", "Add", "Relu", "Pad", "Slice", "DequantizeLinear"} & set(found)


def test_seven_bits_keep_weights_within_63_steps_and_say_so(onnx_of):
    source = onnx_of()
    for choice, largest in (("on", 63), ("off", 127)):
        model = as_written(source, "ort-cpu", reduce_range=choice)
        weights = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("conv1.weight")]
        assert {int(np.abs(weight.astype(int)).max()) for weight in weights} == {largest}
        assert metadata_of(model)["edgeres.weight_bits"] == ("7" if choice == "on" else "8")


def test_only_a_cpu_without_wide_sums_needs_seven_bits(monkeypatch):
    assert has_wide_sums({"sse", "avx2", "avx512_vnni"}, "x86_64")
    assert not has_wide_sums({"sse", "avx2", "avx512f"}, "x86_64")
    assert not has_wide_sums((), "x86_64")
    assert has_wide_sums((), "aarch64")
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    for flags, reduced in ((frozenset(), True), (frozenset({"avx_vnni"}), False)):
        monkeypatch.setattr(cpu, "cpu_flags", lambda flags=flags: flags)
        assert [reduces_range(choice) for choice in ("auto", "on", "off")] == [reduced, True, False]


@pytest.mark.parametrize(("low", "high"), [(0.0, 5.1), (-1.0, 3.0), (2.0, 3.0), (-4.0, -1.0), (0.0, 0.0)])
def test_uint8_covers_the_range_and_holds_zero_exactly(low, high):
    scale, zero_point = affine_from(low, high)
    ends = scale * (np.array([0.0, 255.0]) - zero_point)
    assert ends[0] <= min(low, 0) + scale
    assert ends[1] >= max(high, 0) - scale
    assert scale > 0


def test_dead_tensors_and_nearly_dead_channels_keep_their_biases(onnx_of):
    source = onnx_of()
    model = onnx.ModelProto()
    model.CopyFrom(source.proto)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, change in (("layer1.0.conv1.bias", "dead"), ("layer2.0.conv1.weight", "tiny")):
        array = onnx.numpy_helper.to_array(stored[name]).copy()
        array[0 if change == "tiny" else slice(None)] = 1e-12 if change == "tiny" else -1e3
        stored[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    bounds = bounds_of(model)
    assert bounds.extremes["layer1.0.relu"] == (0.0, 0.0)
    made = quantized(model, "ort-cpu", bounds, Options(reduce_range="off"))
    assert sqnr_db(logits_of(model, literal=True), logits_of(made, literal=True)) > 20


def test_an_fp16_file_takes_and_gives_float32_and_has_no_float32_in_between(onnx_of):
    model = as_written(onnx_of(shortcut="B"), "tensorrt-fp16")
    values = (*model.graph.input, *model.graph.output)
    assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
    assert [node.op_type for node in (model.graph.node[0], model.graph.node[-1])] == ["Cast", "Cast"]
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {TensorProto.FLOAT16, TensorProto.INT8}
    assert model.opset_import[0].version >= 19


def test_fp16_scales_are_chosen_before_the_weights_are_rounded(onnx_of):
    source = onnx_of()
    model = as_written(source, "tensorrt-fp16")
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weight = {t.name: onnx.numpy_helper.to_array(t) for t in source.proto.graph.initializer}["layer1.0.conv1.weight"]
    scale = stored["layer1.0.conv1.weight.scale"].astype(np.float64).reshape(-1, 1, 1, 1)
    assert np.abs(stored["layer1.0.conv1.weight"] * scale - weight).max() <= scale.max() / 2 * 1.0001


def test_a_constant_beyond_float16_is_refused_by_name(onnx_of):
    source = onnx_of()
    bounds = bounds_of(source.proto)
    decided = replace(bounds, tensors={"conv1.bias": np.full(16, 1e6, np.float32)})
    with pytest.raises(InputError, match=r"'conv1.bias' holds 1e\+06"):
        quantized(source.proto, "tensorrt-fp16", decided, Options())


@pytest.mark.parametrize("profile", PROFILES)
def test_a_kept_module_stays_float_in_every_profile(profile, onnx_of):
    source = onnx_of("resnet14")
    model = as_written(source, profile, keep=("layer2.1",))
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kept = TensorProto.FLOAT16 if profile == "tensorrt-fp16" else TensorProto.FLOAT
    assert stored["layer2.1.conv1.weight"] == stored["layer2.1.conv2.weight"] == kept
    assert stored["layer2.0.conv1.weight"] == TensorProto.INT8
    addition = next(node for node in model.graph.node if node.name == "layer2.1.add")
    assert not [tensor for tensor in addition.input if tensor.endswith(".dequantized")]


def test_unknown_profiles_and_names_are_refused_with_a_guess(onnx_of):
    model = onnx_of().proto
    with pytest.raises(InputError, match=r"unknown profile 'ort'.*known: ort-cpu, tensorrt, tensorrt-fp16"):
        placement_for(model, "ort", Options())
    with pytest.raises(InputError, match=r"no layer or module 'layer2\.9'.*did you mean"):
        placement_for(model, "tensorrt", Options(keep=("layer2.9",)))


def test_what_observed_of_names_is_enough_for_every_profile_and_choice(onnx_of):
    model = onnx_of("resnet14", shortcut="A").proto
    observed = observed_of(model)
    assert list(observed) == sorted(observed, key=[n for n, *_ in order(model)].index)
    for profile in PROFILES:
        for keep in ((), ("layer1.1",), ("layer2.0", "layer3.1"), ("layer1.0.conv1",)):
            assert set(placement_for(model, profile, Options(keep=keep)).observed) <= set(observed)


def order(model) -> list[tuple[str, ...]]:
    return [("images",), *(tuple(node.output) for node in model.graph.node)]


def families() -> list[tuple[str, dict[str, object]]]:
    residual = [
        (arch, {"ordering": ordering, "shortcut": shortcut})
        for arch in ("resnet8", "fcresnet8")
        for ordering in ORDERINGS
        for shortcut in "ABC"
    ]
    return [
        *residual,
        ("resnet5", {"layers": 1}),
        ("resnet11", {"layers": 3, "bottleneck": True}),
        ("plain8", {}),
        ("vgg11", {}),
        ("resnet14", {"dropped": ("layer1.1", "layer2.0")}),
        ("resnet14", {"ordering": "bn-after-add", "shortcut": "B", "dropped": ("layer1.1", "layer2.0")}),
        ("fcresnet14", {"ordering": "full-preact", "dropped": ("layer1.1", "layer2.0")}),
    ]


@pytest.mark.covering(1)
@pytest.mark.parametrize("profile", ["tensorrt", "tensorrt-fp16"])
@pytest.mark.parametrize(("arch", "options"), families())
def test_every_network_lints_clean(arch, options, profile, onnx_of):
    assert lint(as_written(onnx_of(arch, **options), profile)) == ()


BUILT = {  # in make test
    ("resnet11", "tensorrt-fp16"),
    ("resnet14", "tensorrt"),
    ("fcresnet14", "tensorrt-fp16"),
    ("vgg11", "tensorrt"),
}


@pytest.mark.parametrize(
    ("arch", "options", "profile"),
    [
        pytest.param(arch, options, profile, marks=() if (arch, profile) in BUILT else pytest.mark.exhaustive)
        for arch, options in families()
        for profile in ("tensorrt", "tensorrt-fp16")
    ],
)
def test_every_network_is_built_by_tensorrt_rtx(arch, options, profile, onnx_of, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    path = tmp_path / "model.int8.onnx"
    path.write_bytes(as_written(onnx_of(arch, **options), profile).SerializeToString())
    config = CompileConfig(targets=("sm86", "sm89", "sm120"))
    result = compile_engine(OnnxModel(path), config, tmp_path / "engine")
    assert result.output.size_bytes > 0
    assert result.output.manifest.precision == ("int8" if profile == "tensorrt" else "int8+fp16")


@pytest.mark.covering(1)
@pytest.mark.parametrize(("arch", "options"), families())
def test_every_network_runs_fused_on_onnx_runtime(arch, options, onnx_of):
    source = onnx_of(arch, **options)
    model = as_written(source, "ort-cpu")
    onnx.checker.check_model(model, full_check=True)
    assert sqnr_db(logits_of(source.proto, literal=True), logits_of(model, literal=False)) > 20


def test_scales_of_a_network_with_nothing_but_shortcuts_left_serve_every_profile(checkpoint_of, spec_of, exported):
    spec = spec_of("resnet14").without(tuple(f"layer{stage}.{place}" for stage in (1, 2, 3) for place in (0, 1)))
    source = exported(checkpoint_of(spec))
    for profile in PROFILES:
        assert set(placement_for(source.proto, profile, Options()).observed) <= set(observed_of(source.proto))
        as_written(source, profile)
