"""README.md and the help pages are true: their commands run as written, their tables are the measured ones."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from edgeres.cli.main import _run
from edgeres.pipeline.recipe import Recipe, planned

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "edgeres" / "help").glob("*.md"))]
SIDE = 64
IN_PROCESSES = ("edgeres doctor",)  # blocks that begin so are run as a shell would
DEAR = ("edgeres bench --per-module", "edgeres compare")  # blocks that wait for clocks: in make exhaustive
NARROW, WIDE = 8, 64  # channels of the first stage of model.pth: in make test, in make exhaustive
SHORTER = {  # said instead, or appended, in make test; make exhaustive runs the lines as they are
    r"bench$": "runs/latest/05-export/model.onnx --rounds 2 --seconds 0.2 --samples 4",
    r"bench net.onnx$": "--rounds 2 --seconds 0.2 --samples 4",
    r"recover$": "--images 30 --epochs 1",
    r"lesion$": "--draws 0",
    r"run prune4-int8 ": "--dry-run",
    r"optimize ": "--budget 10m",  # which a busy machine needs; it ends sooner
}


def blocks(language: str) -> list[pytest.param]:
    """The fenced blocks of all pages, each named after its page."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    found = {
        f"{page.stem}-{number}": text
        for page in PAGES
        for number, text in enumerate(fence.findall(page.read_text("utf-8")))
    }
    return [pytest.param(text, id=name) for name, text in found.items()]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """What a reader has, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "readme"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make_workplace(folder.with_suffix(".part"))
            folder.with_suffix(".part").rename(folder)
    return folder


def make_workplace(folder: Path) -> None:
    """`photos/`, `model.pth` (ResNet-18), `net.onnx` and `mynets.py` of other tools, a run of a small network."""
    draw_photos(folder / "photos")
    save_model(folder / "model.pth", NARROW)
    export_elsewhere(folder / "net.onnx")
    (folder / "mynets.py").write_text(
        "import torch\nimport torchvision\nfrom torchvision.models.resnet import BasicBlock\n"
        "\n\ndef small():\n    return torchvision.models.resnet18(num_classes=3)\n"
        "\n\ndef embedding():\n    net = small()\n"
        "    net.conv1, net.bn1 = torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8)\n"
        "    net.layer1, net.layer2 = (torch.nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8)) for _ in range(2))\n"
        "    net.layer3 = net.layer4 = net.fc = torch.nn.Identity()\n    return net\n"
    )
    with at(folder):
        for line in (
            "train resnet14 --data digits --epochs 1",
            "export",
            "prune runs/latest/00-train/model.safetensors --modules layer1.1 --images 60 -o short.safetensors",
            "export runs/latest/00-train/model.safetensors -o float.onnx",
            "export short.safetensors -o short.onnx",
            "calibrate float.onnx --data digits --images 64 -o scales.json",
            "quantize float.onnx --scales scales.json -o int8.onnx",
        ):
            call(line)
        quantize_elsewhere(folder / "float.onnx", folder / "theirs.onnx")


def draw_photos(folder: Path) -> None:
    """Three classes of made-up images."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 6)):
        for number, name in enumerate(("ant", "bee", "fly")):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (SIDE + 16, SIDE + 8, 3)) + 60 * number
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")


def resnet18(width: int):
    """With random weights."""
    import torch

    from edgeres.models import network_from, spec_from_arch

    torch.manual_seed(0)
    return network_from(spec_from_arch("resnet18", num_classes=3, options={"width": width}))


def save_model(path: Path, width: int) -> None:
    import torch

    torch.save({"state_dict": resnet18(width).state_dict()}, path)


def export_elsewhere(path: Path) -> None:
    """A small residual network as torch exports it."""
    import torch
    from torch import nn
    from torchvision.models.resnet import BasicBlock

    torch.manual_seed(0)
    body = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), BasicBlock(8, 8), BasicBlock(8, 8)
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, 3, SIDE, SIDE),), str(path), dynamo=False)


