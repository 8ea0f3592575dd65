"""A DLA core as the device of a build: experimental, and never run on hardware.

A DLA computes in FP16 or INT8 at a fixed batch. What it cannot do moves to the GPU without a word, so a figure belongs
to the DLA only if the layer report says so. It takes no Q/DQ graph: INT8 comes from scales in a text file
(`edgeres calibrate` writes NAME.cache) and a float graph, implicit quantization, which TensorRT 8 to 10 have.

Source: TensorRT developer guide, "Working with DLA"; NVIDIA/TensorRT issue 2222.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeres.compile.job import BuildError, BuildJob
from edgeres.compile.options import is_flag_known, set_flag, who


def set_dla(trt: Any, builder: Any, config: Any, job: BuildJob) -> Any:
    """Sends the build to `job.dla_core`, if one was asked for; what has to stay alive until it is done.

    Raises BuildError where there is no such core, or the graph's types are none a DLA computes in.
    """
    if job.dla_core is None:
        return None
    cores = builder.num_DLA_cores
    if job.dla_core >= cores:
        raise BuildError(
            f"{who(trt)} sees {cores} DLA cores here, core {job.dla_core} was asked for (Jetson Nano, TX2, Orin Nano"
            " and Thor have none; TensorRT after 10.7 has none before 11.4.1)"
        )
    if not is_flag_known(trt, "FP16") and not job.half:
        raise BuildError(f"{who(trt)} takes types from the graph and a DLA computes in FP16: give it a graph in FP16")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = job.dla_core
    set_flag(trt, config, "GPU_FALLBACK")
    return None if job.calibration_cache is None else _set_calibrator(trt, config, Path(job.calibration_cache))


def _set_calibrator(trt: Any, config: Any, path: Path) -> Any:
    if not hasattr(trt, "IInt8EntropyCalibrator2"):
        raise BuildError(f"{who(trt)} reads no calibration cache")
    cache = path.read_bytes()

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        """Has scales and no images: a tensor that lacks a scale stays in higher precision."""

        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, cache: object) -> None:
            pass

    calibrator = Calibrator()
    config.int8_calibrator = calibrator
    return calibrator
