"""What to ask of trtexec, by the options it knows, and what it says: its text of 8.2 to 11.1.

Times are in ms. With explicit batch a query is a whole batch: images/s is queries/s times the batch.
Source: NVIDIA/TensorRT samples/common/{sampleOptions,sampleReporting,logger}.cpp of those releases.
"""

import json
import re
from typing import NamedTuple

PRECISIONS = {"fp32": (), "fp16": ("fp16",), "int8": ("int8",), "int8+fp16": ("int8", "fp16")}
STARTED = "Starting inference"  # printed right before the warm-up, in every version
PINNED = ("noDataTransfers", "useCudaGraph", "useSpinWait", "separateProfileRun")  # 11 has them as defaults, 8 not

_PREFIX = re.compile(r"^\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[([VIWEF])\] ?(.*)$")
_BANNER = re.compile(r"^&&&& (RUNNING|PASSED|FAILED) TensorRT\.trtexec \[TensorRT v(\d+)\]")
_OPTION = re.compile(r"(?:^|[\s,|\[(])--(\w+)")
_BUILT = re.compile(r"^Engine built in (\d+(?:\.\d+)?(?:e[+-]?\d+)?) sec\.$")
_DEVICE = re.compile(r"^Selected Device: (.+)$")


class Log(NamedTuple):
    """One run: version as "10.3.0", status PASSED, FAILED or "" (cut off), `build_s` and `gpu`, warnings, errors."""

    tensorrt: "str"
    status: "str"
    facts: "dict[str, float | str]"
    warnings: "list[str]"
    errors: "list[str]"


class DamagedOutput(ValueError):
    """The text or file is not what trtexec writes; says why in one line."""


def log_from(text: "str") -> "Log":
    """What a run said; raises DamagedOutput if no line of it is trtexec's banner."""
    facts = {}  # type: dict[str, float | str]
    said, version, status = [], "", ""  # type: list[tuple[str, str]], str, str
    for line in text.splitlines():
        banner = _BANNER.match(line)
        if banner:
            version = version_from(int(banner.group(2)))
            status = "" if banner.group(1) == "RUNNING" else banner.group(1)
            continue
        prefix = _PREFIX.match(line)
        if prefix:
            line = prefix.group(2).strip()
            said.append((prefix.group(1), line))
            built, device = _BUILT.match(line), _DEVICE.match(line)
            if built:
                facts["build_s"] = float(built.group(1))
            if device:
                facts["gpu"] = device.group(1)
    if not version:
        raise DamagedOutput("no output of trtexec: it lacks the line '&&&& RUNNING TensorRT.trtexec [TensorRT v...]'")
    return Log(version, status, facts, _of_level("W", said), _of_level("EF", said))


def version_from(number: "int") -> "str":
    """8602 -> "8.6.2", 101602 -> "10.16.2": up to 8 the major counts thousands, from 10 ten thousands."""
    major, rest = divmod(number, 1000 if number < 10000 else 10000)
    return f"{major}.{rest // 100}.{rest % 100}"


def options_from(help_text: "str") -> "set[str]":
    """The names of the options that this trtexec knows."""
    return set(_OPTION.findall(help_text))


def build_arguments(known: "set[str]", precision: "str", onnx: "str", engine: "str") -> "list[str]":
    """Builds `engine` without running it; raises KeyError for a precision not in PRECISIONS.

    Where strong typing exists the types are the ONNX file's and `precision` adds nothing.
    """
    flags = ("stronglyTyped",) if "stronglyTyped" in known else PRECISIONS[precision]
    chosen = ["--onnx=" + onnx, "--saveEngine=" + engine] + ["--" + flag for flag in flags]
    if "profilingVerbosity" in known:
        chosen.append("--profilingVerbosity=detailed")
    return chosen + ["--" + name for name in ("skipInference", "buildOnly") if name in known][:1]


def measure_arguments(known: "set[str]", engine: "str", warmup_ms: "int", duration_s: "int") -> "list[str]":
    """Times `engine` the same way with every version: no transfers, CUDA graph, spin wait."""
    timed = ["--loadEngine=" + engine, f"--warmUp={warmup_ms}", f"--duration={duration_s}", "--iterations=100"]
    return timed + ["--" + name for name in PINNED if name in known]


def times_from(text: "str") -> "list[dict[str, float]]":
    """The queries of an --exportTimes file; raises DamagedOutput if it is none or holds no query."""
    try:
        rows = json.loads(text)
        for row in rows:
            float(row["computeMs"]), float(row["startComputeMs"]), float(row["endComputeMs"])
    except (ValueError, TypeError, KeyError) as err:
        raise DamagedOutput(f"damaged times file of trtexec: {type(err).__name__}: {err}") from err
    if not isinstance(rows, list) or not rows:
        raise DamagedOutput("the times file of trtexec holds no query")
    return rows


def _of_level(levels: "str", said: "list[tuple[str, str]]") -> "list[str]":
    return [line for level, line in said if level in levels and line]
