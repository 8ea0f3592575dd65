"""What a file was made from is found by the reports, so that advice can name it."""

import shutil

import pytest

from edgeres.core.artifacts import FUSED_PROFILE, OnnxModel
from edgeres.core.errors import InputError
from edgeres.core.lineage import advised, check_for_tensorrt, source_of
from edgeres.core.runs import Run
from edgeres.pipeline.calls import Call, call


@pytest.fixture
def run(checkpoint_of, spec_of, tmp_path, monkeypatch):
    """A run elsewhere than the current one, in a folder with a blank, that ends with a file for a CPU."""
    monkeypatch.setenv("EDGERES_RUNS", str(tmp_path / "my runs"))
    whole = checkpoint_of(spec_of("resnet8"))
    call(Call("import", run="net", values={"file": whole.path}))
    for stage, values in (
        ("export", {}),
        ("calibrate", {"data": "digits", "images": 64}),
        ("quantize", {"profile": FUSED_PROFILE, "effort": "quick"}),
    ):
        call(Call(stage, run="net", values=values))
    return Run(tmp_path / "my runs/net")


def test_the_file_is_named_as_it_is_typed_where_it_lies_now(run, tmp_path):
    file = run.path / "03-quantize/model.int8.onnx"
    assert source_of(file) == run.path / "01-export/model.onnx"
    assert advised("edgeres export", source_of(file)) == f"edgeres export '{run.path}/01-export/model.onnx'"
    moved = tmp_path / "moved"
    shutil.move(run.path, moved)
    assert source_of(moved / "03-quantize/model.int8.onnx") == moved / "01-export/model.onnx"
    (moved / "01-export/model.onnx").unlink()
    assert source_of(moved / "03-quantize/model.int8.onnx") is None


def test_of_a_file_in_no_run_it_is_said_where_the_result_goes(tmp_path):
    file = tmp_path / "a net.onnx"
    assert advised("edgeres compile", file, on="desk") == f"edgeres compile '{file}' --out ENGINE.plan --on desk"
    assert advised("edgeres quantize", "FLOAT.onnx") == "edgeres quantize FLOAT.onnx"


def test_a_file_for_a_cpu_is_refused_with_the_command_for_the_float_one(run):
    with pytest.raises(InputError, match=r"model\.int8\.onnx was quantized for ONNX Runtime on a CPU") as refused:
        check_for_tensorrt(OnnxModel(run.path / "03-quantize/model.int8.onnx"))
    assert str(refused.value).endswith(f"edgeres quantize '{run.path}/01-export/model.onnx' --profile tensorrt")
