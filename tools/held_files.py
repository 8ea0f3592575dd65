"""What must not change while the house is rebuilt: sha256 of every file that a fixed set of commands writes.

    python tools/held_files.py            runs the commands and compares with results/held_files.json
    python tools/held_files.py --record   writes that file anew

ResNet-8 and ResNet-20 on the digits, every stage from training to INT8 in each profile, with one thread. Of JSON what
differs from run to run is left out first: dates, seconds, milliseconds, machines, paths, and the options that led
there. Torch gives other bits on another kind of processor: on one, record at the commit to be compared with.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

RESULTS = Path(__file__).parent / "results" / "held_files.json"
_MOVING = frozenset({"environment", "created", "duration_s", "key", "config", "command", "path", "recipe", "edgeres"})
_MOVING_ENDS = ("_s", "_ms", "_mib")
_FORMATS = frozenset({".json", ".safetensors", ".onnx"})
_COMMANDS = """
train resnet8 --data digits --epochs 2 --threads 1
lesion --data digits --images 200 --set-images 100 --draws 2
export --dynamic
prune --drop 1 --data digits --images 300 --choose-on 200
recover --method mimic,distill --data digits --images 300 --epochs 2 --threads 1
export
calibrate --data digits --trt-cache 8.6.1
quantize --effort best
eval --data digits
gate --max-loss 100 --min-agreement 0.1 --json
show runs/resnet8-digits --json
train resnet20 --data digits --epochs 1 --threads 1
prune --drop 3 --data digits --images 300 --choose-on 200 --recover bn,mimic --epochs 1
export
calibrate --data digits --images 64
quantize --effort quick -o mse.onnx
quantize --effort quick --profile tensorrt-fp16 --method auto -o fp16.onnx
quantize --profile ort-cpu -o cpu.onnx
quantize --effort quick --min-sqnr 28 -o skips.onnx
quantize --effort quick --max-loss 0.5 -o left.onnx
qat --effort quick --data digits --images 128 --epochs 1 --threads 1 -o qat.onnx
export --half -o half.onnx
export --opset 13 --dynamic -o dynamic.onnx
prune runs/resnet20-digits/00-train/model.safetensors --modules layer1.1 --data digits -o named.safetensors
agree dynamic.onnx mse.onnx --data digits --images 64 --json
agree mse.onnx --data digits --images 64 --json
lint mse.onnx --no-build --json
lint ort.onnx --fix --no-build -o fixed.onnx --json
lint cpu.onnx --no-build --json
study reorder --data digits --images 100
study paths --data digits --images 100
show fixed.onnx --json
"""


def main() -> int:
    """1 if a file changed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write the hashes anew")
    parser.add_argument("--keep", type=Path, help="folder to leave the files in")
    arguments = parser.parse_args()
    found = {"machine": _machine(), "files": dict(_hashes(arguments.keep))}
    if arguments.record:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{len(found['files'])} hashes in {RESULTS}")
        return 0
    return _compared(json.loads(RESULTS.read_text(encoding="utf-8")), found)


def _compared(before: dict[str, Any], after: dict[str, Any]) -> int:
    if before["machine"] != after["machine"]:
        print(f"recorded on {before['machine']}, this is {after['machine']}: bits may differ for that alone")
    names = sorted({*before["files"], *after["files"]})
    changed = [name for name in names if before["files"].get(name) != after["files"].get(name)]
    for name in changed:
        print(f"changed: {name}")
    print(f"{len(names) - len(changed)} of {len(names)} as before")
    return 1 if changed else 0


def _machine() -> str:
    import onnxruntime
    import torch

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), cpu)
    return f"{cpu}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"


def _hashes(keep: Path | None) -> Iterator[tuple[str, str]]:
    """(name, sha256) of what every command printed as JSON, then of every file there is."""
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        for number, line in enumerate(_COMMANDS.split("\n")[1:-1]):
            if "ort.onnx" in line and not Path("ort.onnx").exists():
                _quantize_by_onnx_runtime()
            printed = _printed(shlex.split(line))
            if "--json" in line:
                yield f"{number:02} {line}", _sha256(_still(json.loads(printed)))
        for path in sorted(path for path in Path().rglob("*") if path.suffix in _FORMATS and path.is_file()):
            yield str(path), _hash_of(path)
        if keep:
            shutil.copytree(".", keep, dirs_exist_ok=True)


def _printed(command: list[str]) -> str:
    from edgeres.cli import main as command_line

    print("edgeres", *command, file=sys.stderr, flush=True)
    out, messages = io.StringIO(), io.StringIO()
    with (
        mock.patch("sys.argv", ["edgeres", *command]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(messages),
    ):
        code = command_line._run()
    if code not in {0, 1}:
        raise SystemExit(f"edgeres {shlex.join(command)}: exit code {code}\n{messages.getvalue()}")
    return out.getvalue()


def _hash_of(path: Path) -> str:
    if path.suffix != ".json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return _sha256(_still(json.loads(path.read_text(encoding="utf-8"))))


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _still(value: Any) -> Any:
    """`value` without what differs from run to run."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in _MOVING and not k.endswith(_MOVING_ENDS)}
        return {k: _still(v) for k, v in kept.items()}
    if isinstance(value, str):
        return re.sub(r"\b[\d.]+ s\b", "N s", value)
    return [_still(one) for one in value] if isinstance(value, list) else value


def _quantize_by_onnx_runtime() -> None:
    """ort.onnx: the graph of dynamic.onnx quantized by ONNX Runtime as its users do, on random images."""
    import numpy as np
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            draws = np.random.default_rng(0)
            self.images = iter(draws.normal(size=(8, 1, 1, 8, 8)).astype(np.float32))

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            return None if image is None else {"images": image}

    quantization.quantize_static("dynamic.onnx", "ort.onnx", Reader(), per_channel=True)


if __name__ == "__main__":
    os.environ.pop("EDGERES_RUNS", None)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
