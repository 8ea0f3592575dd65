from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import DeviceError, InputError, StageError
from edgeres.evaluate.agreement import Likeness, ScaledSimilarity, Similarity, first_drift, kl_sum, mcnemar
from edgeres.evaluate.agreement_run import LOGITS, AgreeConfig, agree, broken_rules, module_tensors, probe_for
from edgeres.models.weights import checkpoint_without
from edgeres.quantize.decision import Decision
from edgeres.quantize.insert import with_pairs
from edgeres.quantize.placement import placement_of

IMAGES = np.random.default_rng(0).standard_normal((5, 1, 8, 8), np.float32)
QUICK = AgreeConfig(data="digits", images=60, threads=1)


@pytest.fixture
def files_of(spec_of, checkpoint_of, exported, tmp_path):
    """(checkpoint, float graph, INT8 graph)."""

    def make(**options):
        checkpoint = checkpoint_of(spec_of("resnet8", **options))
        graph = exported(checkpoint, dynamic=True)
        placement = placement_of(graph.proto)
        path = tmp_path / "int8.onnx"
        onnx.save(with_pairs(graph.proto, placement, Decision(dict.fromkeys(placement.observed, 6.0))), path)
        return checkpoint, graph, OnnxModel(path)

    return make


def likenesses(*values):
    return [Likeness(name=str(i), sqnr_db=value, cosine=1.0) for i, value in enumerate(values)]


def test_sqnr_and_cosine_of_batches_are_those_of_the_whole():
    similarity, a = Similarity(), IMAGES
    b = a + np.float32(0.1) * np.roll(a, 1)
    for part in (slice(0, 2), slice(2, 5)):
        similarity.add(a[part], b[part])
    assert similarity.sqnr_db == pytest.approx(20, abs=1e-3)
    assert similarity.cosine == pytest.approx(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


def test_equal_tensors_have_no_noise():
    similarity = Similarity()
    similarity.add(IMAGES, IMAGES)
    assert similarity.sqnr_db is None
    assert similarity.cosine == pytest.approx(1)


def test_kl_is_that_of_the_probabilities_and_ignores_a_constant_added_to_the_logits():
    a, b = np.log(np.array([[0.5, 0.5]], np.float32)), np.log(np.array([[0.9, 0.1]], np.float32))
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kl_sum(a, b + 7) == pytest.approx(expected, abs=1e-5)
    assert kl_sum(a, a + 7) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("only_a", "only_b", "p"), [(0, 0, 1), (3, 3, 1), (0, 5, 2 / 32), (1, 5, 14 / 64)])
def test_mcnemar_is_the_binomial_test(only_a, only_b, p):
    assert mcnemar(only_a, only_b) == pytest.approx(p)


@given(st.integers(0, 4000), st.integers(0, 4000))
def test_mcnemar_is_a_probability_and_takes_either_side(only_a, only_b):
    assert 0 <= mcnemar(only_a, only_b) <= 1
    assert mcnemar(only_a, only_b) == mcnemar(only_b, only_a)


def test_the_first_module_that_falls_drifts():
    assert first_drift(likenesses(36.0, 35.0, 27.0, 15.0)) == "2"


def test_a_slow_decline_drifts_where_it_crosses_the_floor():
    assert first_drift(likenesses(24.0, 21.0, 19.0, 18.0)) == "2"


def test_falls_from_equality_to_little_noise_are_no_drift():
    assert first_drift(likenesses(None, 90.0, 55.0, 41.0, 38.0)) is None


@pytest.mark.parametrize("options", [{"shortcut": "A"}, {"shortcut": "B"}, {"ordering": "full-preact"}])
def test_every_probe_of_a_float_network_shows_the_same_modules_and_values(files_of, options):
    checkpoint, graph, _ = files_of(**options)
    seen = []
    for model, way in ((checkpoint, "torch"), (graph, "torch"), (graph, "literal")):
        with probe_for(model, way, 1) as (_, probe):
            seen.append(probe(IMAGES))
    names = {"layer1.0", "layer2.0", "layer3.0", LOGITS}
    assert all(names == set(values) for values in seen)
    assert all(np.allclose(seen[0][name], values[name], atol=1e-4) for values in seen for name in names)


