"""What each TensorRT reads.

Source: the operator documents of onnx-tensorrt's releases, github.com/onnx/onnx-tensorrt, docs/operators.md.
"""

from __future__ import annotations

import re

_OPSETS = {(8, 0): 13, (8, 4): 17, (10, 0): 20, (10, 13): 24}  # first version that reads up to it


def newest_opset(version: str) -> int | None:
    """The newest ONNX opset that TensorRT `version`, such as "8.2.1", reads; None for one before 8 or no version."""
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None:
        return None
    asked = (int(number[1]), int(number[2]))
    return max((opset for first, opset in _OPSETS.items() if first <= asked), default=None)
