"""A rule is kept, broken, or not measured, and says of which stage."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edgeres.core.errors import InputError
from edgeres.core.files import write_text
from edgeres.core.metrics import Closeness
from edgeres.core.runs import Run, run_named
from edgeres.core.stage import StageReport, write_report
from edgeres.evaluate.stage import OTHER_ORDER
from edgeres.report.folder import run_folder_from
from edgeres.report.gate import GateConfig, gate, write_junit
from edgeres.report.networks import networks_in
from edgeres.report.rows import rows_from
from edgeres.report.table import markdown_from

from .conftest import ENVIRONMENT


def judged(run, **rules):
    return gate(run.path, GateConfig(**rules))


def only(report):
    (outcome,) = report.outcomes
    return outcome


def test_loss_is_paired_and_of_the_newest_evaluated_network_against_the_first(whole_run, paired):
    outcome = only(judged(whole_run, max_loss=5.0))
    tables = [np.load(whole_run.path / name / "eval.npy") for name in ("00-import", "05-quantize")]
    change, half = paired(*tables)
    assert (outcome.passed, outcome.stage) == (True, "05-quantize")
    assert outcome.figure.value == pytest.approx(-change)
    assert outcome.figure.high == pytest.approx(-change + half)
    assert "against 00-import, n = 5,000" in outcome.text
    assert not only(judged(whole_run, max_loss=0.0)).passed


def made_anew(run, top1=0.5):
    """Another network takes the place of the first, as `edgeres run` does it that is killed then."""
    for name in ("00-import", "02-prune"):
        (run.path / name).rename(run.path / f"{name}.old1")
    run.count = 0
    run.evaluated(*run.model("import", "model.safetensors", 3_400_000), top1)


def in_its_run(run):
    """The stages' sources lie in the run, as those of a real one."""
    for path in run.path.glob("*/report.json"):
        path.write_text(path.read_text().replace("/elsewhere/", f"{run.path}/"))


def test_what_came_of_a_network_that_the_run_does_not_hold_any_more_is_held_against_no_other(whole_run):
    in_its_run(whole_run)
    made_anew(whole_run)
    report = judged(whole_run, max_loss=5)
    loss, *others = report.outcomes
    assert not any(outcome.passed for outcome in report.outcomes)
    assert "made from a file that this run does not hold any more: run it again" in loss.text
    assert any("05-quantize: made from a file" in outcome.text for outcome in others)
    summary = rows_from(whole_run.path)
    assert (summary.claims, [row.name for row in summary.rows]) == ((), ["00-import"])
    assert any(problem.startswith("03-recover: made from a file") for problem in summary.problems)


@pytest.mark.parametrize("how", ["whole", "deleted", "the same again", "another run's"])
def test_what_came_of_the_runs_own_network_is_compared(whole_run, how):
    in_its_run(whole_run)
    if how == "deleted":
        for name in ("00-import", "02-prune"):
            (whole_run.path / name / "model.safetensors").unlink()
        (whole_run.path / "04-export/report.json").unlink()
    elif how == "the same again":
        shutil.copytree(whole_run.path / "02-prune", whole_run.path / "02-prune.old1")
    elif how == "another run's":
        for path in whole_run.path.glob("*/report.json"):
            path.write_text(path.read_text().replace("runs/fake/02-prune/", "runs/other/02-prune/"))
        made_anew(whole_run, 0.9236)
    assert judged(whole_run, max_loss=5).outcomes[0].passed


def test_a_gain_is_no_loss(fake_run):
    for top1 in (0.80, 0.95):
        fake_run.evaluated(*fake_run.model("prune", "model.safetensors", 1000 + fake_run.count), top1)
    assert only(judged(fake_run, max_loss=0)).figure.value == pytest.approx(-15)


def test_agreement_counts_equal_guesses_right_or_wrong(whole_run):
    first, last = (np.load(whole_run.path / name / "eval.npy") for name in ("00-import", "05-quantize"))
    same = float((first[:, 0] == last[:, 0]).mean())
    outcome = only(judged(whole_run, min_agreement=same))
    assert outcome.passed
    assert outcome.figure.value == pytest.approx(same)
    assert not only(judged(whole_run, min_agreement=same + 1e-4)).passed


@pytest.mark.parametrize(
    ("times", "limit", "said"),
    [
        (1.69787, 1.5, "1.698 times as fast"),
        (1.49996, 1.5, "; 1.49996 is under the limit"),
        (1.50004, 1.50003, "; 1.50004 is over the limit"),
    ],
)
def test_a_figure_is_rounded_and_told_from_the_limit_by_as_many_digits_as_that_takes(fake_run, times, limit, said):
    _, first = fake_run.model("import", "model.safetensors", 3000)
    _, cut = fake_run.model("prune", "cut.safetensors", 2000, source=first, dropped=("layer1.1",))
    before = fake_run.latency(first, 10.0)
    after = before.model_copy(
        update={"artifact": cut.sha256, "samples_ms": tuple(ms / times for ms in before.samples_ms)}
    )
    fake_run.stage("bench", latency=(before, after))
    outcome = only(judged(fake_run, min_speedup=limit))
    assert said in outcome.text
    assert ("is under" in outcome.text) is not outcome.passed


