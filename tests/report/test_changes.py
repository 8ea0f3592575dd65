"""What changed between two runs is named; what cannot be compared is not compared, and says why."""

import re
import shutil
import sys
from itertools import pairwise

import pytest

from edgeres.cli.compare import _print_changes
from edgeres.core.config import record_from_json
from edgeres.core.environment import Environment
from edgeres.core.errors import InputError
from edgeres.core.stage import StageReport, write_report
from edgeres.report.changes import OptionDifference, changes_between
from edgeres.report.folder import run_folder_from
from edgeres.report.rows import rows_from
from edgeres.report.wording import cells

from .conftest import FakeRun


@pytest.fixture
def pair_of_runs(tmp_path):
    """Two runs: B drops one module more and has no lesion table."""
    runs = []
    for name, dropped in (("a", ("layer1.3",)), ("b", ("layer1.3", "layer2.5"))):
        path = tmp_path / name
        path.mkdir()
        run = FakeRun(path)
        folder, first = run.model("import", "model.safetensors", 3000, config={"file": "x.pt"})
        run.evaluated(folder, first, 0.92)
        if name == "a":
            run.lesion(first)
        teacher = {"drop": len(dropped), "teacher": f"runs/{name}/00-import/model.safetensors"}
        folder, pruned = run.model(
            "prune", "model.safetensors", 2000 - len(dropped), source=first, dropped=dropped, config=teacher
        )
        run.evaluated(folder, pruned, 0.90 - 0.01 * len(dropped))
        run.stage("bench", latency=(run.latency(first, 4.0), run.latency(pruned, 3.0, session=name)))
        runs.append(run)
    return runs


def changed(runs, **options):
    a, b = runs
    return changes_between(a.path, b.path, **options)


def test_options_that_differ_are_named_and_paths_into_the_run_itself_are_not(pair_of_runs):
    found = changed(pair_of_runs)
    assert [str(one) for one in found.recipe] == ["01-lesion: done -> none", "02-prune / 01-prune drop: 1 -> 2"]


def test_options_are_held_against_those_of_the_like_network_and_stages_of_one_run_are_a_line(tmp_path, capsys):
    """A quantizes the cut network alone, B the whole one before it."""
    for name, wholes in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        run = FakeRun(tmp_path / name)
        _, first = run.model("import", "model.safetensors", 3000)
        for dropped, effort in ([((), "full")] * wholes) + [(("layer1.3",), f"of {name}")]:
            _, file = run.model("export", "model.onnx", 2000 - len(dropped), source=first, dropped=dropped)
            run.calibrated(file)
            how = {"precision": "int8", "dropped": dropped, "config": {"effort": effort}}
            run.model("quantize", "model.onnx", 500 - len(dropped), source=file, **how)
    _print_changes(found := changes_between(tmp_path / "a", tmp_path / "b"), as_json=False)
    assert [(one.a, one.b) for one in found.results][1:] == [("01-export", "04-export"), ("03-quantize", "06-quantize")]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [
        "options",
        "  03-quantize / 06-quantize effort: of a -> of b",
        "  only in b: 01-export, 02-calibrate, 03-quantize",
    ]


def test_stages_are_matched_by_name_and_turn_and_accuracy_by_image(pair_of_runs):
    first, pruned = changed(pair_of_runs).results
    assert (pruned.a, pruned.b) == ("02-prune", "01-prune")
    assert first.same_file
    assert pruned.pair.n == 5000
    assert pruned.pair.points.value == pytest.approx(-1.0)
    assert any("points (95 %: " in line for line in pruned.lines)
    assert not any(" p = " in line for line in pruned.lines)  # the interval is the one statement of doubt
    assert any(line.startswith("MACs: ") for line in pruned.lines)
    assert "dropped: layer1.3 -> layer1.3, layer2.5" in pruned.lines


