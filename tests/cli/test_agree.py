from __future__ import annotations

import json

import pytest

DATA = ("--data", "digits", "--images", 40, "--threads", 1)


@pytest.fixture
def edgeres(aloud):
    return aloud


@pytest.fixture
def files(spec_of, checkpoint_of, exported):
    checkpoint = checkpoint_of(spec_of("resnet8"))
    other = checkpoint_of(spec_of("resnet8"), "other.safetensors", seed=1)
    return checkpoint.path, exported(checkpoint, ".").path, other.path


def test_a_table_of_modules_and_the_figures_are_printed(edgeres, files):
    code, out, _ = edgeres("agree", *files[:2], *DATA)
    assert code == 0
    assert "same top-1 on 40 of 40 images of digits val" in out
    assert "layer2.0" in out
    assert "no module drifts" in out


def test_json_holds_the_raw_counts(edgeres, files):
    code, out, _ = edgeres("agree", *files[:2], *DATA, "--json")
    found = json.loads(out)
    assert (code, found["schema_version"]) == (0, 1)
    assert (found["n"], found["same_top1"]) == (40, 40)
    assert [module["name"] for module in found["modules"]] == ["layer1.0", "layer2.0", "layer3.0"]


def test_broken_rules_give_a_line_each_and_exit_code_1(edgeres, files):
    code, _, err = edgeres("agree", files[0], files[2], *DATA, "--min-agreement", 0.995, "--min-sqnr", 35)
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("edgeres: agree:")]
    assert len(lines) == 2
    assert "is below 99.50%" in lines[0]
    assert "is below 35 dB" in lines[1]


def test_rules_that_hold_give_exit_code_0(edgeres, files):
    assert edgeres("agree", *files[:2], *DATA, "--min-agreement", 0.995, "--min-sqnr", 35)[0] == 0


def test_one_onnx_file_alone_is_compared_on_two_runtimes(edgeres, files):
    _, out, _ = edgeres("agree", files[1], *DATA)
    assert "fp32, torch" in out
    assert "fp32, onnxruntime" in out


def test_without_files_the_newest_int8_file_of_the_run_is_held_against_its_float_one(edgeres, files):
    assert edgeres("import", files[0], "--run", "mine")[0] == 0
    code, _, err = edgeres("agree", *DATA)
    assert code == 2
    assert (
        "runs/mine holds no INT8 file for `edgeres agree`; name two files, or make it: edgeres quantize --run mine"
        in err
    )
    for command in (("export",), ("calibrate", "--data", "digits", "--images", 60), ("quantize", "--effort", "quick")):
        assert edgeres(*command)[0] == 0
    code, out, err = edgeres("agree", *DATA[2:])
    assert code == 0, err
    a, b = (line.split(" ")[1] for line in out.splitlines()[:2])
    assert a.endswith("runs/mine/01-export/model.onnx")
    assert "runs/mine/03-quantize/" in b
    assert edgeres("agree", a, b, *DATA[2:])[0] == 0  # on the run's own data set, named or not


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--runtimes", "torch"), "name two"),
        (("--runtimes", "torch,fusd"), "did you mean fused"),
        (("--runtimes", "literal,torch"), "onnxruntime does not execute"),
        (("--min-agreement", "99.5"), "--min-agreement"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(edgeres, files, arguments, message):
    code, _, err = edgeres("agree", *files[:2], *DATA, *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
