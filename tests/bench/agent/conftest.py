"""The agent as one file in a process of its own, on a pretend Jetson: what the tests of the agent share."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgeres.bench.agent.lock import NAME as LOCK_NAME
from edgeres.bench.agent.undo import place
from edgeres.bench.boards import agent_bytes

_PATIENCE_S = 60


@functools.cache
def pretend() -> ModuleType:
    """tests/bench/fakes.py: the tests are no package."""
    spec = importlib.util.spec_from_file_location("fakes", Path(__file__).parents[1] / "fakes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `python` runs on this one, and on those of old JetPacks where this machine has them.

    Of those `make test` takes the oldest.
    """
    if "python" in metafunc.fixturenames:
        here, *old = _pythons()
        newer = [pytest.param(one, marks=pytest.mark.exhaustive) for one in old[1:]]
        metafunc.parametrize("python", [here, *old[:1], *newer], ids=lambda path: Path(path).parents[1].name)


@functools.cache
def _pythons() -> list[str]:
    found = [sys.executable]
    for version in ("3.6", "3.8", "3.10"):
        kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"))
        path = str(kept[0]) if kept else shutil.which(f"python{version}")
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


class Bench:
    """A pretend Jetson below `root` and the agent on it."""

    def __init__(self, root: Path, jetpack: str = "6.2") -> None:
        self.root, self.fakes = root, pretend()
        self.temporary = root / "tmp"
        self.temporary.mkdir(parents=True)
        self.environment = {**self.fakes.pretend_jetson(root, jetpack=jetpack), "TMPDIR": str(self.temporary)}
        self.is_old = self.fakes.jetpacks()[jetpack]["tensorrt"][0] < 10
        self.file = root / "agent.pyz"
        self.file.write_bytes(self.fakes.compiled(agent_bytes()))
        (root / "model.onnx").write_bytes(b"onnx")
        self.build("model.onnx", "model.plan")

    def build(self, onnx: str, plan: str, *options: str) -> None:
        """Makes a plan without the agent."""
        command = [self.root / "bin" / "trtexec", f"--onnx={self.root / onnx}", f"--saveEngine={self.root / plan}"]
        command += ["--int8" if self.is_old else "--stronglyTyped", *options]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout

    def start(self, *arguments: str, python: str = sys.executable, **more: str) -> subprocess.Popen[str]:
        """One job of the agent, its stdin held open."""
        return subprocess.Popen(
            [python, str(self.file), *arguments],
            env={**self.environment, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.root,
        )

    def run(self, *arguments: str, python: str = sys.executable, **more: str) -> tuple[int, dict]:
        """Exit code and answer."""
        process = self.start(*arguments, python=python, **more)
        out, err = process.communicate(timeout=_PATIENCE_S)
        assert "Traceback" not in err
        return process.returncode, json.loads(out.splitlines()[-1])

    def measure(self, *options: str, python: str = sys.executable, **more: str) -> tuple[int, dict]:
        """A short measurement of model.plan, two images in a call."""
        short = ["--warmup-s", "0", "--duration-s", "10", "--idle-s", "0.5", "--batch", "2"]
        return self.run("measure", "--engine", "model.plan", *short, *options, python=python, **more)

    def refusal(self, *arguments: str, **more: str) -> str:
        """The one line with which a job that cannot be done ends."""
        code, answer = self.run(*arguments, **more)
        assert (code, list(answer)) == (4, ["error"]), answer
        assert "\n" not in answer["error"]
        return str(answer["error"])

    def pack(self, folder: str, images: np.ndarray, tables: np.ndarray, part: int = 3) -> Path:
        """Images (N, C, H, W) as the other computer packs them."""
        path, rows = self.root / folder, []
        path.mkdir()
        for index, first in enumerate(range(0, len(images), part)):
            chunk, name = images[first : first + part], f"part-{index:05d}.bin"
            (path / name).write_bytes(chunk.tobytes())
            rows.append({"name": name, "n": len(chunk)})
        fields = {"shape": images.shape[1:], "n": len(images), "dtype": str(images.dtype), "parts": rows}
        (path / "index.json").write_text(json.dumps({**fields, "tables": tables.tolist()}))
        return path

    def clock(self) -> tuple[str, ...]:
        """Lowest and highest clock of the GPU in Hz."""
        folder = next((self.root / "sys/class/devfreq").iterdir())
        return tuple((folder / key).read_text().strip() for key in ("min_freq", "max_freq"))

    def strays(self) -> list[str]:
        """Programs of the board that still run."""
        return self.fakes.programs_with(str(self.root))

    def left(self) -> list[str]:
        """Names in the board's folder for temporary files, and of what is written down."""
        return [path.name for folder in (self.temporary, self.kept) if folder.exists() for path in folder.iterdir()]

    @property
    def kept(self) -> Path:
        """Where the agent writes down what it changes."""
        return self.root / "var/tmp" / place().name

    @staticmethod
    def wait_until(is_so: Callable[[], bool]) -> None:
        """Raises AssertionError after ten seconds."""
        for _ in range(500):
            if is_so():
                return
            time.sleep(0.02)
        raise AssertionError("it never came to that")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """JetPack 6.2; nothing of a test may still run or hold the board after it."""
    one = Bench(tmp_path)
    yield one
    assert one.strays() == []
    assert LOCK_NAME not in one.left()


@pytest.fixture(scope="session")
def bench_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bench]:
    """`bench_of("4.6")`: one board of each JetPack for all tests that only evaluate."""
    made: dict[str, Bench] = {}

    def make(jetpack: str) -> Bench:
        if jetpack not in made:
            made[jetpack] = Bench(tmp_path_factory.mktemp("board") / jetpack, jetpack)
        return made[jetpack]

    return make
