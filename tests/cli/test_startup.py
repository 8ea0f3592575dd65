"""The command line starts at once and the base install works without the heavy packages."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from edgeres.cli.main import COMMANDS, STAGE_COMMANDS, _run, cli
from edgeres.cli.options import options_of
from edgeres.cli.study import STUDIES
from edgeres.core.errors import InputError
from edgeres.core.progress import budget_began
from edgeres.pipeline.recipe import MEASURES
from edgeres.pipeline.stages import STAGES

HEAVY = (
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "numpy",
    "pydantic",
    "rich",
    "matplotlib",
    "accelerate",
)
BLOCKED = ("torch", "torchvision", "safetensors", "accelerate", "onnx", "onnxruntime", "matplotlib", "jinja2")


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom edgeres.cli.main import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        f"found = [name for name in {HEAVY!r} if name in sys.modules]\nassert not found, found"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [("doctor",), ("doctor", "--json"), ("show", "resnet56"), ("ls", "models"), ("agree", "--help")]
)
def test_the_base_install_answers_without_torch_and_onnx(arguments):
    blocked = f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
    done = run_python(blocked + "from edgeres.cli.main import main; main()", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_checkpoint_is_shown_without_torch(checkpoint_of, spec_of):
    path = checkpoint_of(spec_of("resnet14").without(("layer1.1",))).path
    blocked = f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
    done = run_python(blocked + "from edgeres.cli.main import main; main()", "show", str(path))
    assert done.returncode == 0, done.stderr
    assert "layer1.1" in done.stdout
    assert "dropped" in done.stdout


@pytest.mark.parametrize(("option", "value"), [("--latency", "0.5"), ("--budget", "soon"), ("--plan", "gone.toml")])
def test_what_optimize_cannot_be_asked_is_refused_before_torch_is_imported(option, value):
    blocked = f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
    words = ("optimize", "gone.pth", "--data", "folder:gone", option, value)
    done = run_python(blocked + "from edgeres.cli.main import main; main()", *words)
    assert (done.returncode, f"{option} {value}" in done.stderr.replace("'", "")) == (2, True), done.stderr


DEVICE_SIDE = (
    "edgeres.core.runs",
    "edgeres.bench.stage",
    "edgeres.report.stage",
    "edgeres.compile.stage",
    "edgeres.runtime.ort",
    "edgeres.evaluate.stage",
    "edgeres.data",
    "edgeres.pipeline.chain",
    "edgeres.quantize.stage",
    "edgeres.prune.config",
    "edgeres.costs.stage",
    "edgeres.prune.goals",
    "edgeres.bench.versus",
    "edgeres.report.gate",
    "edgeres.report.changes",
    "edgeres.pipeline.rerun",
    "edgeres.pipeline.show",
)


def test_the_device_side_imports_without_torch():
    done = run_python(f"import sys; sys.modules['torch'] = None; import {', '.join(DEVICE_SIDE)}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [*STAGE_COMMANDS, *COMMANDS])
def test_every_command_has_help(name):
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Usage" in done.output


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_help(name):
    done = CliRunner().invoke(cli, ["study", name, "--help"])
    assert done.exit_code == 0, done.output
    assert "--data" in done.output


def test_every_stage_is_a_command():
    others = {"latency": "bench --per-module", "sweep": "prune --sweep", "optimize": "optimize"}
    assert STAGE_COMMANDS.keys() | STUDIES.keys() | others.keys() == STAGES.keys()
    assert MEASURES.keys() <= COMMANDS.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_every_config_field_is_described_and_becomes_an_option(stage):
    kind = STAGES[stage].config_class()
    assert all(field.description for field in kind.model_fields.values())
    parameters = options_of(kind)(lambda **_: None).__click_params__
    assert {parameter.name for parameter in parameters} == set(kind.model_fields)


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (("recover", "x.safetensors"), "edgeres.cli.stages.call"),
        (("optimize", "x.safetensors"), "edgeres.optimize.calls.optimize_call"),
    ],
)
def test_a_budget_counts_from_the_start_of_the_process(words, called, monkeypatch):
    import edgeres.__main__ as entry

    def at_work(*_):
        told.append(budget_began())
        raise InputError("seen")

    def main(began_s):
        told.append(began_s)
        _run(began_s)

    told = []
    monkeypatch.setattr(called, at_work)
    monkeypatch.setattr("edgeres.cli.main.main", main)
    monkeypatch.setattr("sys.argv", ["edgeres", *words])
    entry.main()
    assert told[0] == told[1] < time.perf_counter()
