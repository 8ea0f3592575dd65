"""A file of somebody else's runs nothing, replaces nothing and says nothing to the terminal."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest

EVIL = 'open("PWNED", "w").write("imported")\ndef f():\n    open("PWNED", "w").write("called")\n'


@pytest.fixture(scope="module")
def made(run_of, tmp_path_factory):
    """A run of five stages, evaluated."""
    return run_of(tmp_path_factory.mktemp("made"), {"use": "eval"})


@pytest.fixture
def run(made, runs_folder, tmp_path):
    """A copy of the run, with `evil.py` in the present folder."""
    shutil.copytree(made, runs_folder / "made", symlinks=True)
    (runs_folder / "latest").symlink_to("made")
    (tmp_path / "evil.py").write_text(EVIL)
    yield runs_folder / "made"
    sys.modules.pop("evil", None)


def infected(run, name):
    """The run with `name` in place of every data set its files name."""
    for path in (*run.glob("*/*.json"), run / "recipe.toml"):
        path.write_text(re.sub(r'"digits"', json.dumps(name), path.read_text()))
    assert name in (run / "recipe.toml").read_text()


COMMANDS = {
    "eval": ["eval", "--images", "20"],
    "calibrate": ["calibrate", "-o", "s.json"],
    "prune": ["prune", "RUN/00-import/model.safetensors", "--drop", "1", "-o", "p.safetensors"],
    "lesion": ["lesion", "-o", "l.json"],
    "quantize": ["quantize", "RUN/03-export/model.onnx", "--scales", "S", "--method", "auto", "-o", "q.onnx"],
    "rerun": ["rerun", "made"],
    "run": ["run", "RUN/recipe.toml", "--name", "again"],
    "report": ["report", "made", "--no-html"],
    "show": ["show", "RUN"],
    "gate": ["gate", "made", "--max-loss", "99"],
}


@pytest.mark.parametrize("name", ["evil:f", "os:abort", "Folder:f", ":f"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_function_that_a_file_names_is_not_run(edgeres, run, tmp_path, command, name):
    infected(run, name)
    words = [
        word.replace("RUN", str(run)).replace("S", f"{run}/04-calibrate/scales.json") for word in COMMANDS[command]
    ]
    code, _, err = edgeres(*words)
    assert not (tmp_path / "PWNED").exists()
    if command not in {"report", "show", "gate"}:
        assert code == 2
        assert f"if you trust it, name it yourself: --data {name}" in err
        may_do_without = command in {"prune", "quantize"}  # a warning, and the refusal where images are looked for
        assert err.count("\n") == 1 + may_do_without


def test_a_function_the_user_names_is_run(edgeres, run, tmp_path):
    (tmp_path / "evil.py").write_text(
        "from edgeres.data import dataset_from\ndef f():\n    return dataset_from('digits')\n"
    )
    infected(run, "evil:f")
    assert edgeres("eval", "--images", 20, "--data", "evil:f")[0] == 0
    assert edgeres("run", run / "recipe.toml", "--name", "again", "--data", "evil:f", "--dry-run")[0] == 0
