import pytest

from edgeres.core.amounts import target_from
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval
from edgeres.core.records.latency import LatencyConfig, LatencyTable, ModuleCost
from edgeres.models.weights import cost_of
from edgeres.prune.config import PruneConfig
from edgeres.prune.goals import goal_from, macs_text, worth
from edgeres.prune.stage import prune

ALL = ("layer1.0", "layer2.0", "layer3.0")
SAVED_MS = dict(zip(ALL, (0.4, 0.1, 0.2), strict=True))


@pytest.fixture
def spec(spec_of):
    return spec_of("resnet8")


@pytest.fixture
def table(spec):
    return table_from(spec, SAVED_MS)


def table_from(spec, saved_ms, half=0.01):
    return LatencyTable(
        model_sha256="0",
        spec=spec,
        conditions=LatencyConfig(threads=1),
        runtime="fake",
        machine="m",
        session="s",
        whole_ms=around(1.0, half),
        measured_ms=around(1.0, half),
        rest_ms=0.3,
        shapes=ALL,
        table=tuple(
            ModuleCost(module=name, kind="identity", shape=name, saved_ms=around(value, half))
            for name, value in saved_ms.items()
        ),
        covariance=((0.0,) * 4,) * 4,
        fit_error=0.0,
        degrees=8,
    )


def around(value, half):
    return Interval(value=value, low=value - half, high=value + half)


def goal(spec, table=None, **values):
    return goal_from(PruneConfig(data="digits", **values), ALL, spec, table)


def test_dropping_a_number_counts_one_each(spec):
    assert goal(spec, drop=2).needed == 2
    assert set(goal(spec, drop=2).gain.values()) == {1.0}
    with pytest.raises(InputError, match="cannot drop 4 modules: resnet8 has 3"):
        goal(spec, drop=4)


@pytest.mark.parametrize("text", ["0.75ms", "0.75x", " .75 ms "])
def test_a_latency_needs_what_is_between_now_and_the_target(spec, table, text):
    found = goal(spec, table, target_latency=text)
    assert found.needed == pytest.approx(0.25)
    assert found.gain == SAVED_MS


def test_a_share_is_of_the_network_at_hand(spec, table):
    pruned = spec.without(("layer1.0",))
    found = goal_from(PruneConfig(target_latency="0.9x", data="digits"), ALL[1:], pruned, table)
    assert found.needed == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5ms", r"5ms: 1\.00 ms <= 5\.00 ms: nothing to drop"),
        ("0.2ms", r"best reachable 0\.30 ms \(0\.30x\) of 1\.00 ms, with all 3 candidates dropped"),
        ("0.2x", r"best reachable 0\.30 ms"),
        ("3s", "say milliseconds such as 3ms"),
        ("3", "--target-latency 3: say milliseconds such as 3ms"),
        ("1.2x", "share below 1"),
        ("0", "say milliseconds"),
        ("fast", "fast: say milliseconds"),
    ],
)
def test_a_latency_that_cannot_be_a_goal(spec, table, text, message):
    with pytest.raises(InputError, match=message) as caught:
        goal(spec, table, target_latency=text)
    assert "\n" not in str(caught.value)


def test_a_latency_without_a_table_says_how_to_make_one(checkpoint_of, spec, tmp_path):
    whole = checkpoint_of(spec)
    with pytest.raises(InputError, match=f"edgeres bench --per-module {whole.path}$"):
        prune(whole, PruneConfig(data="digits", target_latency="3ms"), tmp_path)


def test_a_table_of_another_network_is_refused(spec_of, table):
    with pytest.raises(InputError, match="of another network"):
        goal_from(PruneConfig(target_latency="0.9x", data="digits"), ALL, spec_of("resnet14"), table)


def test_macs_are_those_of_the_network_without_the_module(spec):
    whole = cost_of(spec).macs
    found = goal(spec, macs="0.5x")
    assert found.needed == pytest.approx(whole / 2)
    assert found.gain == {name: whole - cost_of(spec.without((name,))).macs for name in ALL}
    assert goal(spec, macs=f"{whole / 2e6}M").needed == pytest.approx(whole / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [("60G", "nothing to drop"), ("0.0001x", "best reachable"), ("60", "say a share"), ("0x", "say a share")],
)
def test_macs_that_cannot_be_a_goal(spec, text, message):
    with pytest.raises(InputError, match=message):
        goal(spec, macs=text)


def test_a_target_keeps_its_form():
    assert str(target_from("3ms")) == "3 ms"
    assert str(target_from("0.8x")) == "0.8x"
    assert target_from("0.8x").of(2.0) == pytest.approx(1.6)


def test_not_worth_it_is_what_costs_much_for_little(spec):
    table = table_from(spec, {"layer1.0": 0.1, "layer2.0": 0.02, "layer3.0": 0.1})
    assert worth(table, {"layer1.0": 0.5, "layer2.0": 0.4, "layer3.0": 0.6}) == [
        "layer2.0 saves 0.02 ms and costs 0.4 points"
    ]


def test_what_saves_nothing_measurable_is_not_worth_any_point(spec):
    table = table_from(spec, {"layer1.0": 0.1, "layer2.0": 0.005, "layer3.0": 0.1})
    assert worth(table, {"layer1.0": 0.5, "layer2.0": 0.01, "layer3.0": 0.6})[0].startswith("layer2.0 saves 0.005 ms")
    assert worth(table, {"layer1.0": 0.5, "layer2.0": -0.01, "layer3.0": 0.6}) == []


def test_few_macs_have_digits_left():
    assert [macs_text(value) for value in (4.09e9, 125_485_706, 31_240, 12)] == ["4.09G", "125.5M", "31.24k", "12"]


@pytest.mark.parametrize("option", ["images", "choose_on"])
def test_the_number_of_images_that_is_too_small_is_named(option):
    with pytest.raises(
        InputError, match=f"^8 images are too few to choose on: --{option.replace('_', '-')} 16 or more$"
    ):
        PruneConfig(drop=1, data="digits", **{option: 8}).check()