def test_macs_that_nobody_knows_are_compared_with_none(tmp_path, monkeypatch):
    runs = []
    for name, macs in (("a", 1_000_000), ("b", 0), ("c", 1_000_000)):
        monkeypatch.setattr(sys.modules[FakeRun.__module__], "MACS", macs)
        (tmp_path / name).mkdir()
        runs.append(FakeRun(tmp_path / name))
        runs[-1].model("import", "model.onnx", 3000)
    for a, b in pairwise(runs):
        (found,) = changed([a, b]).results
        assert not any(line.startswith("MACs") for line in found.lines)
        (row,) = rows_from(b.path).rows
        assert cells(row)["macs"] == ("–" if row.macs == 0 else "1.00 M",)


def test_networks_are_held_against_their_like_in_whatever_order_they_were_made(tmp_path):
    """A: whole in half precision, cut, whole; B: cut, whole."""
    runs = []
    whole, cut = ("fp32", ()), ("fp32", ("layer1.3",))
    for name, kinds in (("a", [("fp16", ()), cut, whole]), ("b", [cut, whole])):
        path = tmp_path / name
        path.mkdir()
        run = FakeRun(path)
        _, first = run.model("import", "model.safetensors", 3000)
        for precision, dropped in kinds:
            size = 2000 - 100 * len(dropped) - 500 * (precision == "fp16")
            run.model("export", "model.onnx", size, source=first, dropped=dropped, precision=precision)
        runs.append(run)
    found = {one.a: one for one in changed(runs).results}
    assert {name: one.b for name, one in found.items()} == {
        "00-import": "00-import",
        "02-export": "01-export",
        "03-export": "02-export",
    }
    assert not any("dropped" in line or "precision" in line for one in found.values() for line in one.lines)
    assert {one.a: one.b for one in changed([runs[1], runs[0]]).results}["02-export"] == "03-export"


def test_networks_without_their_like_are_compared_by_turn_and_say_what_differs(tmp_path):
    runs = []
    for name, precision in (("a", "fp16"), ("b", "fp32")):
        (tmp_path / name).mkdir()
        run = FakeRun(tmp_path / name)
        _, first = run.model("import", "model.safetensors", 3000)
        run.model("export", "model.onnx", 2000, source=first, precision=precision)
        runs.append(run)
    assert "precision: fp16 -> fp32" in changed(runs).results[1].lines


def test_predictions_that_are_gone_leave_accuracies_uncompared(pair_of_runs):
    (pair_of_runs[1].path / "01-prune" / "eval.npy").unlink()
    pruned = changed(pair_of_runs).results[1]
    assert pruned.pair is None
    assert any("top-1: not compared, the predictions of 01-prune are missing" in line for line in pruned.lines)


def test_latencies_of_one_machine_and_mode_are_compared_with_a_reservation(pair_of_runs):
    first = changed(pair_of_runs).results[0]
    assert first.latency_ratio.low <= 1 <= first.latency_ratio.high
    assert any("two sessions, drift between them is not in the interval)" in line for line in first.lines)


def test_latencies_of_invalid_sessions_say_so(pair_of_runs):
    stage = run_folder_from(pair_of_runs[1].path).stages[-1]
    said = {"session": stage.report.latency[0].session, "verdict": "invalid: machine busy"}
    write_report(stage.report.model_copy(update={"results": said}), stage.path / "report.json")
    line = next(line for line in changed(pair_of_runs).results[0].lines if line.startswith("latency: "))
    assert line.endswith("two sessions, drift between them is not in the interval; B: invalid: machine busy)")


@pytest.mark.parametrize(("field", "value"), [("machine", "Other CPU"), ("threads", 7), ("batch", 8)])
def test_latencies_of_another_machine_or_mode_are_refused_unless_asked_for(pair_of_runs, field, value):
    stage = run_folder_from(pair_of_runs[1].path).stages[-1]
    others = tuple(latency.model_copy(update={field: value}) for latency in stage.report.latency)
    write_report(stage.report.model_copy(update={"latency": others}), stage.path / "report.json")
    refused, across = changed(pair_of_runs).results[0], changed(pair_of_runs, across=True).results[0]
    assert refused.latency_ratio is None
    assert any("not compared" in line and str(value) in line and "--across" in line for line in refused.lines)
    assert across.latency_ratio is not None
    assert any("ACROSS" in line for line in across.lines)


