import pytest

from edgeres.bench.stage import Session
from edgeres.bench.validity import Around
from edgeres.core.amounts import target_from
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval, Latency
from edgeres.core.records.latency import LatencyConfig, LatencyTable, ModuleCost
from edgeres.costs.check import Checked, check_prediction

SAVED_MS = {"layer1.0": 0.4, "layer2.0": 0.1, "layer3.0": 0.2}


def around(value, half=0.0):
    return Interval(value=value, low=value - half, high=value + half)


def table_of(spec):
    return LatencyTable(
        model_sha256="0",
        spec=spec,
        conditions=LatencyConfig(threads=1, rounds=5),
        runtime="fake",
        machine="m",
        session="s",
        whole_ms=around(1.0),
        measured_ms=around(1.0),
        rest_ms=0.3,
        shapes=tuple(SAVED_MS),
        table=tuple(
            ModuleCost(module=name, kind="identity", shape=name, saved_ms=around(value))
            for name, value in SAVED_MS.items()
        ),
        covariance=((0.0,) * 4,) * 4,
        fit_error=0.0,
        degrees=8,
    )


def session_of(pruned_ms, whole_ms):
    """A machine on which the whole network takes `whole_ms` and the other one `pruned_ms`."""

    def measure(models, config):
        def latency(model):
            value = pruned_ms if "layer1.0" in model.spec.dropped else whole_ms
            return Latency(
                samples_ms=(value,) * 10,
                rounds=(2,) * 5,
                batch=1,
                runtime="fake",
                threads=1,
                session="now",
                artifact=model.sha256,
                warmup=1,
                machine="m",
            )

        return Session(tuple(latency(model) for model in models), around=Around(0.0, 0.0))

    return measure


@pytest.fixture
def pair(checkpoint_of, spec_of):
    spec = spec_of("resnet8")
    whole = checkpoint_of(spec)
    return checkpoint_of(spec.without(("layer1.0",)), "pruned.safetensors"), whole, table_of(spec)


def checked(pair, tmp_path, *, pruned_ms, whole_ms):
    return check_prediction(*pair, folder=tmp_path / "check", measure=session_of(pruned_ms, whole_ms))


def test_ratios_compare_whatever_the_machines_speed_today(pair, tmp_path):
    found = checked(pair, tmp_path, pruned_ms=1.32, whole_ms=2.0)
    assert found.predicted_ratio == pytest.approx(0.6)
    assert found.ratio.value == pytest.approx(0.66)
    assert found.error_percent == pytest.approx(10.0)
    assert found.dropped == ("layer1.0",)
    assert "predicted 0.600: off by +10.0 %" in found.line()
    assert list((tmp_path / "check").iterdir()) == []


def test_a_share_is_judged_on_the_ratio_alone(pair, tmp_path):
    slow_today = checked(pair, tmp_path, pruned_ms=1.2, whole_ms=2.0)
    assert slow_today.missing_ms(target_from("0.6x")) == pytest.approx(0, abs=1e-9)
    assert slow_today.missing_ms(target_from("0.5x")) == pytest.approx(0.1)


def test_milliseconds_are_judged_now_and_at_the_tables_speed(pair, tmp_path):
    slow_today = checked(pair, tmp_path, pruned_ms=1.2, whole_ms=2.0)
    assert slow_today.missing_ms(target_from("1.0ms")) == pytest.approx(0.1)
    fast_today = checked(pair, tmp_path, pruned_ms=0.3, whole_ms=0.5)
    assert fast_today.missing_ms(target_from("0.5ms")) == pytest.approx(0.1)
    assert fast_today.missing_ms(target_from("0.6ms")) == pytest.approx(0, abs=1e-9)


def test_networks_the_table_is_not_of_are_refused(pair, checkpoint_of, spec_of, tmp_path):
    other = checkpoint_of(spec_of("resnet14"), "other.safetensors")
    with pytest.raises(InputError, match="of another network"):
        check_prediction(other, pair[1], pair[2], folder=tmp_path, measure=session_of(1, 2))


def test_a_check_reads_back_as_it_was(pair, tmp_path):
    found = checked(pair, tmp_path, pruned_ms=1.2, whole_ms=2.0)
    assert Checked.model_validate_json(found.model_dump_json()) == found


FACTORS = (0.9, 0.9, 0.9, 0.9, 1.0, 1.0, 1.1, 1.1, 1.1, 1.1)


def unsteady(pruned_ms, calls):
    """The pruned network between 0.9 and 1.1 times `pruned_ms[i]` in the i-th session."""

    def measure(models, config):
        value = pruned_ms[len(calls)]
        calls.append(len(models))
        session = session_of(value, 2.0)(models, config)
        spread = [
            one.model_copy(update={"samples_ms": tuple(factor * value for factor in FACTORS)})
            for one in session.latencies[1::2]
        ]
        whole = session.latencies[::2]
        return Session(tuple(x for pair in zip(whole, spread, strict=True) for x in pair), around=Around(0.0, 0.0))

    return measure


@pytest.mark.parametrize(
    ("pruned_ms", "sizes"),
    [((1.22, 1.15), [6, 12]), ((1.22, 1.22), [6, 12]), ((1.15,), [6]), ((1.9,), [6])],
    ids=["open, then met", "open twice", "met at once", "clearly missed"],
)
def test_a_miss_that_the_interval_leaves_open_is_measured_again(pair, tmp_path, pruned_ms, sizes):
    calls = []
    check_prediction(*pair, folder=tmp_path, target=target_from("0.6x"), measure=unsteady(pruned_ms, calls))
    assert calls == sizes