def test_strict_asks_the_whole_interval(whole_run):
    loss = only(judged(whole_run, max_loss=5)).figure
    limit = (loss.value + loss.high) / 2
    assert only(judged(whole_run, max_loss=limit)).passed
    assert "within the interval" in only(judged(whole_run, max_loss=limit)).text
    assert not only(judged(whole_run, max_loss=limit, strict=True)).passed
    assert only(judged(whole_run, max_loss=loss.high + 0.01, strict=True)).passed


def test_what_was_not_timed_breaks_its_rules_and_says_why(whole_run):
    report = judged(whole_run, max_p99="5ms", max_p50="5ms", min_speedup=1.0)
    assert [outcome.passed for outcome in report.outcomes] == [False] * 3
    bench = "edgeres bench --run fake --on BOARD"
    said = "not measured: 05-quantize was not timed: placed for TensorRT: "
    whole = "edgeres export runs/fake/00-import/model.safetensors and "
    assert [outcome.text for outcome in report.outcomes] == [said + bench] * 2 + [said + whole + bench]
    assert all(outcome.figure is None for outcome in report.outcomes)


def test_all_that_a_speed_up_on_a_board_lacks_is_named_at_once_and_in_order(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(folder, first, 0.93)
    folder, last = fake_run.model("prune", "cut.safetensors", 2000, source=first, dropped=("layer1.1",))
    fake_run.evaluated(folder, last, 0.9)
    here = only(judged(fake_run, min_speedup=1.1, on="here")).text
    assert here.endswith(": edgeres bench --run fake")  # torch times both checkpoints
    fake_run.model("export", "model.onnx", 2001, source=last, dropped=("layer1.1",))
    whole, bench = "edgeres export runs/fake/00-import/model.safetensors", "edgeres bench --run fake --on orin"
    assert only(judged(fake_run, min_speedup=1.1, on="orin")).text.endswith(f": {whole} and {bench}")
    assert only(judged(fake_run, max_p50="3ms", on="orin")).text.endswith(f": {bench}")


def test_the_whole_network_in_int8_made_to_compare_with_is_not_judged_in_place_of_the_cut_one(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(folder, first, 0.93)
    folder, cut = fake_run.model("prune", "cut.safetensors", 2000, source=first, dropped=("layer1.1",))
    fake_run.evaluated(folder, cut, 0.8)
    about = {"results": {"profile": "ort-cpu"}, "precision": "int8"}
    fake_run.model("quantize", "cut.int8.onnx", 900, source=cut, dropped=("layer1.1",), **about)
    assert "edgeres quantize --run fake --profile ort-cpu" in str(judged(fake_run, max_loss=1).notes)
    folder, whole = fake_run.model("quantize", "whole.int8.onnx", 1000, source=first, **about)
    fake_run.evaluated(folder, whole, 0.93)
    found = judged(fake_run, max_loss=1)
    assert not only(found).passed
    assert found.judged == "01-prune"
    assert any("02-quantize is newer and not evaluated" in note for note in found.notes)
    assert "the whole network in INT8, 03-quantize, keeps --max-loss 1" in found.notes


def test_a_run_that_began_with_a_cut_network_says_what_its_figures_do_not_tell(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 3000, dropped=("layer1.1",))
    fake_run.evaluated(folder, first, 0.7)
    folder, last = fake_run.model("quantize", "int8.onnx", 900, source=first, precision="int8", dropped=("layer1.1",))
    fake_run.evaluated(folder, last, 0.7)
    found = judged(fake_run, max_loss=1)
    assert only(found).passed
    assert any("00-import, which all is held against, lacks 1 module already" in note for note in found.notes)


@pytest.mark.parametrize(
    ("rules", "here"),
    [
        ({"max_size": "1MB"}, ""),
        ({"max_loss": 1}, " and {first}"),
        ({"max_p50": "3ms"}, " and {bench}{there}"),
        ({"max_loss": 1, "min_speedup": 1.1}, " and {first} and {export} and {bench}{there}"),
    ],
)
def test_all_that_a_run_lacks_where_it_was_not_judged_is_named_at_once_and_in_order(fake_run, rules, here):
    _, first = fake_run.model("import", "model.safetensors", 3000)
    _, cut = fake_run.model("prune", "cut.safetensors", 2000, source=first, dropped=("layer1.1",))
    _, file = fake_run.model("export", "model.onnx", 1990, source=cut, dropped=("layer1.1",))
    made = fake_run.model("quantize", "model.int8.onnx", 900, source=file, precision="int8", dropped=("layer1.1",))
    fake_run.board(made[1])
    file = "runs/fake/00-import/model.safetensors"
    bench, first = "edgeres bench --run fake", f"edgeres eval {file} --data DATA"
    asked = " ".join(f"--{name.replace('_', '-')} {GateConfig(**rules).model_dump()[name]}" for name in rules)
    there = f" --on BOARD and edgeres gate fake {asked} --on BOARD"
    words = {"bench": bench, "first": first, "export": f"edgeres export {file}", "there": there}
    for outcome in judged(fake_run, **rules, on="here").outcomes:
        assert outcome.text.endswith(": edgeres eval --run fake --data DATA" + here.format(**words))
    export = [words["export"]] if rules.keys() & {"max_loss", "min_speedup"} else []
    for outcome in judged(fake_run, **rules, on="desk").outcomes:
        assert outcome.text.endswith("; evaluate one: " + " and ".join([*export, f"{bench} --on desk"]))


@pytest.mark.parametrize("profile", ["tensorrt", "tensorrt-fp16", "ort-cpu"])
def test_what_bench_would_leave_out_here_is_sent_to_a_board(fake_run, profile):
    folder, first = fake_run.model("export", "model.onnx", 3000)
    fake_run.evaluated(folder, first, 0.9)
    told = {"source": first, "precision": "int8", "results": {"profile": profile}}
    fake_run.evaluated(*fake_run.model("quantize", "model.int8.onnx", 1000, **told), 0.9)
    text = only(judged(fake_run, max_p50="3ms", on="here")).text
    here = "not measured: 01-quantize was not timed: edgeres bench --run fake"
    there = (
        "is timed on a board only: edgeres bench --run fake --on BOARD and edgeres gate fake --max-p50 3ms --on BOARD"
    )
    assert text == here if profile == "ort-cpu" else text.endswith(there)


def timed(run, *, engine=False, before_ms=4.0):
    """A float network and its quantized one, timed in one session; with `engine` the engine instead."""
    folder, first = run.model("export", "model.onnx", 3000)
    run.evaluated(folder, first, 0.9)
    folder, last = run.model("quantize", "model.onnx", 1000, source=first, precision="int8")
    run.evaluated(folder, last, 0.9)
    if engine:
        _, last = run.model("compile", "model.plan", 5000, source=last, precision="int8")
    run.stage("bench", latency=(run.latency(first, before_ms, "ort"), run.latency(last, 2.0, "ort")))


@pytest.mark.parametrize("engine", [False, True])
def test_latency_is_of_the_network_or_of_the_engine_made_from_it(fake_run, engine):
    timed(fake_run, engine=engine)
    report = judged(fake_run, max_p50="2.5ms", max_p99="1ms", min_speedup=1.9)
    p50, p99, speed = report.outcomes
    assert {outcome.stage for outcome in report.outcomes} == {"02-compile" if engine else "01-quantize"}
    assert (p50.passed, p99.passed, speed.passed) == (True, False, True)
    assert p50.figure.value == pytest.approx(2.0, rel=0.05)
    assert speed.figure.low <= 2.0 <= speed.figure.high
    assert "00-export" in speed.text


@pytest.mark.parametrize("verdict", ["invalid: machine busy", "doubtful: p90 over median is 1.46", "steady"])
def test_times_of_an_invalid_session_say_so_and_keep_no_strict_rule(fake_run, verdict):
    folder, first = fake_run.model("export", "model.onnx", 3000)
    fake_run.evaluated(folder, first, 0.9)
    folder, last = fake_run.model("quantize", "model.onnx", 1000, source=first, precision="int8")
    fake_run.evaluated(folder, last, 0.9)
    said = {"session": "fake", "verdict": verdict}
    fake_run.stage("bench", latency=(fake_run.latency(first, 4.0), fake_run.latency(last, 2.0)), results=said)
    is_valid = not verdict.startswith("invalid")
    rules = {"min_speedup": 1.5, "max_p50": "3ms", "max_size": "1MB", "max_loss": 90}
    for outcome in judged(fake_run, **rules).outcomes:
        is_timed = outcome.rule.startswith(("--min-speedup", "--max-p50"))
        assert outcome.passed
        assert outcome.is_valid == (is_valid or not is_timed)
        assert outcome.text.startswith("in an INVALID session ") != outcome.is_valid
        assert outcome.text.partition("; the limit")[0].endswith(f"; {verdict}") == (is_timed and verdict != "steady")
    for outcome in judged(fake_run, **rules, strict=True).outcomes:
        assert outcome.passed == outcome.is_valid
        assert outcome.text.endswith(": edgeres bench --run fake") != outcome.is_valid


def test_few_calls_have_no_p99(fake_run):
    folder, first = fake_run.model("export", "model.onnx", 3000)
    fake_run.evaluated(folder, first, 0.9)
    latency = fake_run.latency(first, 2.0)
    fake_run.stage("bench", latency=(latency.model_copy(update={"samples_ms": latency.samples_ms[:50], "rounds": ()}),))
    assert "50 calls are too few for a p99" in only(judged(fake_run, max_p99="5ms")).text


def test_size_is_of_the_file(whole_run):
    assert only(judged(whole_run, max_size="810kB")).passed
    assert not only(judged(whole_run, max_size="809.9kB")).passed


def harmed(path, how):
    """The file is gone, or another one."""
    path.unlink() if how == "the file is gone" else path.write_bytes(b"something else")


HARM = ("the file is gone", "not the file its report speaks of (another sha256)")


@pytest.mark.parametrize("how", HARM)
def test_no_rule_passes_on_a_file_that_nobody_measured(whole_run, how):
    rules = {"max_loss": 50, "min_top1": 50, "min_agreement": 0.1, "max_size": "1MB", "max_p50": "1s"}
    quantized = next(one.output for _, one in Run(whole_run.path).reports() if one.stage == "quantize")
    whole_run.board(quantized, predictions=True)
    assert not judged(whole_run, **rules).broken
    harmed(whole_run.path / "05-quantize/model.onnx", how)
    for outcome in judged(whole_run, **rules).outcomes:
        assert not outcome.passed
        assert f"05-quantize/model.onnx: {how}; make it again: edgeres quantize " in outcome.text


@pytest.mark.parametrize("how", HARM)
@pytest.mark.parametrize("name", ["01-quantize/model.onnx", "02-compile/model.plan"])
def test_an_engines_time_counts_no_more_without_its_file_or_that_it_was_made_from(fake_run, name, how):
    timed(fake_run, engine=True)
    harmed(fake_run.path / name, how)
    p50, size = judged(fake_run, max_p50="1s", max_size="1MB").outcomes
    assert f"{name}: {how}; make it again: edgeres {name[3:].partition('/')[0]}" in p50.text
    assert (p50.passed, size.passed) == (False, name.startswith("02"))


@pytest.mark.parametrize("how", HARM)
def test_what_was_held_against_a_file_that_is_lost_since_counts_and_is_told(whole_run, how):
    harmed(whole_run.path / "00-import/model.safetensors", how)
    report = judged(whole_run, max_loss=50)
    assert not report.broken
    assert any(note.startswith(f"00-import/model.safetensors: {how}") for note in report.notes)


def test_a_first_network_without_evaluation_is_not_passed_over(fake_run):
    fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(*fake_run.model("export", "model.onnx", 2000), 0.9)
    fake_run.evaluated(*fake_run.model("quantize", "model.onnx", 1000), 0.9)
    outcome = only(judged(fake_run, max_loss=50))
    assert not outcome.passed
    assert "not measured: 00-import is not evaluated: edgeres eval" in outcome.text


def test_the_first_network_is_what_was_evaluated_of_it_in_any_of_its_files(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 3000)
    folder, whole = fake_run.model("export", "model.onnx", 3001, source=first)
    fake_run.evaluated(folder, whole, 0.93)
    _, cut = fake_run.model("prune", "cut.safetensors", 2000, source=first, dropped=("layer1.1",))
    folder, short = fake_run.model("export", "model.onnx", 2001, source=cut, dropped=("layer1.1",))
    fake_run.evaluated(folder, short, 0.9)
    loss = only(judged(fake_run, max_loss=3.5))
    assert (loss.passed, loss.figure.value) == (True, pytest.approx(3.0))
    assert "against 01-export" in loss.text
    summary = rows_from(fake_run.path)
    assert "(03-export against 01-export)" in summary.headline
    assert [row.versus_first.points and row.versus_first.points.versus for row in summary.rows] == [
        *(None, None, None),
        "01-export",
    ]


def advice(run, **rules):
    """What a run says that holds nothing to judge."""
    return only(judged(run, **rules)).text


RULES = ({"max_loss": 0.5}, {"min_speedup": 1.6}, {"min_agreement": 0.9})


@pytest.mark.parametrize("rules", RULES)
def test_after_a_lone_import_a_second_network_is_missing(fake_run, rules):
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    file, run, data = "runs/fake/00-import/model.safetensors", "--run fake", " --data DATA"
    missing = (
        f"there is no second network to hold against it: edgeres prune {file} --drop N, or edgeres export {file}"
        f" and edgeres calibrate {run} and edgeres quantize {run}"
    )
    lacking = missing.replace(" --drop", f"{data} --drop").replace(f"calibrate {run}", f"calibrate {run}{data}")
    assert advice(fake_run, **rules).endswith(f"evaluate one: edgeres eval {run}{data}; {lacking}")
    fake_run.evaluated(folder, first, 0.93)
    assert advice(fake_run, **rules).endswith(f"only 00-import is evaluated, nothing to hold against it: {missing}")
    fake_run.stage("bench", latency=(fake_run.latency(first, 4.0),))
    assert advice(fake_run, **rules).endswith(missing)


def test_of_a_second_network_only_what_is_lacking_is_advised(fake_run):
    _, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(*fake_run.model("export", "model.onnx", 3001, source=first), 0.93)
    file = "runs/fake/01-export/model.onnx"
    said = advice(fake_run, max_loss=0.5)
    assert said.endswith(f" --drop N, or edgeres calibrate {file} and edgeres quantize {file}")
    fake_run.stage("calibrate", source=run_folder_from(fake_run.path).stages[1].report.output)
    assert advice(fake_run, max_loss=0.5).endswith(f" --drop N, or edgeres quantize {file}")


def test_a_stage_that_was_begun_is_finished_before_anything_else(fake_run):
    fake_run.model("import", "model.safetensors", 3000)
    (fake_run.path / "01-optimize").mkdir()
    (fake_run.path / "01-optimize/started.json").write_text('{"stage": "optimize", "key": "k"}')
    begun = "01-optimize: unfinished (no report.json); it was begun, the same command finishes it there"
    assert f"holds no evaluated network; {begun}; evaluate one: edgeres eval" in advice(fake_run, max_loss=0.5)
    page = markdown_from(rows_from(fake_run.path))
    assert page.index(begun) < page.index("edgeres eval")


def cut_and_quantized(run):
    """A run whose network, cut and in INT8, loses too much; the whole export."""
    folder, first = run.model("import", "model.safetensors", 3000)
    run.evaluated(folder, first, 0.93)
    _, whole = run.model("export", "model.onnx", 2990, source=first)
    _, cut = run.model("prune", "cut.safetensors", 2000, source=first, dropped=("layer1.1",))
    run.evaluated(*run.model("quantize", "cut.onnx", 600, source=cut, precision="int8", dropped=("layer1.1",)), 0.8)
    return whole


def test_where_the_cut_network_fails_the_whole_one_in_int8_is_named(fake_run):
    whole = cut_and_quantized(fake_run)
    file = "runs/fake/01-export/model.onnx"
    (note,) = judged(fake_run, max_loss=5).notes
    making = f"edgeres calibrate {file} and edgeres quantize {file}"
    assert note == f"the whole network was not tried in INT8: {making}"
    assert judged(fake_run, max_loss=50).notes == judged(fake_run, max_p50="1ms").notes == ()
    folder, int8 = fake_run.model("quantize", "model.onnx", 700, source=whole, precision="int8")
    *_, note = judged(fake_run, max_loss=5).notes
    how = "edgeres eval runs/fake/04-quantize/model.onnx"
    assert note == f"the whole network in INT8, 04-quantize, was not tried: {how}"
    fake_run.evaluated(folder, int8, 0.925)
    _, cut = fake_run.model("prune", "cut.safetensors", 2001, source=whole, dropped=("layer1.1",))
    fake_run.evaluated(*fake_run.model("export", "cut.onnx", 2002, source=cut, dropped=("layer1.1",)), 0.8)
    *_, note = judged(fake_run, max_loss=5, max_size="1kB").notes
    assert note == "the whole network in INT8, 04-quantize, keeps --max-loss 5 and --max-size 1kB"
    assert not [note for note in judged(fake_run, max_loss=5, max_size="650B").notes if "INT8" in note]


@pytest.mark.parametrize("place", ["beside", "in the run"])
def test_what_a_search_measured_of_the_whole_network_in_int8_is_not_called_untried(fake_run, place):
    cut_and_quantized(fake_run)
    found = json.loads((Path(__file__).parents[1] / "stored/frontier.json").read_text())
    whole = [one for one in found["tried"] if not one["dropped"] and one["precision"] == "int8"]
    (lost,) = (one["lost_points"]["value"] for one in whole)
    path = fake_run.path.parent if place == "beside" else fake_run.stage("optimize")
    write_text(path / "frontier.json", json.dumps(found))
    (note,) = judged(fake_run, max_loss=5).notes
    assert note.startswith("the whole network was not tried in INT8")  # that search was of another network
    found["model_sha256"] = run_folder_from(fake_run.path).stages[0].report.output.sha256
    write_text(path / "frontier.json", json.dumps(found))
    (note,) = judged(fake_run, max_loss=5).notes
    assert re.match(rf"the whole network in INT8 lost {lost:.2f} ± [\d.]+ points on [\d,]+ train images when ", note)
    assert note.endswith(
        ": edgeres calibrate runs/fake/01-export/model.onnx and edgeres quantize runs/fake/01-export/model.onnx"
    )
    assert judged(fake_run, min_top1=99).notes == ()
    whole[0]["lost_points"]["value"] = 5.1
    write_text(path / "frontier.json", json.dumps(found))
    assert judged(fake_run, max_loss=5).notes == ()


def test_accuracies_of_classes_in_another_order_are_not_judged_without_a_word(whole_run):
    assert judged(whole_run, max_loss=50).notes == ()
    said = f"17.90 % are right, 81.40 % {OTHER_ORDER} (cat for dog): name them in the order of the outputs"
    for name in ("02-prune", "05-quantize"):  # the one is neither judged nor what it is held against
        path = whole_run.path / name / "eval.json"
        found = StageReport.model_validate_json(path.read_text())
        write_report(found.model_copy(update={"warnings": ("few images", said)}), path)
    assert judged(whole_run, max_loss=50).notes == (f"05-quantize: {said}",)
    assert judged(whole_run, max_size="1GB").notes == ()


@pytest.mark.parametrize("rules", RULES)
def test_the_network_that_is_to_be_evaluated_is_named_and_not_the_one_that_was(fake_run, rules):
    _, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.model("prune", "cut.safetensors", 2000, source=first, dropped=("layer1.1",))
    fake_run.evaluated(*fake_run.model("export", "model.onnx", 3001, source=first), 0.93)
    assert advice(fake_run, **rules).endswith(": edgeres eval runs/fake/01-prune/cut.safetensors")


@pytest.mark.parametrize(
    ("rules", "asked"),
    [
        ({"max_loss": 0.5}, "--max-loss 0.5"),
        ({"min_speedup": 1.6, "max_p50": "3 ms"}, "--max-p50 '3 ms' --min-speedup 1.6"),
        ({"min_agreement": 0.9, "strict": True, "on": "here"}, "--min-agreement 0.9 --on here --strict"),
    ],
)
def test_what_optimize_handed_over_is_judged_by_itself_by_the_same_rules(fake_run, rules, asked):
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.stage("optimize", source=first)
    for name in ("fast", "balanced"):
        (fake_run.path / "01-optimize" / name / "00-import").mkdir(parents=True)
        (fake_run.path / "01-optimize" / name / "recipe.toml").touch()
    where = run_named("runs/fake/01-optimize/balanced").called
    said = f"01-optimize handed over is judged by itself: edgeres gate {where} {asked} (or fast beside it)"
    assert all(one.text.endswith(said) for one in judged(fake_run, **rules).outcomes)
    fake_run.evaluated(folder, first, 0.93)
    assert any(one.text.endswith(said) for one in judged(fake_run, **rules).outcomes)
    assert run_named(where).path == Path(where)


def test_one_evaluated_network_has_lost_nothing_that_counts(fake_run):
    fake_run.evaluated(*fake_run.model("import", "model.safetensors", 3000), 0.9)
    assert not only(judged(fake_run, max_loss=50)).passed


def test_damaged_predictions_are_not_measured(whole_run):
    (whole_run.path / "05-quantize" / "eval.npy").write_bytes(b"damaged")
    outcome = only(judged(whole_run, min_agreement=0.1))
    assert "the predictions of 05-quantize are missing or damaged" in outcome.text


def test_a_newer_network_that_is_not_evaluated_is_named(whole_run):
    (whole_run.path / "05-quantize" / "eval.json").unlink()
    report = judged(whole_run, max_loss=5)
    assert report.judged == "04-export"
    assert "05-quantize is newer and not evaluated" in report.notes[0]


@pytest.mark.parametrize("damage", [lambda path: path.write_text("{"), lambda path: path.unlink()])
def test_a_newer_stage_that_cannot_be_judged_breaks_the_gate(whole_run, damage):
    damage(whole_run.path / "05-quantize" / "report.json")
    report = judged(whole_run, max_loss=50)
    assert (report.judged, report.outcomes[0].passed) == ("04-export", True)
    (broken,) = report.broken
    assert broken.rule == "newest network readable"
    assert broken.text.startswith("judged, but there is 05-quantize: ")


def test_an_older_damaged_stage_is_named_beside_the_verdict(whole_run):
    (whole_run.path / "04-export" / "report.json").write_text("{")
    report = judged(whole_run, max_loss=50)
    assert report.broken == ()
    assert report.notes[0].startswith("not judged, 04-export: report.json is not a readable StageReport")


def test_an_unfinished_stage_is_nothing_newer_where_the_same_stage_came_after_it(whole_run):
    (whole_run.path / "06-prune").mkdir()
    (broken,) = judged(whole_run, max_loss=50).broken
    assert "06-prune: unfinished" in broken.text
    whole_run.count = 7
    whole_run.model("prune", "model.safetensors", 900)
    report = judged(whole_run, max_loss=50)
    assert report.broken == ()
    assert any("not judged, 06-prune: unfinished" in note for note in report.notes)


@pytest.mark.parametrize("stage", ["bench", "lesion", "optimize", "reorder"])
def test_an_unfinished_measurement_is_no_network(whole_run, stage):
    (whole_run.path / f"99-{stage}").mkdir()
    assert judged(whole_run, max_loss=50).broken == ()


def test_networks_judged_on_two_data_sets_are_told_how_to_become_a_pair(fake_run):
    names = [fake_run.model("prune", "model.safetensors", 1000 + fake_run.count) for _ in range(2)]
    for one in names:
        fake_run.evaluated(*one, 0.9)
    path = sorted(fake_run.path.glob("*/eval.json"))[0]
    report = json.loads(path.read_text())
    report["accuracy"][0] |= {"dataset": "folder:few", "n": 60, "correct_top1": 50, "correct_top5": 60}
    path.write_text(json.dumps(report))
    outcome = only(judged(fake_run, max_loss=1))
    assert "judged on different images" in outcome.text
    assert re.search(r": edgeres eval \S+/model.safetensors --data cifar10 --replace$", outcome.text)
    assert path.parent.name in outcome.text.rpartition("edgeres eval")[2]


def test_one_folder_under_two_names_is_one_data_set(fake_run):
    for name in ("folder:photos", f"folder:{Path.cwd()}/photos"):
        folder, output = fake_run.model("prune", "model.safetensors", 1000 + fake_run.count)
        fake_run.evaluated(folder, output, 0.9)
        path = folder / "eval.json"
        path.write_text(path.read_text().replace("cifar10", name))
    assert only(judged(fake_run, max_loss=50)).passed


def test_a_network_judged_on_a_board_is_told_to_be_judged_there_again(fake_run):
    folder, first = fake_run.model("export", "model.onnx", 2000)
    fake_run.evaluated(folder, first, 0.9)
    _, last = fake_run.model("quantize", "model.onnx", 600, source=first, precision="int8")
    path = fake_run.board(last) / "report.json"
    report = json.loads(path.read_text())
    report["accuracy"][0] |= {"dataset": "digits", "n": 60, "correct_top1": 50, "correct_top5": 60}
    path.write_text(json.dumps(report))
    outcome = only(judged(fake_run, max_loss=1))
    assert outcome.text.endswith(f": edgeres eval {fake_run.path}/01-quantize/model.onnx --data cifar10 --on orin")


def exported_again(run, *, is_timed):
    """A network, cut, exported and timed with what the whole one became last: an ONNX file."""
    folder, first = run.model("import", "model.safetensors", 3000)
    run.evaluated(folder, first, 0.93)
    folder, cut = run.model("prune", "cut.safetensors", 2000, source=first, dropped=("layer1.1",))
    run.evaluated(folder, cut, 0.9)
    folder, short = run.model("export", "short.onnx", 2000, source=cut, dropped=("layer1.1",))
    run.evaluated(folder, short, 0.9)
    folder, whole = run.model("export", "model.onnx", 3000, source=first)
    run.evaluated(folder, whole, 0.93)
    times = (run.latency(short, 2.0, "ort"), run.latency(whole, 4.0, "ort"))
    run.stage("bench", latency=times if is_timed else times[:1])


@pytest.mark.parametrize("is_timed", [True, False])
def test_the_first_network_in_another_file_is_what_is_held_against_and_not_what_is_judged(fake_run, is_timed):
    exported_again(fake_run, is_timed=is_timed)
    report = judged(fake_run, max_loss=1, min_speedup=1.9)
    assert report.judged == "02-export"
    assert not [note for note in report.notes if "newer" in note]
    loss, speed = report.outcomes
    assert not loss.passed
    assert loss.figure.value == pytest.approx(3.0)
    assert speed.passed == is_timed
    assert "03-export against" not in rows_from(fake_run.path).headline


def test_a_network_that_is_its_first_in_every_file_is_judged(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(folder, first, 0.9)
    fake_run.evaluated(*fake_run.model("export", "model.onnx", 3000, source=first), 0.9)
    assert judged(fake_run, max_loss=1).judged == "01-export"


@pytest.mark.parametrize("boards", [("orin",), ("orin", "xavier")])
def test_one_rule_has_one_verdict_whatever_stands_beside_it(fake_run, boards):
    folder, first = fake_run.model("export", "model.onnx", 3000)
    fake_run.evaluated(folder, first, 0.9)
    _, last = fake_run.model("quantize", "model.int8.onnx", 1000, source=first, precision="int8")
    for name in boards:
        fake_run.board(last, board={"name": name}, predictions=True)
    alone = only(judged(fake_run, max_size="2kB"))
    beside = judged(fake_run, max_size="2kB", max_loss=50, on=boards[0]).outcomes[1]
    assert (alone.passed, alone.stage) == (beside.passed, beside.stage) == (True, "01-quantize")


@pytest.mark.parametrize("where", ["here", "orin", "both boards"])
def test_what_was_timed_alone_keeps_the_rules_of_the_clock_and_breaks_those_of_accuracy(fake_run, where):
    _, first = fake_run.model("export", "model.onnx", 3000)
    _, last = fake_run.model("quantize", "model.int8.onnx", 1000, source=first, precision="int8")
    if where == "here":
        fake_run.stage("bench", latency=(fake_run.latency(first, 4.0), fake_run.latency(last, 1.5)))
    for name in {"orin": ["orin"], "both boards": ["orin", "xavier"]}.get(where, []):
        fake_run.board(last, board={"name": name})
        path = fake_run.path / f"{fake_run.count - 1:02}-board" / "report.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "accuracy": []}))
    own = {"on": "orin"} if where == "both boards" else {}
    report = judged(fake_run, max_p50="3ms", max_size="2kB", **own)
    assert ([one.passed for one in report.outcomes], report.judged) == ([True, True], "01-quantize")
    beside = judged(fake_run, max_p50="3ms", max_size="2kB", max_loss=1, min_top1=50, min_closeness=0.9, **own).outcomes
    assert [one for one in beside if one.passed] == list(report.outcomes)
    lacking = {one.text for one in beside if not one.passed}
    assert all("runs/fake holds no evaluated network; evaluate one: edgeres " in one for one in lacking)
    if where == "here":
        assert not any("edgeres bench" in one for one in lacking)
        assert only(judged(fake_run, min_speedup=2)).passed
    elif where == "both boards":
        with pytest.raises(InputError, match="measured on orin and xavier; by which is it judged"):
            judged(fake_run, max_p50="3ms")


def test_what_a_board_did_not_time_is_timed_there_and_what_is_asked_for_here_is_timed_here(fake_run):
    folder, first = fake_run.model("export", "model.onnx", 3000)
    fake_run.evaluated(folder, first, 0.9)
    folder, last = fake_run.model("quantize", "model.int8.onnx", 1000, source=first, precision="int8")
    fake_run.evaluated(folder, last, 0.9)
    fake_run.board(first)
    said = {on: only(judged(fake_run, max_p50="3ms", on=on)).text for on in ("orin", "here")}
    assert said["orin"].endswith("01-quantize was not timed on orin: edgeres bench --run fake --on orin")
    assert said["here"].endswith(": edgeres bench --run fake --on BOARD and edgeres gate fake --max-p50 3ms --on BOARD")


def likened(run, measure, mean, *, of=None, **changes):
    """A float network and its quantized one, judged by how near it is to the first, or to `of`."""
    folder, first = run.model("export", "model.onnx", 3000)
    seen = {"measure": measure, "worst": None if measure == "guess" else mean, "n": 400, "dataset": "images:x"}
    seen |= {"split": "val", "runtime": "onnxruntime"}
    made, last = run.model("quantize", "model.onnx", 1000, source=first, precision="int8", **changes)
    for place, output, value in ((folder, first, float(measure != "error")), (made, last, mean)):
        near = Closeness(**seen, mean=value, artifact=output.sha256, reference=of or first.sha256)
        told = {"environment": ENVIRONMENT, "created": "2025-01-31T12:00:00+00:00", "duration_s": 3.0}
        report = StageReport(stage="eval", config={}, source=output, closeness=(near,), **told)
        write_report(report, place / "eval.json")


@pytest.mark.parametrize(
    ("measure", "mean", "near"), [("cosine", 0.98, 0.98), ("error", 0.02, 0.98), ("guess", 0.98, 0.98)]
)
def test_closeness_is_judged_whatever_it_is_measured_by(fake_run, measure, mean, near):
    likened(fake_run, measure, mean)
    outcome = only(judged(fake_run, min_closeness=0.979))
    assert (outcome.passed, outcome.stage) == (True, "01-quantize")
    assert outcome.figure.value == pytest.approx(near)
    assert "n = 400" in outcome.text or "on 400 images of images:x val" in outcome.text
    assert ", to 00-export, " in outcome.text
    assert not only(judged(fake_run, min_closeness=0.981)).passed


def test_a_mean_without_an_interval_keeps_no_strict_rule(fake_run):
    likened(fake_run, "cosine", 0.98)
    outcome = only(judged(fake_run, min_closeness=0.5, strict=True))
    assert not outcome.passed
    assert "judge it without --strict" in outcome.text


def test_closeness_is_to_the_first_network_by_the_name_it_has_as_the_first(fake_run):
    likened(fake_run, "cosine", 0.99)
    fake_run.model("export", "model.onnx", 3000)
    report = judged(fake_run, min_closeness=0.5)
    assert f", to {report.first}, " in only(report).text
    assert report.first == "00-export"


def test_closeness_to_another_network_is_not_that_to_the_first(fake_run):
    likened(fake_run, "cosine", 0.99, of="0" * 64)
    outcome = only(judged(fake_run, min_closeness=0.5))
    assert (
        "measured, but it does not count: 01-quantize was held against another file than 00-export: edgeres eval"
        in outcome.text
    )


def test_without_classes_size_is_judged_and_points_say_what_to_use(fake_run):
    likened(fake_run, "cosine", 0.98)
    size, *others = judged(fake_run, max_size="1MB", max_loss=1, min_top1=50, min_agreement=0.5).outcomes[::-1]
    assert size.passed
    assert all(
        "gives no classes or was given no labels" in one.text and "--min-closeness" in one.text for one in others
    )


def test_with_classes_closeness_names_the_rules_there_are(whole_run):
    assert "is judged by right answers: use --max-loss" in only(judged(whole_run, min_closeness=0.5)).text


@pytest.mark.parametrize("stage", ["import", "lesion"])
def test_a_run_that_was_never_evaluated_breaks_every_rule(fake_run, tmp_path, stage):
    if stage == "import":
        fake_run.model(stage, "model.safetensors", 3000)
    else:
        fake_run.stage(stage)  # no network at all
    report = judged(fake_run, max_loss=1, max_size="1MB")
    said = "not measured: runs/fake holds no evaluated network; "
    assert [(one.passed, one.text[: len(said)]) for one in report.outcomes] == [(False, said)] * 2
    write_junit(report, tmp_path / "gate.xml")
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().get("failures") == "2"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"min_top1": 0.7}, "--min-top1 0.7 is in percent; did you mean 70?"),
        ({"min_top1": 1}, "did you mean 100?"),
        ({}, "no rule given"),
        ({"max_p99": "5"}, "--max-p99: '5'"),
        ({"max_size": "2 tons"}, "--max-size: '2 tons'"),
    ],
)
def test_rules_that_cannot_be_judged_are_refused(rules, message):
    with pytest.raises(InputError, match=message):
        GateConfig(**rules).check()


def test_junit_has_a_case_a_rule_and_a_failure_for_each_broken_one(whole_run, tmp_path):
    report = judged(whole_run, max_loss=5, max_p99="5ms", max_size="2MB")
    write_junit(report, tmp_path / "gate.xml")
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    cases = {case.get("name"): case.find("failure") for case in suite}
    assert [name for name, failure in cases.items() if failure is not None] == ["--max-p99 5ms"]


def test_networks_keep_what_their_stage_said(whole_run):
    networks = networks_in(run_folder_from(whole_run.path))
    assert [one.name for one in networks][-1] == "06-compile"
    assert networks[-1].not_timed == "built, not run: sm_86"
    assert networks[1].parent == networks[0].sha256


def test_a_report_of_a_later_version_is_still_judged(whole_run):
    path = whole_run.path / "05-quantize" / "eval.json"
    report = run_folder_from(whole_run.path).stages[-3].evaluation
    write_report(report, path)
    path.write_text(path.read_text().replace("{", '{"added_later": 1,', 1))
    assert only(judged(whole_run, max_loss=5)).passed
