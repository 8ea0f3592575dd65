"""From a network to three: real networks of random weights, judged on real digits, timed by a clock that is made up."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeres.bench.stage import Session
from edgeres.bench.validity import Around
from edgeres.core.artifacts import Checkpoint, OnnxModel
from edgeres.core.config import record_from_json
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval, Latency
from edgeres.core.progress import seconds_from
from edgeres.core.records.frontier import Frontier, Tried
from edgeres.core.runs import STARTED_NAME, Run, started_text
from edgeres.core.stage import Recorder, write_report
from edgeres.models import modules_of
from edgeres.models.weights import checkpoint_without
from edgeres.optimize import choose, results, tries
from edgeres.optimize.choose import Choice
from edgeres.optimize.config import OptimizeConfig
from edgeres.optimize.plan import WHOLE, Plan, PlannedSet, plan_from
from edgeres.optimize.search import Clock, Search
from edgeres.optimize.stage import _beyond, _left_open, _passed, _whole, optimize
from edgeres.optimize.tries import Place
from edgeres.pipeline import eval_bench
from edgeres.pipeline.calls import Call, call
from edgeres.pipeline.recipe import recipe_from
from edgeres.prune.recover.budget import BudgetTooShort
from edgeres.report.rows import rows_from
from edgeres.report.stage import ReportConfig, report

pytestmark = pytest.mark.slow
SHARED = {"batch": 1, "runtime": "fake", "threads": 1, "session": "s", "warmup": 1, "machine": "fake"}


@pytest.fixture
def checkpoint(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet8", width=4))


@pytest.fixture
def longer(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet14", width=4))


def clock(models, config, names=()):
    """A millisecond for the stem and each module that is left; half of it in INT8."""
    whole = len(modules_of(models[0].spec)) + 1
    times = [(whole - len(one.spec.dropped)) * (0.5 if "int8" in one.precision else 1.0) for one in models]
    return Session(
        tuple(
            Latency(samples_ms=(ms,) * 40, artifact=one.sha256, rounds=(10,) * 4, **SHARED)
            for one, ms in zip(models, times, strict=True)
        )
    )


@pytest.fixture(autouse=True)
def no_bench(monkeypatch, exported_once):
    """The bench of the results' recipes is tested in tests/bench."""

    def bench(models, config, folder, *, fresh=False):
        return (Recorder("bench", config, None).finish(None),), False

    monkeypatch.setattr(eval_bench, "bench_models", bench)


