"""The JetPack releases: which L4T they come with, which TensorRT, and what that reads.

Python 3.6: the agent takes it to the board. Source: NVIDIA's JetPack and Jetson Linux archives,
developer.nvidia.com/embedded/jetpack-archive; the operator documents of onnx-tensorrt's releases,
github.com/onnx/onnx-tensorrt, docs/operators.md.
"""

import re
from typing import NamedTuple

_OPSETS = {(8, 0): 13, (8, 4): 17, (10, 0): 20, (10, 13): 24}  # first TensorRT that reads up to it


class JetPack(NamedTuple):
    """A release, the TensorRT in it, and the releases of L4T that it came with, without zeros at their end."""

    name: "str"
    tensorrt: "str"
    l4t: "tuple[str, ...]"


RELEASES = (
    JetPack("4.6", "8.0.1", ("32.6.1",)),
    *(JetPack(f"4.6.{n}", "8.2.1", (f"32.7.{n}",)) for n in range(1, 7)),
    JetPack("5.0.2", "8.4.1", ("35.1",)),
    JetPack("5.1", "8.5.2", ("35.2.1",)),
    JetPack("5.1.1", "8.5.2", ("35.3.1",)),
    JetPack("5.1.2", "8.5.2", ("35.4.1",)),
    JetPack("5.1.3", "8.5.2", ("35.5",)),
    JetPack("5.1.4", "8.5.2", ("35.6",)),
    JetPack("5.1.5", "8.5.2", ("35.6.1", "35.6.2")),
    JetPack("5.1.6", "8.5.2", ("35.6.4",)),
    JetPack("6.0", "8.6.2", ("36.3",)),
    JetPack("6.1", "10.3.0", ("36.4",)),
    JetPack("6.2", "10.3.0", ("36.4.3",)),
    JetPack("6.2.1", "10.3.0", ("36.4.4", "36.4.7")),
    JetPack("6.2.2", "10.3.0", ("36.5",)),
    JetPack("7.0", "10.13.3", ("38.2", "38.2.1")),
    JetPack("7.1", "10.13.3", ("38.4",)),
    JetPack("7.2", "10.16.2", ("39.2",)),
)


def jetpack_of(l4t: "str") -> "str | None":
    """The release that comes with this L4T; 36.4.0 and 36.4 are one."""
    short = re.sub(r"(?:\.0)+$", "", l4t)
    return next((release.name for release in RELEASES if short in release.l4t), None)


def newest_opset(version: "str") -> "int | None":
    """The newest ONNX opset that TensorRT `version`, such as "8.2.1", reads; None for one before 8 or no version."""
    number = re.match(r"(\d+)\.(\d+)", version)
    asked = (int(number[1]), int(number[2])) if number else (0, 0)
    return max((opset for first, opset in _OPSETS.items() if first <= asked), default=None)