def quantize_elsewhere(source: Path, target: Path) -> None:
    """A Q/DQ file as ONNX Runtime writes it at its defaults."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    from edgeres.core.artifacts import OnnxModel
    from edgeres.data import dataset_from

    sample = dataset_from("digits").train.sample(64, 0)

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = ({"images": images} for images, _ in sample.batches(OnnxModel(source).spec, 1))

        def get_next(self):
            return next(self.batches, None)

    quantize_static(source, target, Images())


@contextlib.contextmanager
def at(folder: Path):
    """In `folder`, with its runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EDGERES_RUNS", "runs")
        patch.setenv("HOME", str(folder))
        yield


def call(line: str) -> None:
    """`edgeres LINE` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["edgeres", "-q", *shlex.split(line)])
        assert _run() == 0, line


@pytest.fixture
def copy(workplace, tmp_path):
    """The workplace, for one block alone."""
    folder = tmp_path / "workplace"
    shutil.copytree(workplace, folder, symlinks=True, copy_function=os.link)
    with at(folder):
        yield folder


def lines_of(block: str) -> list[str]:
    return block.replace("\\\n", "").strip().splitlines()


def shortened(words: str) -> str:
    """The command with what makes it shorter, in place of what it says of the same option."""
    for more in (more for start, more in SHORTER.items() if re.match(start, words)):
        for option in re.findall(r"--[\w-]+", more):
            words = re.sub(rf" {option} \S+", "", words)
        words += f" {more}"
    return words


def is_shortened(block: str) -> bool:
    shorter = any(shortened(words) != words for words in (line.split(maxsplit=1)[1] for line in lines_of(block)))
    return shorter or "model.pth" in block or block.startswith(DEAR)


def run_block(block: str, folder: Path, *, shorter: bool) -> None:
    if not shorter:
        (folder / "model.pth").unlink()  # a link
        save_model(folder / "model.pth", WIDE)
    for line in lines_of(block):
        program, words = line.split(maxsplit=1)
        assert program == "edgeres"
        if shorter:
            words = shortened(words)
        if block.startswith(IN_PROCESSES):
            environment = {"PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(folder), "EDGERES_RUNS": "runs"}
            done = subprocess.run([sys.executable, "-m", "edgeres", *shlex.split(words)], env=environment)
            assert done.returncode == 0, line
        else:
            call(words)


@pytest.fixture
def narrow_library(monkeypatch):
    """What torchvision calls resnet18 has the width of model.pth."""
    import torchvision

    builder = functools.wraps(torchvision.models.resnet18)(lambda **_: resnet18(NARROW))
    monkeypatch.setattr(torchvision.models, "resnet18", builder)
    monkeypatch.setitem(torchvision.models._api.BUILTIN_MODELS, "resnet18", builder)


@pytest.mark.slow
@pytest.mark.parametrize("block", [one for one in blocks("sh") if not one.values[0].startswith(DEAR)])
def test_commands_run(copy, block, request):
    if "torchvision/" in block:
        request.getfixturevalue("narrow_library")
    if "edgeres optimize" in block or "bench net.onnx" in block:
        request.getfixturevalue("timed_within")
    run_block(block, copy, shorter=True)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("block", [one for one in blocks("sh") if is_shortened(one.values[0])])
def test_commands_run_as_written(copy, block):
    run_block(block, copy, shorter=False)


def test_there_are_commands_to_test():
    assert sum(len(lines_of(param.values[0])) for param in blocks("sh")) > 30


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "example", "exec"), {})
    assert float(capsys.readouterr().out) >= 0


@pytest.mark.parametrize("text", blocks("toml"))
def test_recipe_examples_are_valid(text, workplace, monkeypatch):
    from edgeres.core.config import tomllib

    monkeypatch.chdir(workplace)
    assert planned(Recipe.model_validate(tomllib.loads(text)), "example")


def tables_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "tools" / "readme_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_measured_runs():
    tables = tables_module()
    for page in tables.PAGES:
        text = page.read_text("utf-8")
        assert tables.with_tables(text) == text, f"python tools/readme_tables.py: {page}"


def test_every_exit_code_of_the_error_tree_is_documented():
    from edgeres.core.errors import DeviceError, EdgeresError, InputError, MissingDependency, StageError

    page = (ROOT / "edgeres" / "help" / "json.md").read_text("utf-8")
    for kind in (EdgeresError, InputError, MissingDependency, DeviceError, StageError):
        assert f"| {kind.exit_code} | " in page