def test_versions_that_differ_are_named(pair_of_runs):
    stage = run_folder_from(pair_of_runs[1].path).stages[0]
    packages = {**stage.report.environment.packages, "torch": "9.9"}
    other = Environment.model_validate({**stage.report.environment.model_dump(), "packages": packages})
    write_report(stage.report.model_copy(update={"environment": other}), stage.path / "report.json")
    assert [str(one) for one in changed(pair_of_runs).environment] == ["torch: 2.6.0 -> 9.9 / 2.6.0"]


def test_a_run_is_the_same_as_itself(whole_run):
    found = changes_between(whole_run.path, whole_run.path)
    assert (found.recipe, found.environment) == ((), ())
    assert all(change.same_file for change in found.results)
    assert all(change.pair is None or change.pair.same == change.pair.n for change in found.results)


def test_a_file_that_is_gone_or_another_than_its_report_speaks_of_is_called_identical_to_none(whole_run, tmp_path):
    shutil.copytree(whole_run.path, copy := tmp_path / "copy")
    (copy / "02-prune/model.safetensors").unlink()
    (whole_run.path / "04-export/model.onnx").write_bytes(b"something else")
    found = {one.a: one for one in changes_between(whole_run.path, copy).results}
    lost = {name: one.lines[0] for name, one in found.items() if not one.same_file}
    assert lost == {
        "02-prune": "file: not compared, in B the file is gone",
        "04-export": "file: not compared, in A not the file its report speaks of (another sha256)",
    }


def test_an_option_that_is_none_is_not_one_that_was_not_given():
    given, absent = (OptionDifference(what="00-import fit", a=a, b=b) for a, b in ((None, "none"), ("none", None)))
    assert str(given) == "00-import fit: not given -> none"
    assert str(absent) == "00-import fit: none -> not given"


def test_a_list_of_nothing_is_said_to_be_none():
    assert str(OptionDifference(what="02-prune modules", a=[], b=["layer1.2"])) == "02-prune modules: none -> layer1.2"


def test_an_unfinished_stage_is_named_and_the_rest_compared(whole_run, pair_of_runs):
    (whole_run.path / "03-recover" / "report.json").unlink()
    found = changes_between(pair_of_runs[0].path, whole_run.path)
    assert found.problems == ("fake: 03-recover: unfinished (no report.json)",)
    assert found.results


