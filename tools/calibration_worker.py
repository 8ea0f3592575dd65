"""One calibration in one process, so that its memory and wall time are its own; used by calibration_figures.py.

    python tools/calibration_worker.py JOB METHOD MODEL DATA IMAGES OUT

JOB is `ours`, `onnxruntime`, or either with `-idle`: the same imports, nothing calibrated. Prints JSON: the peak
resident memory in bytes (VmHWM).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgeres.core.artifacts import OnnxModel
from edgeres.data import Split, dataset_for

_KIB = 1024
_BATCH = 32


def main() -> None:
    """Does the job and prints what it took."""
    job, method, model, data, images, out = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    prepare, _, idle = job.partition("-")
    work = {"ours": ours, "onnxruntime": onnxruntime}[prepare](method)
    if not idle:
        work(Path(model), data, int(images), Path(out))
    print(json.dumps({"peak_bytes": peak_bytes()}))


def ours(method: str) -> Any:
    """Calibrate and quantize as `edgeres` does them."""
    import onnxruntime as _  # noqa: F401  (an idle process has it too)

    from edgeres.quantize import calibrate, calibrators, config, decision, insert, lint, placement, stage  # noqa: F401

    def work(model: Path, data: str, images: int, out: Path) -> None:
        source = OnnxModel(model)
        if data == "random":
            noise_scales(source, images)
            return
        chosen = config.CalibrateConfig(data=data, images=images)
        table = calibrate.calibrate(source, chosen, out).output.path
        stage.quantize(source, config.QuantizeConfig(scales=table, method=method, effort="quick"), out)

    def noise_scales(source: OnnxModel, images: int) -> None:
        tensors = placement.observed_of(source.proto)
        found = calibrate.statistics_of(source.proto, tensors, (batch for batch in noise(images)))
        amax = {name: calibrators.amax_from(one.histogram, method) for name, one in found.items()}
        insert.with_pairs(source.proto, placement.placement_of(source.proto), decision.Decision(amax))

    return work


def onnxruntime(method: str) -> Any:
    """`quantize_static` with symmetric int8, weights per channel."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        """Feeds one batch after another."""

        def __init__(self, batches: Iterator[np.ndarray[Any, Any]]) -> None:
            self._batches = batches

        def get_next(self) -> dict[str, Any] | None:
            """The next batch, None after the last."""
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch}

    def work(model: Path, data: str, images: int, out: Path) -> None:
        q.quantize_static(
            str(model),
            str(out / "model.int8.onnx"),
            Reader(batches_of(model, data, images)),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            activation_type=q.QuantType.QInt8,
            weight_type=q.QuantType.QInt8,
            calibrate_method=q.CalibrationMethod[method.capitalize()],
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )

    return work


def batches_of(model: Path, data: str, images: int) -> Iterator[np.ndarray[Any, Any]]:
    """The very images that edgeres calibrates on."""
    if data == "random":
        yield from noise(images)
        return
    spec = OnnxModel(model).spec
    split: Split = dataset_for(spec, data).train.sample(images, 0)
    yield from (batch for batch, _ in split.batches(spec, _BATCH))


def noise(images: int) -> Iterator[np.ndarray[Any, Any]]:
    """Standard normal images of 224 pixels, one at a time."""
    for seed in range(images):
        yield np.random.default_rng(seed).standard_normal((1, 3, 224, 224), dtype=np.float32)


def peak_bytes() -> int:
    """High-water mark of resident memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * _KIB


if __name__ == "__main__":
    main()
