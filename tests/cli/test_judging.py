"""gate, compare, rerun and show at the command line: exit codes, one line of error, JSON on stdout."""

import json

import pytest


@pytest.fixture
def one(edgeres, checkpoint_of, spec_of, tmp_path):
    """The run `one` of one.toml, evaluated."""
    file = checkpoint_of(spec_of("resnet8")).path
    recipe = f'name = "one"\ndata = "digits"\n[[stage]]\nuse = "import"\nfile = "{file}"\n'
    recipe += '[[stage]]\nuse = "export"\n[[stage]]\nuse = "eval"\n'
    (tmp_path / "one.toml").write_text(recipe)
    assert edgeres("run", "one.toml")[0] == 0


@pytest.fixture
def run_twice(edgeres, one):
    """The runs `one` and `one-again`."""
    return edgeres("rerun", "one")


def test_runs_are_made_again_compared_gated_and_shown(edgeres, run_twice, tmp_path):
    code, out, err = run_twice
    assert code == 0, err
    assert [line.split()[:2] for line in out.splitlines()] == [["identical", "00-import"], ["identical", "01-export"]]
    code, out, _ = edgeres("compare", "one", "one-again")
    assert code == 0
    assert "options: the same" in out
    assert out.count("file: identical") == 2
    code, out, err = edgeres("gate", "one", "--max-loss", "0.5", "--min-agreement", "0.9", "--junit", "gate.xml")
    assert (code, err) == (0, "")
    assert [line[:4] for line in out.splitlines()] == ["pass", "pass"]
    code, out, err = edgeres("gate", "one", "--max-p99", "5ms", "--max-size", "1B")
    assert code == 1
    assert [line[:4] for line in out.splitlines()] == ["FAIL", "FAIL"]
    assert "not measured: 01-export was not timed: edgeres bench --run one" in out
    assert err.endswith("edgeres: gate: 2 of 2 rules broken by one\n")
    code, out, err = edgeres("gate", "one", "--max-loss", "1", "--on", "nowhere")
    assert (code, out) == (2, "")
    assert err.startswith("edgeres: no board 'nowhere'")
    for arguments in (["compare", "one", "one-again"], ["gate", "one", "--max-loss", "1"], ["show", "one"]):
        code, out, _ = edgeres(*arguments, "--json")
        assert code == 0
        assert json.loads(out)
    for path in tmp_path.glob("runs/one/*/eval.json"):
        path.unlink()
    code, out, err = edgeres("gate", "one", "--max-loss", "1", "--junit", "none.xml")
    assert (code, err) == (1, "edgeres: gate: 1 of 1 rules broken by one\n")
    assert "holds no evaluated network; evaluate one: edgeres eval --run one" in (tmp_path / "none.xml").read_text()
    code, out, err = edgeres("rerun", "one", "--name", "one")
    assert (code, out) == (2, "")
    assert "compare runs or model files, not both" in edgeres("compare", "model.safetensors", "one")[2]


@pytest.mark.slow
def test_what_comes_after_the_page_says_that_the_page_is_older(aloud, one, runs_folder):
    page, (file,) = runs_folder / "one/report.html", runs_folder.glob("one/*-export/*.onnx")
    older = f"{page} is older and does not show it; to make it anew: edgeres report one"
    for command in (
        "eval --run one",
        "export --run one",
        "bench --run one --samples 5",
        f"agree {file}",
        "run one.toml --from export",
    ):
        page.write_text("made by edgeres report")
        code, _, err = aloud(*command.split())
        assert code == 0, err
        assert err.splitlines().count(older) == 1
    pytest.importorskip("matplotlib")
    for option, count in (("--no-html", 1), ("--html", 0)):
        assert aloud("report", "one", option)[2].splitlines().count(older) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gate"], "no rule given"),
        (["gate", "nosuch", "--max-loss", "1"], "no run 'nosuch'"),
        (["gate", "--max-loss", "1"], "no current run"),
        (["gate", "--max-loss", "-1"], "--max-loss"),
        (["gate", "--min-agreement", "2"], "--min-agreement"),
        (["gate", "--max-p99", "5"], "write it as 5ms"),
        (["compare", "a"], "name two runs"),
        (["compare", "a", "b"], "no run 'a'"),
        (["compare", "a", "b", "--rounds", "9"], "--rounds is for model files"),
        (["compare", "a.onnx", "b.onnx"], "a.onnx does not exist"),
        (["compare", "model.safetensors", "nope"], "nope does not exist: it is no model file, and there is no run"),
        (["compare", "model.safetensors", "b.pt"], "there is no run 'b.pt'"),
        (["compare", "model.safetensors", "b.onnx", "nope"], "b.onnx does not exist"),
        (["compare", "a.onnx", "b.onnx", "--across"], "--across is for runs"),
        (["compare", "model.safetensors"], "two models or more"),
        (["show"], "name a file, run, architecture or recipe"),
        (["show", "x.onnx", "--schema", "scales"], "name a file, run, architecture or recipe"),
        (["show", "--schema", "scale"], "did you mean scales"),
        (["rerun", "nosuch"], "no run 'nosuch'"),
        (["rerun"], "no current run"),
        (["show", "nosuch"], "no file, architecture, run or recipe"),
        (["show", "nosuch.json"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(edgeres, checkpoint_of, spec_of, arguments, message):
    checkpoint_of(spec_of("resnet8"))
    code, out, err = edgeres(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
