"""`edgeres run --on NAME`, without a board: what is refused before, and that the run's table comes once, at the end."""

import json

import pytest

from edgeres.core.errors import DeviceError

RECIPE = """
name = "tiny"
data = "digits"
[[stage]]
use = "train"
arch = "resnet8"
epochs = 1
[[stage]]
use = "report"
html = false
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def test_a_dry_run_refuses_an_unknown_board_and_lists_the_step_of_a_known_one(edgeres, recipe, runs_folder):
    code, out, err = edgeres("run", recipe, "--on", "dusk", "--dry-run")
    assert (code, out) == (2, "")
    assert "no board 'dusk'; did you mean desk?" in err
    code, out, _ = edgeres("run", recipe, "--on", "desk", "--dry-run")
    assert code == 0
    assert out.splitlines()[-1].split() == ["NN-board", "on=desk"]
    _, out, _ = edgeres("run", recipe, "--on", "desk", "--dry-run", "--json")
    assert json.loads(out.splitlines()[-1]) == {"folder": "NN-board", "stage": "board", "config": {"on": "desk"}}
    _, out, _ = edgeres("run", recipe, "--dry-run")
    assert "board" not in out
    assert not runs_folder.exists()


def test_a_dry_run_refuses_a_session_on_a_board_that_its_own_limit_would_end(edgeres, recipe):
    bench = '[[stage]]\nuse = "bench"\non = "desk"\nduration_s = 20\ntimeout_s = '
    recipe.write_text(f"{RECIPE}{WHOLE}{bench}22\n")
    code, out, err = edgeres("run", recipe, "--dry-run")
    assert (code, out) == (2, "")
    assert "stage 03-bench: --timeout-s 22 would end a run, which takes 22 s" in err
    recipe.write_text(f"{RECIPE}{WHOLE}{bench}23\n")
    assert edgeres("run", recipe, "--dry-run")[0] == 0


WHOLE, CUT = '[[stage]]\nuse = "export"\n', '[[stage]]\nuse = "prune"\ndrop = 1\n'


@pytest.mark.parametrize(
    ("stages", "on", "is_warned"),
    [
        (CUT + WHOLE, ["--on", "desk"], True),
        (CUT + WHOLE + '[[stage]]\nuse = "bench"\non = "desk"\n', [], True),
        (WHOLE + "half = true\n" + CUT + WHOLE, ["--on", "desk"], True),
        (CUT + WHOLE, [], False),
        (WHOLE + CUT + WHOLE, ["--on", "desk"], False),
        (WHOLE, ["--on", "desk"], False),
    ],
)
def test_a_whole_network_that_no_board_can_time_is_missed_before_anything_runs(edgeres, recipe, stages, on, is_warned):
    recipe.write_text(RECIPE + stages)
    code, _, err = edgeres("run", recipe, "--dry-run", *on)
    assert code == 0
    missing = "the whole network is never exported in FP32, so that no speed-up over it can be told on desk"
    said = err.startswith(f'warning: {missing}: put [[stage]] use = "export" before stage ')
    assert (said, err == "") == (is_warned, not is_warned)


def test_the_runs_table_comes_once_after_the_board_even_one_that_fails(edgeres, recipe, runs_folder, monkeypatch):
    def lost(run, request):
        raise DeviceError("desk: the connection was lost")
        yield

    monkeypatch.setattr("edgeres.cli.run.check_board", lambda name: None)
    monkeypatch.setattr("edgeres.cli.run.board_of_run", lambda run, request: iter(()))
    code, out, _ = edgeres("run", recipe, "--on", "desk")
    assert code == 0
    assert out.count("tiny: report.md, report.json") == 1
    assert out.index("board desk") < out.index("report.md, report.json")
    assert not (runs_folder / "tiny" / "report.html").exists()
    monkeypatch.setattr("edgeres.cli.run.board_of_run", lost)
    code, out, err = edgeres("run", recipe, "--on", "desk")
    assert (code, out.count("report.md, report.json")) == (4, 1)
    assert err.splitlines()[-1] == "edgeres: desk: the connection was lost"


def test_warnings_of_a_reused_step_are_printed_once_and_stay_in_the_report(edgeres, recipe, runs_folder):
    judged = '[[stage]]\nuse = "export"\n[[stage]]\nuse = "eval"\nimages = 60\n'
    recipe.write_text(RECIPE.replace('[[stage]]\nuse = "report"', judged + '[[stage]]\nuse = "report"'))
    warned = "evaluated on 60 of the val images only"
    assert edgeres("run", recipe)[2].count(f"warning: {warned}") == 1
    code, out, err = edgeres("run", recipe)
    assert (code, "[3/4] eval (reused)" in out, warned in err) == (0, True, False)
    assert "1 warning as before, listed by: edgeres report tiny" in err.splitlines()
    assert warned in (runs_folder / "tiny" / "report.md").read_text()
    assert edgeres("run", recipe, "--json")[1].count(warned) >= 2


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--set", "import.file=mine:net"), "network 'mine:net'"),
        (("--data", "mine:photos"), "data set 'mine:photos'"),
        (("--set", "eval.metric=mine:score"), "metric 'mine:score'"),
    ],
)
def test_a_dry_run_looks_for_a_function_and_says_that_it_did_not_call_it(edgeres, tmp_path, monkeypatch, words, what):
    path, mine = tmp_path / "own.toml", tmp_path / "mine.py"
    mine.write_text("raise RuntimeError('ran')\n")
    file = 'use = "train"\narch = "resnet8"' if "mine:net" not in what else 'use = "import"'
    path.write_text(f'name = "own"\ndata = "digits"\n[[stage]]\n{file}\n[[stage]]\nuse = "eval"\n')
    monkeypatch.chdir(tmp_path)
    code, _, err = edgeres("run", path, "--dry-run", *words)
    assert (code, err) == (0, f"not checked: {what.split(chr(39))[1]} is called by the run alone; its module is here\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, err = edgeres("run", path, "--dry-run", *words)
    assert (code, out) == (2, "")
    assert f"{what}: there is no module mine here; run it in the folder that has it" in err