@pytest.mark.parametrize("dropped", [(), ("backbone.s1.1",)])
def test_the_modules_of_a_network_of_ones_own_have_their_names_in_every_file(gated, exported, tmp_path, dropped):
    checkpoint = checkpoint_without(gated, dropped, tmp_path / "model.safetensors")
    graph = exported(checkpoint, dynamic=True)
    placement = placement_of(graph.proto)
    int8 = with_pairs(graph.proto, placement, Decision(dict.fromkeys(placement.observed, 6.0)))
    onnx.save(int8, tmp_path / "int8.onnx")
    images, seen = np.random.default_rng(0).standard_normal((2, 3, 16, 16), np.float32), []
    ways = [(checkpoint, "torch"), (graph, "torch"), (graph, "literal"), (OnnxModel(tmp_path / "int8.onnx"), "literal")]
    for model, way in ways:
        with probe_for(model, way, 1) as (_, probe):
            seen.append(probe(images))
    names = {LOGITS, "backbone.s1.0", "backbone.s1.1", "backbone.s2.0", "backbone.s2.1"}.difference(dropped)
    assert [set(values) for values in seen] == [names] * 4
    assert all(np.allclose(seen[0][name], values[name], atol=1e-4) for values in seen[:3] for name in names)
    assert all(np.corrcoef(seen[0][name].ravel(), seen[3][name].ravel())[0, 1] > 0.9 for name in names)


def test_fused_kernels_show_logits_only(files_of):
    with probe_for(files_of()[2], "fused", 1) as (name, probe):
        assert set(probe(IMAGES)) == {LOGITS}
        assert "fused" in name


def test_graphs_without_names_of_nodes_show_what_the_activation_behind_an_addition_makes(files_of):
    graph, model = files_of()[1], onnx.ModelProto()
    model.CopyFrom(graph.proto)
    for node in model.graph.node:
        node.name = ""
    expected = {f"layer{stage}.0": f"layer{stage}.0.relu_1" for stage in (1, 2, 3)}
    assert module_tensors(model, graph.spec) == expected == module_tensors(graph.proto, graph.spec)


ORT = {
    "default": {},
    "uint8": {"activation_type": QuantType.QUInt8, "per_channel": True},
    "symmetric": {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}},
    "pairs apart": {"extra_options": {"DedicatedQDQPair": True}},
}


class Shown(CalibrationDataReader):
    def __init__(self, name):
        self._feeds = iter([{name: image[None]} for image in IMAGES])

    def get_next(self):
        return next(self._feeds, None)


@pytest.mark.parametrize("are_named", [True, False])
@pytest.mark.parametrize("options", ORT.values(), ids=ORT)
def test_a_pair_in_front_of_a_relu_or_in_its_place_is_compared_behind_it(files_of, tmp_path, options, are_named):
    """As ONNX Runtime's quantizer places them."""
    _, graph, _ = files_of()
    model = onnx.load(graph.path)
    for node in model.graph.node:
        node.name = node.name if are_named else ""
    onnx.save(model, tmp_path / "float.onnx")
    quantize_static(tmp_path / "float.onnx", tmp_path / "ort.onnx", Shown(model.graph.input[0].name), **options)
    result = agree(graph, OnnxModel(tmp_path / "ort.onnx"), QUICK)
    assert [one.name for one in result.modules] == ["layer1.0", "layer2.0", "layer3.0"]
    assert min(one.sqnr_db for one in result.modules) > 20  # beside the sum itself it would be under 10
    assert result.drift is None


def test_an_int8_file_alone_is_fake_quantization_on_torch_against_onnx_runtime(files_of):
    int8 = files_of()[2]
    result = agree(int8, int8, QUICK)
    assert "torch" in result.a.runtime
    assert "literal" in result.b.runtime
    assert result.n == 60
    assert result.pair.agreement.value >= 0.95
    assert result.logits.sqnr_db is None or result.logits.sqnr_db > 35
    assert result.drift is None


def test_a_checkpoint_agrees_with_its_float_graph_and_less_with_int8(files_of):
    checkpoint, graph, int8 = files_of()
    exact, rounded = agree(checkpoint, graph, QUICK), agree(checkpoint, int8, QUICK)
    assert exact.same_top1 == exact.n
    assert exact.logits.sqnr_db > 90 > 50 > rounded.logits.sqnr_db
    assert exact.a.correct_top1 - exact.b.correct_top1 == exact.only_a - exact.only_b
    assert exact.kl < rounded.kl


