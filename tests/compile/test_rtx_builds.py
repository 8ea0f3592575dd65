"""Real builds by TensorRT-RTX, which needs no GPU for them; what it builds is not run anywhere here."""

from __future__ import annotations

import importlib.util

import pytest

from edgeres.compile.stage import CompileConfig, compile_engine
from edgeres.core.artifacts import OnnxModel
from edgeres.core.errors import StageError
from edgeres.graph.opset import with_half
from edgeres.quantize.calibrate import CalibrateConfig, calibrate
from edgeres.quantize.stage import QuantizeConfig, quantize
from edgeres.runtime.manifest import RTX_TARGETS, manifest_of, plan_header

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]
PROFILES = {"int8": "tensorrt", "int8+fp16": "tensorrt-fp16"}
ON_TURING = {"fp16", "int8", "int8+fp16"}


FEW = [("fp32", False), ("fp16", True), ("int8", True), ("int8+fp16", False)]
MORE = [(precision, not dynamic) for precision, dynamic in FEW]


def exhaustively(value: object) -> object:
    return pytest.param(*value if isinstance(value, tuple) else (value,), marks=pytest.mark.exhaustive)


@pytest.fixture
def model_of(onnx_of, tmp_path):
    """`model_of("int8+fp16", dynamic=True, arch="resnet20")`."""

    def make(precision: str, *, dynamic: bool, arch: str = "resnet8") -> OnnxModel:
        source = onnx_of(arch, dynamic=dynamic)
        if precision == "fp16":
            path = tmp_path / "half.onnx"
            path.write_bytes(with_half(source.proto).SerializeToString())
            return OnnxModel(path)
        if precision not in PROFILES:
            return source
        scales = calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "scales").output
        return quantize(
            source, QuantizeConfig(scales=scales.path, effort="quick", profile=PROFILES[precision]), tmp_path / "int8"
        ).output

    return make


@pytest.mark.parametrize("arch", ["resnet8", *map(exhaustively, ["resnet20", "resnet56"])])  # as in shipped recipes
@pytest.mark.parametrize(("precision", "dynamic"), [*FEW, *map(exhaustively, MORE)])
def test_every_precision_builds_for_every_architecture(precision, dynamic, arch, model_of, tmp_path):
    source = model_of(precision, dynamic=dynamic, arch=arch)
    assert source.precision == precision
    targets = RTX_TARGETS if precision in ON_TURING else RTX_TARGETS[1:]
    engine = compile_engine(source, CompileConfig(targets=targets), tmp_path / "out").output
    manifest = manifest_of(engine)
    assert plan_header(engine.path).runtime == "tensorrt-rtx"
    assert (manifest.precision, manifest.targets) == (precision, targets)
    assert manifest.inputs == {"images": (-1 if dynamic else 1, 1, 8, 8)}
    assert manifest.dtypes == {"images": "FLOAT", "logits": "FLOAT"}
    assert (manifest.batch, manifest.strongly_typed) == ((1, 8, 32) if dynamic else (1, 1, 1), True)
    assert (manifest.onnx_name, manifest.onnx_sha256) == (source.path.name, source.sha256)


@pytest.mark.parametrize(
    ("precision", "arch", "way_out"),
    [
        ("fp32", "resnet8", "edgeres export CHECKPOINT --half"),
        ("int8", "fcresnet8", "edgeres quantize FLOAT.onnx --profile tensorrt-fp16"),
    ],
)
def test_turing_computes_no_fp32_products_and_the_way_out_is_named(precision, arch, way_out, model_of, tmp_path):
    source = model_of(precision, dynamic=False, arch=arch)
    with pytest.raises(StageError, match=f"for sm75 give it a graph in FP16: {way_out}"):
        compile_engine(source, CompileConfig(targets=("sm75",)), tmp_path / "out")
