"""A scale table as the calibration cache that TensorRT 8 to 10 reads (`trtexec --int8 --calib=FILE`), also for DLA.

    TRT-8601-EntropyCalibration2        version and calibrator; another one and TensorRT calibrates again
    images: 3c8f5c29                    tensor: scale = amax / 127 as float32, its bytes in hexadecimal, highest first
    (Unnamed Layer* 4) [...]: 3d65992f  names TensorRT makes up have no entry here

Implicit quantization wants every activation tensor, outputs of the network included; a layer that lacks one stays in
higher precision. TensorRT 11 has neither caches nor implicit quantization: it takes the Q/DQ file of edgeres quantize.
No cache written here has been read by TensorRT on hardware yet.

Source: sampleINT8 and IInt8EntropyCalibrator2 of TensorRT 8.6; NV_TENSORRT_VERSION of NvInferVersion.h.
"""

from __future__ import annotations

import re
import struct

from edgeres.core.errors import InputError
from edgeres.core.records.scales import ScaleTable
from edgeres.quantize.calibrators import LEVELS

_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:\.\d+)?")
_FIRST_MAJOR, _LAST_MAJOR, _LONG_SINCE = 8, 10, 10
_DEAD_SCALE = 1.0 / LEVELS  # of a tensor that was always zero; TensorRT wants a positive number


def trt_cache_from(table: ScaleTable, method: str, version: str) -> str:
    """The file's text; `version` is TensorRT's, such as "8.6.1" (JetPack 5) or "10.3.0" (JetPack 6).

    Raises InputError if the version has no caches, the table lacks the method or a tensor cannot be written.
    """
    if method not in table.methods:
        raise InputError(f"the scale table has no method {method!r} (it has: {', '.join(table.methods)})")
    lines = [f"TRT-{version_number(version)}-EntropyCalibration2"]
    for name, tensor in table.tensors.items():
        if "\n" in name or ": " in name:
            raise InputError(f"tensor {name!r} cannot stand in a calibration cache; rename it and export again")
        scale = struct.pack(">f", tensor.amax[method] / LEVELS or _DEAD_SCALE)
        lines.append(f"{name}: {scale.hex()}")
    return "\n".join(lines) + "\n"


def version_number(version: str) -> int:
    """NV_TENSORRT_VERSION: 8.6.1 -> 8601, and from TensorRT 10 on two digits a part: 10.3.0 -> 100300."""
    match = _VERSION.fullmatch(version)
    if match is None:
        raise InputError(f"{version!r} is not a version of TensorRT; write it as 8.6.1")
    major, minor, patch = (int(part or 0) for part in match.groups())
    if not _FIRST_MAJOR <= major <= _LAST_MAJOR:
        raise InputError(
            f"TensorRT {version} reads no calibration cache of this kind; 8 to 10 do, later ones take Q/DQ"
        )
    return major * 10_000 + minor * 100 + patch if major >= _LONG_SINCE else major * 1000 + minor * 100 + patch
