"""kill -9 at any moment: the same command ends with the files of an undisturbed one, and leaves nothing beside them.

Training under one and two processes, recovery, search and transfers to boards have tests of their own in their rooms.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SHARES = (0.45, 0.7, 0.9)  # of the undisturbed call's time; the first third is Python's start
MOVING = ("_s", "_ms", "created", "environment", "key", "path", "config", "duration", "plan")
COMMANDS = {
    "quantize": ("quantize m.onnx --scales scales.json --effort default -o q.onnx", "q.onnx"),
    "calibrate": ("calibrate m.onnx --data digits --images 256 -o s.json", "s.json"),
    "lint": ("lint foreign.onnx --fix --no-build --images 4 --tolerance-db 5 -o fixed.onnx", "fixed.onnx"),
    "lesion": ("lesion m.safetensors --data digits --images 300 --draws 2 -o l.json", "l.json"),
    "study paths": ("study paths m.safetensors --data digits --images 200 -o r.json", "r.json"),
    "study gradients": ("study gradients --data digits --depth 8 --epochs 1 --seeds 1 -o g.json", "g.json"),
    "bench --per-module": ("bench --per-module m.safetensors --rounds 5 -o c.json", "c.json"),
}


@pytest.fixture(scope="session")
def files(run_of, tmp_path_factory) -> Path:
    """A run's files by short names."""
    home = tmp_path_factory.mktemp("kill")
    run = run_of(home)
    for place, name in (
        ("00-import/model.safetensors", "m.safetensors"),
        ("03-export/model.onnx", "m.onnx"),
        ("04-calibrate/scales.json", "scales.json"),
        ("05-quantize/model.int8.onnx", "int8.onnx"),
    ):
        shutil.copy(run / place, home / name)
    shutil.rmtree(home / "runs")
    import onnxruntime.quantization as ort

    class Images(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(np.random.default_rng(0).standard_normal((4, 1, 1, 8, 8), np.float32))

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image}

    ort.quantize_static(home / "m.onnx", home / "foreign.onnx", Images(), activation_type=ort.QuantType.QUInt8)
    return home


def begun(words: str, folder: Path) -> subprocess.Popen[bytes]:
    with (folder.parent / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "edgeres", *words.split()],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder.parent), "EDGERES_RUNS": str(folder / "runs")},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def still(content: Any) -> Any:
    """JSON without what differs from call to call: times, places, machines."""
    if isinstance(content, dict):
        return {name: still(value) for name, value in content.items() if not name.endswith(MOVING)}
    return [still(one) for one in content] if isinstance(content, list) else content


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_command_ends_with_the_same_files(files: Path, tmp_path: Path, name: str):
    words, made = COMMANDS[name]
    folders = [tmp_path / one / "work" for one in ("alone", "killed")]
    shutil.copytree(files, folders[0])
    began = time.monotonic()
    assert begun(words, folders[0]).wait(timeout=600) == 0, (folders[0].parent / "said.txt").read_text()
    whole_s, killed = time.monotonic() - began, 0
    while not killed:  # a machine that was slower before: again, by what it took now
        shutil.rmtree(folders[1], ignore_errors=True)
        shutil.copytree(files, folders[1])
        for share in SHARES:
            began, process = time.monotonic(), begun(words, folders[1])
            try:
                assert process.wait(timeout=share * whole_s) == 0
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                killed += 1
            if (folders[1] / made).exists():  # all was done, and Python was ending
                break
        whole_s = time.monotonic() - began
    assert begun(words, folders[1]).wait(timeout=600) == 0, (folders[1].parent / "said.txt").read_text()
    alone, after = ({path.name for path in folder.iterdir()} for folder in folders)
    assert after == alone
    if "bench" in name:
        return
    one, other = (folder / made for folder in folders)
    if made.endswith(".json"):
        assert still(json.loads(one.read_text())) == still(json.loads(other.read_text()))
    else:
        assert one.read_bytes() == other.read_bytes()
