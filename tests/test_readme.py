"""The README is the manual and is true: its commands run, its tables are the measured ones."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.pipeline.recipe import Recipe, planned

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIDE = 64


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with `photos/` (three classes of made-up images) and `model.pth` (a ResNet-18 with random weights)."""
    import torch

    from edgeres.models import network_from, spec_from_arch

    folder = tmp_path_factory.mktemp("readme")
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 6)):
        for number, name in enumerate(("ant", "bee", "fly")):
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (SIDE + 16, SIDE + 8, 3)) + 60 * number
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    torch.manual_seed(0)
    network = network_from(spec_from_arch("resnet18", num_classes=3))
    torch.save({"state_dict": network.state_dict()}, folder / "model.pth")
    return folder


def test_there_are_commands_to_test():
    assert sum(block.count("edgeres") for block in blocks("sh")) > 15


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.split("\n")[0][:40])
def test_commands_run_as_written(workplace, block):
    for line in block.replace("\\\n", "").strip().splitlines():
        program, *arguments = shlex.split(line)
        assert program == "edgeres"
        done = subprocess.run(
            [sys.executable, "-m", "edgeres", *arguments],
            cwd=workplace,
            env={"PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(workplace)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out) <= 1


def test_the_recipe_example_is_valid(workplace, monkeypatch):
    from edgeres.core.config import tomllib

    monkeypatch.chdir(workplace)
    (text,) = blocks("toml")
    assert planned(Recipe.model_validate(tomllib.loads(text)), "README")


def test_tables_are_those_of_the_measured_runs():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "tools" / "readme_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.with_tables(README) == README
    assert README.count("<!-- table: ") >= 2
    assert "| stage |" in README


def test_every_exit_code_of_the_error_tree_is_documented():
    from edgeres.core.errors import DeviceError, EdgeresError, InputError, MissingDependency, StageError

    for kind in (EdgeresError, InputError, MissingDependency, DeviceError, StageError):
        assert f"| {kind.exit_code} | " in README
