"""What a message advises does its work as it is typed, in a folder with a blank and where no data is remembered."""

from __future__ import annotations

import re
import shlex

import pytest

_COMMAND = re.compile(r"\bedgeres .+?(?=; | and edgeres|, or edgeres|, then|\n|$)")
_WORDS = {"DATA": "digits", "N": "1"}


@pytest.fixture
def follow(edgeres):
    """`follow(text)` types the commands that are advised there, with words of the user's for ours."""

    def followed(text):
        commands = _COMMAND.findall(text)
        for command in commands:
            code, _, err = edgeres(*(_WORDS.get(word, word) for word in shlex.split(command)[1:]))
            assert code == 0, f"{command}: {err}"
        return [command.split()[1] for command in commands]

    return followed


@pytest.fixture
def mine(edgeres, checkpoint_of, spec_of, tmp_path, monkeypatch):
    """The run `my net` in a folder with a blank, begun with a file that names no data."""
    monkeypatch.setenv("EDGERES_RUNS", str(tmp_path / "my runs"))
    file = checkpoint_of(spec_of("resnet8"), "my net.safetensors").path
    assert edgeres("import", file, "--run", "my net")[0] == 0
    return tmp_path / "my runs" / "my net"


def test_what_gate_advises_can_be_typed(edgeres, mine, follow):
    _, out, _ = edgeres("gate", "my net", "--max-loss", 100)
    assert follow(out) == ["eval", "prune", "export", "calibrate", "quantize"]
    _, out, _ = edgeres("gate", "my net", "--max-loss", 100)
    assert follow(out) == ["eval"]
    assert edgeres("gate", "my net", "--max-loss", 100)[0] == 0


def test_what_a_page_advises_can_be_typed(edgeres, mine, follow):
    assert edgeres("report", "my net", "--no-html")[0] == 0
    (todo,) = re.findall(r"not evaluated; (.*)\.\n", (mine / "report.md").read_text())
    assert follow(todo) == ["eval"]


def test_what_is_advised_of_a_file_in_no_run_can_be_typed(edgeres, mine, follow):
    assert edgeres("export", "--run", "my net", "--out", "a net.onnx")[0] == 0
    _, _, err = edgeres("quantize", "a net.onnx", "--out", "int8.onnx")
    assert follow(err) == ["calibrate"]
    assert edgeres("quantize", "a net.onnx", "--scales", "SCALES.json", "--out", "int8.onnx")[0] == 0


def test_a_function_that_a_run_names_as_its_data_is_named_anew(edgeres, mine, follow, tmp_path):
    code = "from edgeres.data import dataset_from\ndef data(): return dataset_from('digits')\n"
    (tmp_path / "mine.py").write_text(code)
    assert edgeres("eval", "--run", "my net", "--data", "mine:data")[0] == 0
    assert edgeres("prune", "--run", "my net", "--modules", "layer1.0")[0] == 0
    _, out, _ = edgeres("gate", "my net", "--max-loss", 100)
    assert out.rstrip().endswith("--data mine:data")
    assert follow(out) == ["eval"]