@pytest.fixture(autouse=True)
def no_pages(request, monkeypatch):
    """Results are drawn for a test that looks at them: it has an argument `drawn`."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr("edgeres.report.stage.page_from", lambda _: "")


@pytest.fixture
def drawn():
    """Pages with their pictures."""


@pytest.fixture
def one_set(checkpoint, tmp_path):
    """A plan of one set, so that nothing is to be chosen."""
    path = tmp_path / "one.toml"
    path.write_text(f'model_sha256 = "{checkpoint.sha256}"\n[[tries]]\ndrop = ["layer2.0"]\n')
    return path


def config_of(**options):
    return OptimizeConfig(**{"data": "digits", "images": 64, "max_loss": 100.0, "budget": "10m", **options})


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """There is no time for it, and few images."""
    monkeypatch.setattr("edgeres.optimize.search._TRAINING_LEAST", math.inf)
    monkeypatch.setattr("edgeres.optimize.config._REFINED_ON", 80)
    monkeypatch.setattr("edgeres.optimize.config._REFINED_A_SECOND", 0)


def test_three_networks_with_recipes_and_reports(checkpoint, drawn, tmp_path):
    call(Call("import", run="mine", values={"file": Path(os.path.relpath(checkpoint.path))}))
    out = tmp_path / "runs" / "mine" / "01-optimize"
    source = Checkpoint(out.parent / "00-import" / "model.safetensors")
    done = optimize(source, config_of(latency="0.3x"), out, place=Place(measure=clock))
    found = record_from_json(Frontier, done.output.path)
    assert (found.tried[0].precision, found.tried[0].dropped, found.tried[0].ratio.value) == ("fp32", (), 1.0)
    for one in found.tried:
        left = (4 - len(one.dropped)) / 4
        assert one.ratio.value == pytest.approx(left if one.precision == "fp32" else left / 2)
    assert {one.name for one in found.results} >= {"balanced", "fast"}
    balanced = next(one for one in found.results if one.name == "balanced")
    assert balanced.tried.ratio.value <= 0.3
    for one in found.results:
        run = Run(out / one.name)
        file = OnnxModel(run.path / one.file)
        assert file.spec.dropped == tuple(sorted(one.tried.dropped))
        assert file.precision == one.tried.precision
        assert len(rows_from(run.path).rows) == 2 + 2 * bool(one.tried.dropped) + (one.tried.precision == "int8")
        assert (run.path / "report.html").is_file()
        _, steps = recipe_from(str(run.path / "recipe.toml"), {"data": "digits"})
        assert [step.use for step in steps][-3:] == ["eval", "bench", "report"]
        assert steps[0].config.file.is_absolute()
        judged = json.loads((file.path.parent / "eval.json").read_text())["accuracy"][0]
        assert judged["split"] == "val"
        assert one.top1 == pytest.approx(judged["correct_top1"] / judged["n"])
    assert not (out / "tried").exists()
    assert {*found.spent_s} == {"whole network", "choosing", "trying", "timing", "results"}
    write_report(done.report, out / "report.json")
    summary = report(out.parent, ReportConfig())
    page = (out.parent / "report.html").read_text()
    headings = re.findall(r'<h2 id="(\w+)">', page)
    assert headings.index("frontier") < headings.index("stages")
    assert "faster" in summary.headline
    assert summary.absent == ()  # what was imported is judged and timed in the runs handed over
    names = [one.name for one in summary.frontier.results]
    told = ", ".join(claim.detail for claim in summary.claims)
    assert all(told.count(name) == 1 for name in names)
    assert len(summary.claims) == len({one.tried for one in summary.frontier.results})
    assert all(f'href="01-optimize/{name}/report.html"' in page for name in names)


def test_val_is_not_looked_at_before_the_results(checkpoint, one_set, tmp_path, monkeypatch):
    seen = []
    real = tries.accuracy_of

    def watched(model, dataset, **options):
        seen.append(options["split"])
        return real(model, dataset, **options)

    monkeypatch.setattr(tries, "accuracy_of", watched)
    monkeypatch.setattr("edgeres.optimize.stage.handed_over", lambda *_: pytest.fail("no answer was asked for"))
    monkeypatch.setattr("edgeres.optimize.stage.three", lambda *_, **__: ([], []))
    optimize(checkpoint, config_of(plan=one_set), tmp_path / "out", place=Place(measure=clock))
    assert seen
    assert {*seen} == {"train"}


def test_more_images_are_trained_on_where_there_is_time_and_none_of_them_is_judged_on(
    checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setattr("edgeres.optimize.config._REFINED_A_SECOND", 2)
    known = {}
    for budget in ("2m", "10m"):
        bench = tries.Workbench(checkpoint, config_of(budget=budget), tmp_path / budget, Place(measure=clock))
        known[budget] = bench.images_for("1m")
        asked = bench.config.cut(("layer2.0",), known[budget], "1m")
        used = bench.dataset.train.sample(asked.images, asked.seed).ids
        assert not {*used} & {*bench.held_out.ids}
        assert bench.images_for("") == 64
    assert known == {"2m": 80, "10m": 360}


def test_what_is_judged_on_was_not_used_for_anything_else(checkpoint, tmp_path):
    bench = tries.Workbench(checkpoint, config_of(), tmp_path / "out", Place(measure=clock))
    train = bench.dataset.train
    chosen = {name for refined in ("", "60s") for name in train.sample(bench.images_for(refined), 0).ids}
    calibrated = {*train.sample(bench.calibration.images, bench.calibration.seed).ids}
    assert not {*bench.held_out.ids} & (chosen | calibrated)
    assert len(bench.held_out) == len(train) - len(chosen | calibrated)


def test_a_plan_is_made_and_another_followed(checkpoint, one_set, tmp_path):
    out = tmp_path / "plan"
    done = optimize(checkpoint, config_of(plan_only=True), out, place=Place(measure=clock))
    plan = plan_from(out / "plan.toml", checkpoint.sha256)
    assert plan.tries
    assert max(len(one.drop) for one in plan.tries) == 3  # what the deepest search found stays
    assert not record_from_json(Frontier, done.output.path).results
    assert any("--plan" in note for note in done.report.notes)
    for one in plan.tries:  # by the clock: half of it for INT8, a quarter for the stem and each module
        assert one.predicted.value == pytest.approx((4 - len(one.drop)) / 8, abs=1e-4)
    one_set.write_text(f"{one_set.read_text()}ratio = [0.8]\n")  # of float; the clock finds three quarters
    done = optimize(checkpoint, config_of(plan=one_set), tmp_path / "out", place=Place(measure=clock))
    assert "measured shares less those predicted: -0.050 to -0.050 (n = 1)" in done.report.notes
    tried = record_from_json(Frontier, done.output.path).tried
    assert {one.dropped for one in tried} == {(), ("layer2.0",)}


def test_an_interrupted_call_goes_on_from_what_it_kept(checkpoint, one_set, tmp_path, monkeypatch):
    out, made = tmp_path / "out", []
    real = results.handed_over

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeres.optimize.stage.handed_over", interrupted)
    monkeypatch.setattr(tries.Workbench, "_pace_s", 0.03)  # of a slow moment: few images
    with pytest.raises(KeyboardInterrupt):
        optimize(checkpoint, config_of(plan=one_set), out, place=Place(measure=clock))
    kept = (out / "tried.json").read_text()
    monkeypatch.setattr("edgeres.optimize.stage.handed_over", real)
    monkeypatch.setattr(tries, "execute", lambda stage, *_: made.append(stage))
    monkeypatch.setattr(tries.Workbench, "_pace_s", 1e-6)
    monkeypatch.setattr(tries.Workbench, "val_within", lambda *_: 100)
    optimize(checkpoint, config_of(plan=one_set), out, place=Place(measure=clock))
    assert kept.count("lost_points") >= 4
    found = record_from_json(Frontier, out / "frontier.json")
    assert {one.n for one in found.tried} == {found.n}  # although the pace is another now
    assert made == []
    for one in found.results:
        _, steps = recipe_from(f"{one.folder}/recipe.toml", {"data": "digits"})
        assert (one.val_n, one.val_all) == (100, 449)
        assert [step.config.images for step in steps if step.use == "eval"] == [100]


def test_an_interrupted_call_for_a_plan_goes_on_from_what_it_kept(checkpoint, tmp_path, monkeypatch):
    real = choose.chosen

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeres.optimize.stage.chosen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimize(checkpoint, config_of(plan_only=True), tmp_path, place=Place(measure=clock))
    monkeypatch.setattr("edgeres.optimize.stage.chosen", real)
    done = optimize(checkpoint, config_of(plan_only=True), tmp_path, place=Place(measure=clock))
    assert record_from_json(Frontier, done.output.path).runtime
    assert plan_from(tmp_path / "plan.toml", checkpoint.sha256).tries


def test_another_search_of_the_run_goes_on_choosing_from_what_was_measured(checkpoint, tmp_path, caplog):
    source = call(Call("import", run="mine", values={"file": checkpoint.path})).output
    caplog.set_level("INFO", "edgeres")
    told = []
    for count, more in enumerate(({}, {"budget": "20m", "latency": "0.3x"}, {"seed": 1}), start=1):
        out = source.path.parents[1] / f"{count:02}-optimize"
        out.mkdir()
        (out / STARTED_NAME).write_text(started_text("optimize", "key"))
        caplog.clear()
        config = config_of(plan_only=True, data="digits", **more)
        write_report(optimize(source, config, out, place=Place(measure=clock)).report, out / "report.json")
        told.append([one for one in caplog.messages if "choosing goes on from what" in one or "made anew" in one])
    first = tmp_path / "runs" / "mine" / "01-optimize"
    assert told == [[], [f"choosing goes on from what {Run(first).called} measured"], []]
    records = [
        json.loads((first.with_name(f"0{count}-optimize") / "search.json").read_text())["records"] for count in (1, 2)
    ]
    assert records[0].items() <= records[1].items()


def test_without_labels_the_whole_network_says_what_is_right(checkpoint, one_set, tmp_path):
    import numpy as np

    from edgeres.data import dataset_for

    digits = dataset_for(checkpoint.spec, "digits")
    pixels = digits.train.inputs(checkpoint.spec)
    np.savez(tmp_path / "mine.npz", images=pixels[..., 0])
    config = config_of(data=f"npz:{tmp_path / 'mine.npz'}", plan=one_set, latency="0.01x")
    done = optimize(checkpoint, config, tmp_path / "out", place=Place(measure=clock))
    found = record_from_json(Frontier, done.output.path)
    assert not found.is_labelled
    assert found.lost_are == "points of same guess"
    assert any(miss.endswith("the whole network's own; by labels less may be lost") for miss in found.misses)
    assert all(one.top1 is None and one.val_lost_points.value >= 0 for one in found.results)
    assert any("as no label says what is right" in note for note in done.report.notes)
    assert all(one.lost_points.value >= 0 for one in found.tried)  # nobody agrees more with a network than itself


def test_time_that_is_left_trains_the_sets_that_decide(checkpoint, one_set, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeres.optimize.stage.handed_over", lambda *_: pytest.fail("no answer was asked for"))
    monkeypatch.setattr("edgeres.optimize.stage.three", lambda *_, **__: ([], []))
    monkeypatch.setattr("edgeres.optimize.search.TRAINING_SHARE", 0.2)  # enough on a busy machine
    monkeypatch.setattr("edgeres.optimize.search._TRAINING_LEAST", 0.0)
    config = config_of(latency="0.4x", plan=one_set)
    asked = []

    def noisy(models, how, names):
        """A later one of a session is slower, as chance has it."""
        asked.append(len(models))
        latencies = clock(models, how).latencies
        slow = [tuple(ms * (1 + place / 100) for ms in one.samples_ms) for place, one in enumerate(latencies)]
        return Session(
            tuple(one.model_copy(update={"samples_ms": ms}) for one, ms in zip(latencies, slow, strict=True))
        )

    done = optimize(checkpoint, config, tmp_path / "out", place=Place(measure=noisy))
    found = record_from_json(Frontier, done.output.path)
    trained = [one for one in found.tried if one.refined]
    of_one_graph = [one for one in found.tried if one.dropped and one.precision == "int8"]
    assert [bool(one.refined) for one in of_one_graph] == [False, True]
    assert of_one_graph[0].ratio == of_one_graph[1].ratio  # weights alone make no network faster
    assert asked[-1] == 3  # the whole in both precisions, and that one
    assert {one.precision for one in trained} == {"fp32", "int8"}
    assert {one.dropped for one in trained} == {("layer2.0",)}
    assert trained[0].name == "less 1 trained, fp32"
    assert config.cut(("layer2.0",), 80, trained[0].refined).recovery().epochs == 10  # whatever time there is
    bench = tries.Workbench(checkpoint, config, tmp_path / "other", Place(measure=clock))
    used = {*bench.dataset.train.sample(bench.images_for(trained[0].refined), 0).ids}
    assert len(used) > bench.images
    assert not {*bench.held_out.ids} & used


@pytest.mark.parametrize(("max_loss", "asked"), [(3.0, 2), (1.0, 1)])
def test_deeper_sets_are_chosen_where_the_deepest_decides_nothing(longer, tmp_path, monkeypatch, max_loss, asked):
    names = ("layer1.1", "layer2.1", "layer3.1")
    calls = []
    monkeypatch.setattr(tries.Workbench, "_lost", lambda _, one: Interval.around(len(one.spec.dropped), 0.1))

    def chosen(bench, precision, ratio, *, until_s):
        calls.append(until_s)
        depths = (1, 2) if len(calls) == 1 else (1, 3)  # of two modules another set is found
        tries = tuple(PlannedSet(drop=names[:n], ratio=(1 - n / 7,) * 3, lost=0.0) for n in depths)
        plan = Plan(model_sha256=longer.sha256, precision=precision, tries=tries)
        return Choice(plan, SimpleNamespace(table=(), method="networks"), {}, [], 0.01 if len(calls) == 1 else math.inf)

    monkeypatch.setattr("edgeres.optimize.stage.chosen", chosen)
    monkeypatch.setattr("edgeres.optimize.stage.three", lambda *_, **__: ([], []))
    done = optimize(longer, config_of(max_loss=max_loss), tmp_path / "out", place=Place(measure=clock))
    tried = {len(one.dropped) for one in record_from_json(Frontier, done.output.path).tried}
    assert len(calls) == asked
    planned = [len(one.drop) for one in plan_from(tmp_path / "out" / "plan.toml", longer.sha256).tries]
    assert planned == ([1, 2, 3] if asked == 2 else [1, 2])
    assert {2, 3} <= tried if asked == 2 else 3 not in tried


@pytest.mark.parametrize(
    ("latency", "before"),
    [
        ("0.62x", [(0, False), (4, False), (2, False), (3, False), (4, True), (1, False)]),
        ("0.6x", [(0, False), (5, False), (2, False), (3, False), (4, False), (5, True)]),  # 4 just meet it
        (None, [(0, False), (5, False), (2, False), (3, False), (1, False)]),
    ],
)
def test_the_set_that_meets_the_latency_is_trained_before_other_questions_take_time(latency, before, monkeypatch):
    """Each module takes a tenth of the latency and loses a point, of which training takes half a point back."""
    asked = []

    def attempt(cut, precisions, told=None):
        asked.append((len(cut.dropped), bool(cut.refined)))
        lost = Interval.around(len(cut.dropped) - (0.5 if cut.refined else 0.0), 0.1)
        ratio = Interval.around(1 - len(cut.dropped) / 10)
        return tuple(
            Tried(**cut._asdict(), precision=one, lost_points=lost, ratio=ratio, latency_ms=ratio) for one in precisions
        )

    bench = SimpleNamespace(
        config=config_of(latency=latency, max_loss=2.5), place=Place(), attempt=attempt, start_s=0.0
    )
    bench.timed, bench.trained_before, bench.ending_s = lambda several: several, lambda _: "", lambda _: 0.0
    bench.last = Session(())
    monkeypatch.setattr("edgeres.optimize.search._TRAINING_LEAST", 0.0)
    sets = tuple(PlannedSet(drop=tuple("abcdefg"[:n]), ratio=(1 - n / 10,) * 3, lost=float(n)) for n in range(1, 8))
    plan = Plan(model_sha256="0", precision="fp32", tries=sets)
    Search(bench, plan, attempt(WHOLE, ("fp32",)), "fp32", Clock(600.0), None, lambda _: pytest.fail("chosen")).tried()
    assert asked[: len(before)] == before
    assert latency == "0.6x" or asked[len(before)][1]


@pytest.mark.parametrize(
    ("busy", "left_s", "sessions", "taken"),
    [((1, 1, 0), 60, 3, 2), ((1, 1, 1), 60, 3, 1), ((1, 1), 5, 1, 0), ((0,), 60, 1, 0)],
)
def test_a_last_session_that_others_disturbed_is_held_again(monkeypatch, busy, left_s, sessions, taken):
    """Of three disturbed ones the narrowest counts, one that was not before them all; without time one has to do."""
    halves, done = (0.3, 0.1, 0.2), []
    whole = Tried(
        dropped=(), precision="fp32", lost_points=Interval.around(0.0), ratio=Interval.around(1.0),
        latency_ms=Interval.around(1.0),
    )  # fmt: skip
    bench = SimpleNamespace(config=config_of(), place=Place(), start_s=0.0, ending_s=lambda _: 0.0)

    def timed(several):
        bench.last = Session((), warnings=(str(len(done)),), around=Around(*[64.0 * busy[len(done)]] * 2))
        done.append(halves[len(done)])
        return [one.model_copy(update={"ratio": Interval.around(1.0, done[-1])}) for one in several]

    bench.timed = timed
    search = Search(
        bench, Plan(model_sha256="0", precision="fp32"), (whole,), "fp32", Clock(left_s), None, lambda _: None
    )
    search._time_together()
    assert len(done) == sessions
    assert (bench.last.warnings, search.whole[0].ratio.precision) == ((str(taken),), pytest.approx(halves[taken]))


@pytest.mark.parametrize(
    ("latency", "told", "off", "sessions", "warnings"),
    [
        ("0.4x", 0.375, 1.1, 2, ()),  # foreseen to be fast enough, then by chance not
        ("2ms", 0.6, 0.8, 2, ()),  # the other way round, in milliseconds
        ("0.4x", None, 1.05, 2, ()),  # near enough that either may be so
        ("0.36x", 0.352, 1.0, 1, ()),  # foreseen a little too well, and the interval is clear of it
        ("0.36x", 0.352, 1.0, 2, ("machine busy at times; stop others",)),
        ("0.4x", 0.375, 1.0, 1, ("machine busy at times; stop others",)),
        ("0.3x", 0.375, 1.1, 1, ()),
        (None, 0.375, 1.1, 1, ()),
    ],
)
def test_what_chance_may_have_decided_is_timed_once_more(checkpoint, tmp_path, latency, told, off, sessions, warnings):
    asked = []

    def measure(models, config, names=()):
        asked.append(config.seconds)
        by_chance, found = (off if len(asked) == 1 else 1.0), []
        for one, model in zip(clock(models, config).latencies, models, strict=True):
            ms = one.samples_ms[0] * (by_chance if "int8" in model.precision else 1.0)
            rounds = tuple(ms * each for each in (0.98, 1.02, 0.94, 1.06) for _ in range(10))
            found.append(one.model_copy(update={"samples_ms": rounds}))
        return Session(tuple(found), warnings)

    bench = tries.Workbench(checkpoint, config_of(latency=latency), tmp_path / "out", Place(measure=measure))
    predicted = told and Interval.around(told, 0.01)
    cut = tries.Shortened(("layer2.0",))
    tried = bench.attempt(cut, ("fp32", "int8"), predicted)
    assert len(asked) == sessions
    assert asked == sorted(asked)
    if sessions > 1:
        assert tried[-1].ratio.value == pytest.approx(0.375, rel=0.01)
    assert bench.attempt(cut, ("fp32", "int8"), predicted) == tried
    assert len(asked) == sessions


def test_a_set_that_decides_and_for_which_there_is_no_time_is_named():
    bench = SimpleNamespace(config=config_of(latency="0.6x"), start_s=1.0, place=Place(), ending_s=lambda _: 60.0)
    sets = tuple(PlannedSet(drop=tuple("abc"[:n]), ratio=(1 - n / 4,) * 3, lost=0.0) for n in (1, 2, 3))
    whole = Interval.around(1.0)
    none = Interval.around(0.0)
    asked = Tried(dropped=(), refined="", precision="fp32", lost_points=none, ratio=whole, latency_ms=whole)
    search = Search(
        bench,
        Plan(model_sha256="0", precision="fp32", tries=sets),
        (asked,),
        "fp32",
        Clock(30.0),
        None,
        lambda _: pytest.fail("chosen"),
    )
    assert search.tried() == [asked]
    assert search.left_open == "less 2"
    assert search.lacking == " (30s were left; it needs 1m8s for timing all together and handing over up to 1)"
    search.longest_s = 20.0
    assert search.another_s == pytest.approx(38 + 1.2 * 20 + 3.0 + 1.0, abs=0.1)
    search.choice = object()
    assert search.another_s == pytest.approx(1.5 * 66, abs=0.2)
    search._leave_open(1)
    assert search.lacking.startswith(" (30s were left; it needs 24s for the try and 1m8s for timing all")


@pytest.mark.parametrize(("left_s", "unused"), [(34.0, ", handing over took 44s and 34s stayed unused"), (0.0, "")])
def test_a_network_without_time_is_told_with_what_it_needs_and_what_stayed_unused(left_s, unused):
    needs = " (9s were left; it needs 50s)"
    search = SimpleNamespace(left_open="less 2", lacking=needs, found={0: ()}, another_s=41.0, untrained="")
    clock, config = SimpleNamespace(spent_s={"results": 44.0}, left_s=left_s), config_of(budget="180s")
    (line,) = _left_open(search, "", clock, config)
    assert line == (
        f"less 2 may be an answer: --budget 180s left too little time{needs}{unused}; give about 41s more to try one"
        " more, which begins anew"
    )
    assert list(_left_open(search, "too short", clock, config)) == ["no shortened network was tried: too short"]


@pytest.mark.parametrize(("left_s", "is_said"), [(104.0, True), (103.0, False)])
def test_what_was_not_trained_is_told_where_the_time_it_takes_stayed_unused(left_s, is_said):
    search = SimpleNamespace(left_open="", untrained="less 3 was not trained: up to 3m59s", training_s=104.0)
    said = list(_left_open(search, "", SimpleNamespace(spent_s={"results": 39.0}, left_s=left_s), config_of()))
    unused = "less 3 was not trained: up to 3m59s, handing over took 39s and 1m44s stayed unused"
    assert said == ([unused] if is_said else [])


def test_what_is_kept_from_training_is_told_as_the_most_that_it_can_take(caplog):
    """A worst case of two networks handed over, and one was."""
    bench = SimpleNamespace(config=config_of(), start_s=0.0, place=Place(), ending_s=lambda _: 0.0)
    bench.trained_before = lambda _: ""
    sets = (PlannedSet(drop=("a",), ratio=(0.5,), lost=1.0),)
    share = Interval.around(1.0)
    whole = Tried(dropped=(), precision="fp32", lost_points=Interval.around(0.0), ratio=share, latency_ms=share)
    plan = Plan(model_sha256="0", tries=sets)
    search = Search(bench, plan, (whole,), "fp32", Clock(300.0), None, lambda _: pytest.fail("chosen"))
    search.longest_s = 1.0
    with caplog.at_level("INFO", "edgeres"):
        search._train(0)
    told = "of the 5m left judging it, the last session and handing over up to 1 take up to "
    assert f"no time to train a network: {told}" in caplog.text
    assert search.untrained.startswith(f"less 1 was not trained: {told}")


@pytest.mark.parametrize(
    ("name", "latency", "on_train", "lost", "half", "said"),
    [
        ("fast", None, 1.0, 2.1, 1.0, "fast: loses 2.10 on val, more than --max-loss 2, which it kept on 500 train"),
        ("fast", None, 1.0, 1.9, 1.0, ""),
        ("accurate", None, 0.1, 1.7, 1.8, "accurate: loses 1.70 on val, more than 0.1 and a standard error, which"),
        ("accurate", None, 0.1, 0.9, 1.8, ""),
        ("balanced", "0.5x", 1.0, 2.1, 1.0, "balanced: loses 2.10 on val, more than --max-loss 2, which it kept"),
        ("balanced", "0.5x", 3.0, 9.0, 1.0, ""),  # not kept on train either, and that is said
        ("balanced", None, 1.0, 9.0, 1.0, "balanced: loses 9.00 on val, more than --max-loss 2, which it kept"),
        ("accurate", None, 0.1, 9.0, 9.9, "accurate: loses 9.00 on val, more than --max-loss 2, which it kept"),
    ],
)
def test_what_val_says_against_a_name_is_said(name, latency, on_train, lost, half, said):
    tried = SimpleNamespace(lost_points=Interval.around(on_train))
    results = [
        SimpleNamespace(name=name, tried=tried, val_lost_points=of) for of in (Interval.around(lost, half), None)
    ]
    found = list(_beyond(results, config_of(max_loss=2.0, latency=latency), 500))
    assert [line[: len(said)] for line in found] == ([said] if said else [])
    by = "a slower --latency" if latency else "a smaller --max-loss drops fewer modules"
    points = f"allow more points (a greater --max-loss), ask for less speed ({by}), or " * ("--max-loss 2" in said)
    assert all(line.endswith(f"; {points}give more images and time to judge on") for line in found)


def test_an_end_that_came_late_is_said():
    config = config_of(budget="10m")
    (line,) = _passed(SimpleNamespace(left_s=-70.0), config)
    assert line.startswith("took 11m10s of --budget 10m: judging and timing the results took longer than")
    assert not list(_passed(SimpleNamespace(left_s=-50.0), config))


def test_a_training_for_which_there_is_no_time_after_all_is_left_out(checkpoint, one_set, tmp_path, monkeypatch):
    monkeypatch.setattr("edgeres.optimize.stage.three", lambda *_, **__: ([], []))
    monkeypatch.setattr("edgeres.optimize.search._TRAINING_LEAST", 0.1)
    asked = []

    def busy(stage, source, config, *_):
        if getattr(config, "budget", None):
            asked.append(config.budget)
            raise BudgetTooShort("--budget 12s is too short")
        return real(stage, source, config, *_)

    real = tries.execute
    monkeypatch.setattr(tries, "execute", busy)
    optimize(checkpoint, config_of(latency="0.4x", plan=one_set), tmp_path / "out", place=Place(measure=clock))
    tried = record_from_json(Frontier, tmp_path / "out" / "frontier.json").tried
    assert len(asked) == 1
    assert len(tried) == 4
    assert {one.refined for one in tried} == {""}


def test_what_an_interrupted_call_has_trained_is_not_trained_again(checkpoint, one_set, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgeres.optimize.stage.three", interrupted)
    monkeypatch.setattr("edgeres.optimize.search.TRAINING_SHARE", 0.2)  # enough on a busy machine
    monkeypatch.setattr("edgeres.optimize.search._TRAINING_LEAST", 0.0)
    config = config_of(latency="0.4x", plan=one_set)
    with pytest.raises(KeyboardInterrupt):
        optimize(checkpoint, config, tmp_path / "out", place=Place(measure=clock))
    before = json.loads((tmp_path / "out" / "tried.json").read_text())["records"]
    monkeypatch.setattr("edgeres.optimize.stage.three", lambda *_, **__: ([], []))
    monkeypatch.setattr("edgeres.optimize.search.TRAINING_SHARE", 0.3)  # another time than it had
    monkeypatch.setattr(tries, "execute", lambda stage, *_: pytest.fail(f"{stage} ran again"))
    optimize(checkpoint, config, tmp_path / "out", place=Place(measure=clock))
    found = record_from_json(Frontier, tmp_path / "out" / "frontier.json")
    trained = {one.refined for one in found.tried} - {""}
    assert trained == {one["refined"] for records in before.values() for one in records} - {""} != set()


def test_an_embedding_is_held_against_the_whole_networks(tmp_path):
    import torch
    from torch import nn

    from edgeres import api

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()) for _ in range(2))
            self.stem = nn.Conv2d(1, 4, 3, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for one in self.body:
                x = x + one(x)
            return nn.functional.normalize(x.mean((2, 3)))

    torch.manual_seed(0)
    path = tmp_path / "embedding.safetensors"
    api.trace(Pooled().eval(), torch.zeros(1, 1, 8, 8), path, preprocess=api.Preprocess(mean=(0.5,), std=(0.25,)))
    source = Checkpoint(path)
    assert source.spec.task == "embedding"
    done = optimize(source, config_of(budget="20m"), tmp_path / "out", place=Place(measure=clock))
    found = record_from_json(Frontier, done.output.path)
    assert found.lost_are == "hundredths of cosine"
    assert found.tried[0].lost_points.value == pytest.approx(0, abs=1e-3)
    assert all(one.lost_points.value >= -1e-3 for one in found.tried)
    assert all(one.top1 is None and one.val_lost_points is not None for one in found.results)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latency": "8ms"}, r"--latency 8ms is met already: the whole float network takes 4\.000 ms"),
        ({"latency": "0.5"}, r"--latency 0\.5: say milliseconds such as 3ms, or a share below 1"),
        ({"latency": "1.5x"}, r"--latency 1\.5x: say milliseconds such as 3ms, or a share below 1"),
        ({"budget": "1s"}, r"--budget 1s is too short to try anything: .* or more"),
        ({"plan": "gone.toml"}, r"--plan gone\.toml does not exist"),
        ({"plan": "unknown.toml"}, r"layer9\.9"),
        ({"keep": ("layer9.9",)}, r"layer9\.9"),
        ({"plan": "known.toml", "keep": ("layer2.0",)}, r"known\.toml drops layer2\.0, which --keep names"),
        ({"keep": tuple(f"layer{i}.{j}" for i in (1, 2, 3) for j in (0,))}, "none may be dropped"),
    ],
)
def test_what_cannot_be_done_is_one_line(checkpoint, tmp_path, options, said):
    text = f'model_sha256 = "{checkpoint.sha256}"\n[[tries]]\ndrop = ["layer9.9"]\n'
    (tmp_path / "unknown.toml").write_text(text)
    (tmp_path / "known.toml").write_text(text.replace("layer9.9", "layer2.0"))
    with pytest.raises(InputError, match=said) as err:
        optimize(checkpoint, config_of(**options), tmp_path / "out", place=Place(measure=clock))
    assert "\n" not in str(err.value)


def test_a_network_without_modules_is_refused_before_anything_is_measured(checkpoint, tmp_path):
    names = tuple(info.name for info in modules_of(checkpoint.spec))
    bare = checkpoint_without(checkpoint, names, tmp_path / "bare.safetensors")
    place = Place(measure=lambda *_: pytest.fail("was measured"))
    with pytest.raises(InputError, match="no residual module left to drop"):
        optimize(bare, config_of(), tmp_path / "out", place=place)


def test_too_few_images_to_judge_on(checkpoint, tmp_path):
    import numpy as np

    images = np.zeros((300, 8, 8), np.uint8)
    np.savez(tmp_path / "few.npz", images=images, labels=np.arange(300) % 10)
    with pytest.raises(InputError, match=r"are left to judge on, 200 are needed; add images"):
        optimize(
            checkpoint, config_of(data=f"npz:{tmp_path / 'few.npz'}"), tmp_path / "out", place=Place(measure=clock)
        )


def test_few_images_are_shared_out_so_that_some_are_left_to_judge_on(checkpoint, tmp_path):
    import numpy as np

    np.savez(tmp_path / "few.npz", images=np.zeros((800, 8, 8), np.uint8), labels=np.arange(800) % 10)
    config = config_of(data=f"npz:{tmp_path / 'few.npz'}", images=500)
    bench = tries.Workbench(checkpoint, config, tmp_path / "out", Place(measure=clock))
    assert len(bench.dataset.train) < config.images + 200
    assert len(bench.held_out) >= 200


def test_a_recipe_says_of_how_the_network_was_brought_only_what_was_said(checkpoint, tmp_path):
    made = call(Call("import", run="mine", values={"file": checkpoint.path})).output
    bench = tries.Workbench(Checkpoint(made.path), config_of(), tmp_path / "out", Place(measure=clock))
    assert results._brought(bench) == {"use": "import", "file": str(checkpoint.path)}


def test_a_budget_that_the_pace_of_a_few_images_forbids_is_refused_at_once(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(tries.Workbench, "_pace_s", 1.0)
    monkeypatch.setattr(tries.Workbench, "attempt", lambda *_: pytest.fail("the whole network was judged"))
    with pytest.raises(InputError, match="judging the whole network twice takes"):
        optimize(checkpoint, config_of(), tmp_path / "out", place=Place(measure=clock))


class Many:
    """A split of so many images."""

    is_labelled = True

    def __init__(self, n: int) -> None:
        self.n, self.ids = n, range(n)

    def __len__(self) -> int:
        return self.n

    def sample(self, n: int, seed: int) -> Many:
        return Many(n)


def refused_or_found(bench, monkeypatch, *, turn_s, int8=0.98):
    """What `_whole` says where each network takes `turn_s` and every image its time."""
    now = [0.0]
    float_, fast = (Tried(dropped=(), precision=one, lost_points=Interval.around(0.0), ratio=ratio, latency_ms=ratio)
                    for one, ratio in (("fp32", Interval.around(1.0)), ("int8", Interval.around(int8))))  # fmt: skip

    def attempt(self, cut, precisions, told=None):
        now[0] += 2 * turn_s + self.judging_s
        return float_, fast

    monkeypatch.setattr(tries.Workbench, "attempt", attempt)
    monkeypatch.setattr("edgeres.optimize.stage.time", SimpleNamespace(perf_counter=lambda: now[0]))
    try:
        return _whole(bench)
    except InputError as err:
        return str(err)


@pytest.mark.parametrize("asked", [{}, {"plan_only": True}, {"latency": "0.8x"}])
@pytest.mark.parametrize("pace_s", [0.0005, 0.02])
@pytest.mark.parametrize("turn_s", [1.0, 40.0, 2000.0])
def test_the_budget_that_a_refusal_names_is_accepted(checkpoint, tmp_path, monkeypatch, asked, pace_s, turn_s):
    monkeypatch.setattr(tries.Workbench, "_pace_s", pace_s)
    refused = 0
    for budget in ("1s", "1m", "3m", "17m", "59m30s", "1h"):
        bench = tries.Workbench(checkpoint, config_of(**asked, budget=budget), tmp_path, Place(measure=clock))
        bench.dataset = SimpleNamespace(train=Many(50_000), val=Many(10_000))
        bench.held_out = Many(40_000)
        for _ in range(2):  # before anything is judged, and then by what that took
            if isinstance(said := refused_or_found(bench, monkeypatch, turn_s=turn_s), str):
                refused += 1
                least = re.search(r"it takes (\S+) or more", said)[1]
                more = seconds_from(least) / seconds_from(bench.config.budget)
                assert more > 1
                bench.config = config_of(**asked, budget=least)
                del bench.__dict__["judged_on"]
        slower = 1.4 if bench.config.budget != budget else 1
        assert refused_or_found(bench, monkeypatch, turn_s=turn_s * slower)[1] == ""
        needed_s = 3 * (2 * turn_s + bench.judging_s) + bench.ending_s()
        assert bench.config.budget == budget or bench.config.budget_s < 1.6 * needed_s
    assert refused


@pytest.mark.parametrize(
    ("goal", "is_handed_over"), [({"latency": "0.6x"}, True), ({"latency": "0.5x"}, False), ({}, True)]
)
def test_where_int8_is_an_answer_time_to_hand_it_over_is_enough(
    checkpoint, tmp_path, monkeypatch, caplog, goal, is_handed_over
):
    monkeypatch.setattr(tries.Workbench, "_pace_s", 0.001)
    bench = tries.Workbench(checkpoint, config_of(**goal, budget="2m30s"), tmp_path, Place(measure=clock))
    with caplog.at_level("INFO", "edgeres"):
        found = refused_or_found(bench, monkeypatch, turn_s=20.0, int8=0.55)
    said = caplog.text if is_handed_over else found
    assert "with choosing, one try and the last tables it takes" in said
    assert not is_handed_over or found[1] in said
    plan = tries.Workbench(
        checkpoint, config_of(**goal, budget="1m30s", plan_only=True), tmp_path / "plan", Place(measure=clock)
    )
    assert "with choosing it takes" in refused_or_found(plan, monkeypatch, turn_s=40.0, int8=0.55)


def test_what_a_board_takes_to_build_and_start_is_no_part_of_the_end(checkpoint, tmp_path, monkeypatch):
    now_s = [0.0]

    def slow(models, config, names):
        now_s[0] += 0.05
        return clock(models, config)

    def build(_):
        now_s[0] += 0.5
        return 0.0

    started = {}
    for name, costs in (("here", None), ("board", lambda *_: None)):
        bench = tries.Workbench(
            checkpoint, config_of(), tmp_path / name, Place(measure=slow, costs=costs, prepare=build)
        )
        bench.start_s = -math.inf
        with monkeypatch.context() as patch:
            patch.setattr("time.perf_counter", lambda: now_s[0])
            bench.timed([], seconds=1e-6)
        assert bench.start_s == pytest.approx(0.05, abs=1e-5)
        bench.start_s = 30.0
        started[name] = bench.ending_s()
    assert started["here"] > started["board"] + 3 * (5 * 29 + 4 * 29) - 1


def test_warnings_name_what_was_tried_and_what_times_it_again(checkpoint, tmp_path, monkeypatch):
    asked = []

    def timed(models, config, names):
        asked.append(names)
        return clock(models, config)._replace(warnings=("busy: stop it and run again", "a: outliers: run again"))

    monkeypatch.setattr(tries, "measure", lambda *asked, names: timed(*asked, names))
    bench = tries.Workbench(checkpoint, config_of(), tmp_path / "out")
    figures = dict.fromkeys(("lost_points", "ratio", "latency_ms"), Interval.around(0.0))
    bench.timed([Tried(dropped=(), precision=one, **figures) for one in ("fp32", "int8")])
    assert asked == [["whole, fp32", "whole, int8"]]
    again = "run again: the same edgeres optimize with --seed 1"  # the same command alone shows what it found
    assert bench.last.warnings == (f"busy: stop it and {again}", f"a: outliers: {again}")


def test_all_warnings_that_the_verdict_counts_are_listed_and_all_time_that_the_report_counts(
    checkpoint, one_set, tmp_path, monkeypatch
):
    doubts, folder = tuple(f"{one}: outliers; stop other programs" for one in "abcdef"), tmp_path / "01-optimize"
    folder.mkdir()
    (folder / STARTED_NAME).write_text(started_text("optimize", "key", 90.0))
    monkeypatch.setattr("edgeres.optimize.stage.three", lambda *_, **__: ([], []))
    place = Place(measure=lambda *asked: clock(*asked)._replace(warnings=doubts))
    report = optimize(checkpoint, config_of(plan=one_set), folder, place=place).report
    found = record_from_json(Frontier, folder / "frontier.json")
    assert found.verdict == "doubtful: a: outliers (and 5 more, see the warnings)"
    assert report.warnings[-6:] == doubts
    assert report.notes[0].startswith("time went for: earlier calls 1m30s, whole network ")
    assert sum(found.spent_s.values()) == pytest.approx(90 + report.duration_s, abs=2)


def test_the_end_is_expected_to_take_longer_where_starts_do(checkpoint, tmp_path):
    bench = tries.Workbench(checkpoint, config_of(), tmp_path / "out", Place(measure=clock))
    quick = bench.ending_s()
    bench.last_pace_s = 2 * bench._pace_s
    assert bench.ending_s() > quick
    bench.last_pace_s = 0.0
    bench.start_s = 4.0
    assert bench.ending_s() == pytest.approx(quick + 1.2 * 3 * (5 * 3 + 4 * 3))
    plan = tries.Workbench(checkpoint, config_of(plan_only=True), tmp_path / "plan", Place(measure=clock))
    assert plan.ending_s() == 0  # nothing is handed over


def test_how_many_val_images_are_judged_on_goes_by_the_pace_seen_last(checkpoint, tmp_path, monkeypatch):
    """The first images were read beside another program."""
    monkeypatch.setattr(tries.Workbench, "_pace_s", 0.01)
    bench = tries.Workbench(checkpoint, config_of(), tmp_path / "out", Place(measure=clock))
    bench.dataset = SimpleNamespace(val=Many(10_000))
    assert bench.kept_on_val == 545  # a tenth of ten minutes for eleven networks
    bench.last_pace_s = 0.002
    assert bench.kept_on_val == 2727
    assert bench.ending_s() == pytest.approx(1.2 * (60 + 3 * (5 * (3 * 1 + 1) + 4)), abs=1)


@pytest.mark.parametrize(
    ("dropped", "left_s", "n"),
    [(((),), 285.0, 2500), (((),), 60.0, 2268), ("abc", 285.0, 2500), ("abc", 160.0, 2291), ("abc", 0.0, 2025)],
)
def test_all_of_val_is_judged_where_what_is_left_allows_it(checkpoint, tmp_path, monkeypatch, dropped, left_s, n):
    """Time was kept for three networks, of which one may be left; judging may take twice as long as reckoned."""
    monkeypatch.setattr(tries.Workbench, "_pace_s", 0.002424)
    bench = tries.Workbench(checkpoint, config_of(budget="9m"), tmp_path / "out", Place(measure=clock))
    bench.dataset = SimpleNamespace(val=Many(2500))
    assert bench.kept_on_val == 2025
    results = [SimpleNamespace(dropped=one, precision="int8") for one in dropped]
    assert bench.val_within(left_s, results) == n


@pytest.mark.parametrize(
    ("precision", "latency", "answers"),
    [("fp32", "0.6x", [1, 2]), ("int8", "0.6x", [3, 3]), ("fp32", None, [1, 2])],
)
def test_time_is_kept_for_the_results_that_there_can_be(precision, latency, answers):
    """Whole in float is no answer, in INT8 it is where that loses nothing; a set comes in one precision or in two."""
    asked = []
    bench = SimpleNamespace(config=config_of(latency=latency), start_s=0.0, place=Place(), ending_s=asked.append)

    def tried(dropped, one, ratio, lost):
        share = Interval.around(ratio)
        figures = {"lost_points": Interval.around(lost), "ratio": share, "latency_ms": share}
        return Tried(dropped=dropped, refined="", precision=one, **figures)

    whole = [tried((), "fp32", 1.0, 0.0)] + ([tried((), "int8", 0.7, 0.0)] if precision == "int8" else [])
    sets = (PlannedSet(drop=("a",), ratio=(0.5,), lost=1.0),)
    plan = Plan(model_sha256="0", precision=precision, tries=sets)
    search = Search(bench, plan, tuple(whole), precision, Clock(60.0), None, lambda _: pytest.fail("chosen"))
    bench.ending_s = lambda most: asked.append(most) or 0.0
    _ = search._spare_s
    search.found[0] = (tried(("a",), precision, 0.5, 1.0),)
    _ = search._spare_s
    assert asked == answers


def test_nothing_that_quantizes_learns_from_images_that_are_judged_on(checkpoint, tmp_path):
    for profile in ("ort-cpu", "tensorrt"):
        bench = tries.Workbench(checkpoint, config_of(), tmp_path / profile, Place(profile, measure=clock))
        bench.in_precision("int8")
        (report,) = bench.folder(tries.WHOLE).glob("*-quantize/report.json")
        assert json.loads(report.read_text())["results"]["effort"] == "quick"