def test_a_folder_without_stages_is_refused(whole_run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no finished stage"):
        changes_between(whole_run.path, tmp_path / "empty")


@pytest.fixture
def runs_on_boards(tmp_path):
    """Both runs have a network judged and timed on desk alone; B has another one timed there before that, A on lab."""
    runs = []
    for name, first, median_ms in (("a", ("lab", "pruned"), 2.0), ("b", ("desk", "whole"), 1.5)):
        path = tmp_path / name
        path.mkdir()
        run = FakeRun(path)
        _, whole = run.model("import", "model.safetensors", 3000, config={"file": "x.pt"})
        _, pruned = run.model("prune", "model.safetensors", 2000, source=whole, dropped=("layer1.3",))
        run.board({"whole": whole, "pruned": pruned}[first[1]], board={"name": first[0]}, median_ms=7.0)
        run.board(pruned, board={"name": "desk"}, median_ms=median_ms, top1=0.9, predictions=True)
        runs.append(run)
    return runs


def test_what_one_board_measured_in_both_runs_is_compared(runs_on_boards):
    whole, pruned = changed(runs_on_boards).results
    (speed,) = (line for line in pruned.lines if "on desk: latency: p50 2.0" in line)
    assert re.search(r"on desk: latency: p50 2\.\d+ -> 1\.5\d+ ms, 0\.75", speed)
    assert any(line.startswith("on desk: top-1: 90.00 -> 90.00 %") for line in pruned.lines)
    assert not any(line.startswith("top-1: not compared") for line in pruned.lines)
    assert any(line == "on lab: latency: not compared, not timed in B" for line in pruned.lines)
    assert any(line == "on desk: latency: not compared, not timed in A" for line in whole.lines)


def test_stages_of_boards_are_matched_by_board_and_by_what_was_measured(runs_on_boards):
    said = [str(one) for one in changed(runs_on_boards).recipe]
    assert said == ["02-board: done -> none", "02-board: none -> done"]


def test_options_of_sessions_are_those_of_the_figures_that_are_compared(tmp_path):
    """A was benched twice here, B once; of two sessions of a board A's first is valid, B's second."""
    runs = []
    for name, seconds, of_board in (("a", (1, 9), (True, False)), ("b", (9,), (False, True))):
        (tmp_path / name).mkdir()
        run = FakeRun(tmp_path / name)
        _, whole = run.model("import", "model.safetensors", 3000)
        for place, long in enumerate(seconds):
            run.stage("bench", config={"seconds": long}, latency=(run.latency(whole, 4.0, session=f"{name}{place}"),))
        for place, is_valid in enumerate(of_board):
            folder = run.board(whole, figures={"is_valid": is_valid})
            report = record_from_json(StageReport, folder / "report.json")
            latency = report.latency[0].model_copy(update={"session": f"{name} board {place}"})
            how = {"config": {"timed": "well" if is_valid else "badly"}, "latency": (latency,), "accuracy": ()}
            write_report(report.model_copy(update=how), folder / "report.json")
        runs.append(run)
    said = [str(one) for one in changed(runs).recipe]
    assert said == ["01-bench: done -> none"]


def test_a_session_that_is_compared_with_two_is_held_against_both(tmp_path):
    """A timed its networks apart, B together."""
    runs = []
    for name, together in (("a", False), ("b", True)):
        (tmp_path / name).mkdir()
        run = FakeRun(tmp_path / name)
        _, whole = run.model("import", "model.safetensors", 3000)
        _, cut = run.model("prune", "model.safetensors", 2000, source=whole, dropped=("layer1.3",))
        for files in ((whole, cut),) if together else ((whole,), (cut,)):
            times = tuple(run.latency(one, 4.0, session=f"{name}{len(files)}{files[0].sha256}") for one in files)
            run.stage("bench", config={"files": len(files)}, latency=times)
        runs.append(run)
    assert [str(one) for one in changed(runs).recipe] == [
        "02-bench files: 1 -> 2",
        "03-bench / 02-bench files: 1 -> 2",
    ]


def test_what_is_not_judged_is_advised_by_file_and_board(tmp_path):
    """A judged its network here and on desk, B nowhere; nobody judges an engine here."""
    runs = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run = FakeRun(tmp_path / name)
        folder, whole = run.model("import", "model.safetensors", 3000)
        run.model("compile", "model.plan", 900, source=whole)
        if name == "a":
            run.evaluated(folder, whole, 0.9)
            run.board(whole, board={"name": "desk"})
        runs.append(run)
    first, engine = changed(runs).results
    said, file = "top-1: not compared, not evaluated in B: edgeres eval", runs[1].path / "00-import/model.safetensors"
    assert {f"{said} {file} --data DATA", f"on desk: {said} {file} --data DATA --on desk"} <= {*first.lines}
    assert "top-1: not compared, not evaluated in A and B" in engine.lines
    itself, _ = changed([runs[1], runs[1]]).results
    assert f"top-1: not compared, not evaluated in A and B: edgeres eval {file} --data DATA" in itself.lines


def test_a_board_whose_name_came_to_stand_for_another_machine_is_named(tmp_path):
    runs = []
    for name, hosts in (("a", ("10.0.0.5", "10.0.0.9")), ("b", ("10.0.0.9",))):
        (tmp_path / name).mkdir()
        run = FakeRun(tmp_path / name)
        _, whole = run.model("import", "model.safetensors", 3000)
        for host in hosts:
            run.board(whole, board={"host": host})
        runs.append(run)
    both = "Jetson Orin Nano at 10.0.0.5 {} Jetson Orin Nano at 10.0.0.9"
    assert [str(one) for one in changed(runs).environment] == [
        f"board orin: {both.format('/')} -> Jetson Orin Nano at 10.0.0.9"
    ]
    said = f"orin stands for {both.format('and')}: if these are two machines, measure each by a name of its own"
    assert [said in rows_from(run.path).problems for run in runs] == [True, False]
