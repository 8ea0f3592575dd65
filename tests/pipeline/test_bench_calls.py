"""Which session a run keeps; what cannot be timed is no success."""

import pytest

from edgeres.bench.config import BenchConfig
from edgeres.core.errors import DeviceError
from edgeres.export.stage import ExportConfig, export
from edgeres.pipeline import eval_bench
from edgeres.pipeline.eval_bench import bench_call
from edgeres.quantize.calibrate import CalibrateConfig, calibrate
from edgeres.quantize.stage import QuantizeConfig, quantize


def test_a_file_that_cannot_be_timed_here_is_no_success(checkpoint_of, spec_of, tmp_path):
    source = export(checkpoint_of(spec_of("resnet8"), "mine.safetensors"), ExportConfig(), tmp_path / "float").output
    scales = calibrate(source, CalibrateConfig(data="digits", images=64), tmp_path / "scales").output.path
    placed = quantize(source, QuantizeConfig(scales=scales, effort="quick"), tmp_path / "int8").output.path
    with pytest.raises(DeviceError, match=r"nothing was timed: int8/model\.int8\.onnx: not timed: a Q/DQ graph"):
        bench_call((placed,), None, {})


@pytest.mark.parametrize("inside", ["demo", "demo/01-optimize/fast"])
def test_a_session_advises_to_time_its_own_run_again(inside, runs_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(eval_bench, "bench_report", lambda *_, command: asked.append(command) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        eval_bench.bench_models([], BenchConfig(), runs_folder / inside / "05-bench")
    assert asked == [f"edgeres bench --run {inside if inside == 'demo' else runs_folder / inside}"]
