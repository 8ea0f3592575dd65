from pathlib import Path

import numpy as np
import pytest

from edgeres.bench.config import share_from
from edgeres.bench.session import Measured, enough_for, precision_of
from edgeres.bench.stage import BenchConfig
from edgeres.bench.worker import Job, Ready, Samples
from edgeres.core.config import config_from
from edgeres.core.errors import InputError


def measured(rounds, spread, seed=0):
    """Rounds of five calls around a millisecond."""
    generator = np.random.default_rng(seed)
    one = Measured(Job(path=Path("m"), batch=1, threads=1), Ready(runtime="", warmup=1, stable=True))
    for _ in range(rounds):
        one.add(Samples(samples_ms=(1 + spread * generator.standard_normal(5)).tolist()))
    return one


def grown(spread, *, precision, limit_s=1e9, most=2000):
    """Rounds after which a session of one such model ends."""
    enough, generator = enough_for(precision, models=1, limit_s=limit_s), np.random.default_rng(0)
    one = measured(19, spread)
    while len(one.rounds) < most:
        one.add(Samples(samples_ms=(1 + spread * generator.standard_normal(5)).tolist()))
        if enough([one]):
            return len(one.rounds), precision_of(one)
    raise AssertionError("never enough")


@pytest.mark.parametrize("text", ["1%", "1 %", "0.01", " .01 ", "1.0%"])
def test_a_precision_is_written_in_percent_or_as_a_share(text):
    assert share_from(text) == pytest.approx(0.01)


@pytest.mark.parametrize("text", ["", "0", "0%", "-1%", "1", "60%", "one", "1%%", "nan", "int8"])
def test_anything_else_is_refused_with_how_to_write_it(text):
    with pytest.raises(InputError, match=r"bench: --precision: a precision is written 1% or 0.01"):
        config_from(BenchConfig, {"precision": text}, "bench", as_options=True)


def test_a_recipe_may_give_a_number():
    assert BenchConfig.model_validate({"precision": 0.02}).precision_share == 0.02
    assert BenchConfig().precision_share is None


def test_a_quiet_model_is_done_after_the_first_rounds():
    rounds, reached = grown(0.005, precision=0.01)
    assert rounds == 20
    assert reached <= 0.01


def test_a_noisy_model_takes_as_many_rounds_as_it_needs_and_no_time_limit_ends_it():
    rounds, reached = grown(0.1, precision=0.01)
    assert 60 < rounds < 1000
    assert reached <= 0.01


def test_the_interval_is_looked_at_less_often_the_longer_it_takes(monkeypatch):
    looked = []
    monkeypatch.setattr("edgeres.bench.session.precision_of", lambda one: looked.append(len(one.rounds)) or 1.0)
    enough = enough_for(0.01, models=1, limit_s=1e9)
    one = measured(20, 0.1)
    for _ in range(80):
        enough([one])
        one.add(Samples(samples_ms=[1.0]))
    assert looked == [20, 25, 32, 40, 50, 63, 79, 99]


def test_time_ends_it_though_the_precision_is_out_of_reach():
    rounds, reached = grown(0.1, precision=1e-6, limit_s=0.5)
    assert rounds == pytest.approx(100, abs=10)
    assert reached > 1e-6


def test_the_worst_known_of_the_models_decides_and_the_others_do_not():
    quiet, noisy = measured(20, 0.001), measured(20, 0.2)
    assert not enough_for(0.01, models=2, limit_s=1e9)([quiet, noisy])
    assert enough_for(0.01, models=1, limit_s=1e9)([quiet, noisy])


def test_a_limit_of_time_without_a_precision_is_told_to_be_needless():
    assert list(BenchConfig(max_seconds=5).needless()) == ["max_seconds"]
    assert BenchConfig(max_seconds=5, precision="1%").needless() == {}