def test_the_module_whose_weights_were_changed_is_the_first_to_drift(files_of, tmp_path):
    _, graph, _ = files_of()
    changed = onnx.ModelProto()
    changed.CopyFrom(graph.proto)
    weight = next(tensor for tensor in changed.graph.initializer if tensor.name == "layer2.0.conv2.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.3), weight.name))
    onnx.save(changed, tmp_path / "changed.onnx")
    result = agree(graph, OnnxModel(tmp_path / "changed.onnx"), QUICK)
    assert result.drift == "layer2.0"
    assert result.modules[0].sqnr_db is None


def test_a_foreign_file_is_given_the_images_of_the_other(files_of, tmp_path):
    _, graph, _ = files_of()
    bare = onnx.ModelProto()
    bare.CopyFrom(graph.proto)
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    foreign = OnnxModel(tmp_path / "bare.onnx")
    assert agree(foreign, graph, QUICK).same_top1 == agree(graph, foreign, QUICK).same_top1 == 60
    with pytest.raises(InputError, match="does not say how an image becomes its input; add"):
        agree(foreign, foreign, QUICK)


def test_models_of_different_classes_are_refused(files_of, spec_of, checkpoint_of):
    other = checkpoint_of(spec_of("resnet8", channels=3), "rgb.safetensors")
    with pytest.raises(InputError, match="cannot be compared: input_shape"):
        agree(files_of()[0], other, QUICK)


@pytest.mark.parametrize(
    ("runtimes", "message"), [(("torch",), "names 1; name two"), (("torch", "literel"), "did you mean literal")]
)
def test_runtimes_are_two_known_ones(runtimes, message):
    with pytest.raises(InputError, match=message):
        AgreeConfig(data="digits", runtimes=runtimes).check()


def test_only_broken_rules_are_named(files_of):
    checkpoint, _, int8 = files_of()
    result = agree(checkpoint, int8, QUICK)
    strict = QUICK.model_copy(update={"min_agreement": 1.0, "min_sqnr": 200.0})
    loose = QUICK.model_copy(update={"min_agreement": 0.0, "min_sqnr": -200.0})
    assert broken_rules(result, loose) == ()
    assert any("is below 200 dB" in line for line in broken_rules(result, strict))


def test_logits_that_are_not_finite_end_it(files_of, tmp_path):
    _, graph, _ = files_of()
    broken = onnx.ModelProto()
    broken.CopyFrom(graph.proto)
    bias = next(tensor for tensor in broken.graph.initializer if tensor.name == "fc.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(10, np.nan, np.float32), "fc.bias"))
    onnx.save(broken, tmp_path / "nan.onnx")
    with pytest.raises(StageError, match=r"nan\.onnx gives logits that are not finite"):
        agree(graph, OnnxModel(tmp_path / "nan.onnx"), QUICK)


def test_engines_are_refused_with_what_to_do(files_of, tmp_path):
    from edgeres.core.artifacts import Engine

    class Built(Engine):
        @property
        def manifest(self):
            return type("M", (), {"targets": ("sm86",), "runtime": "tensorrt_rtx", "card": graph.card})

    graph = files_of()[1]
    (tmp_path / "model.plan").write_bytes(b"vtrt" + bytes(20) + bytes((1, 7, 1, 116)) + bytes(36))
    with pytest.raises(DeviceError, match=r"needs an NVIDIA GPU|not installed here"):
        agree(graph, Built(tmp_path / "model.plan"), QUICK)


def test_scaled_channels_are_compared_up_to_their_factors():
    generator = np.random.default_rng(0)
    a = generator.standard_normal((4, 3, 5, 5), np.float32)
    noise = 0.1 * generator.standard_normal(a.shape).astype(np.float32)
    factors = np.float32([0.25, 1, 8]).reshape(1, 3, 1, 1)
    plain, scaled = Similarity(), ScaledSimilarity()
    for half in (slice(0, 2), slice(2, 4)):
        plain.add(a[half], (a + noise)[half])
        scaled.add(a[half], ((a + noise) * factors)[half])
    assert scaled.likeness("x").sqnr_db == pytest.approx(plain.likeness("x").sqnr_db, abs=0.3)
    assert scaled.likeness("x").cosine == pytest.approx(plain.likeness("x").cosine, abs=0.01)
