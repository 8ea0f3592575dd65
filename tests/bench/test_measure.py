import pytest

from edgeres.bench.measure import Turn, take_turn, warm_up


class FakeClock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


class FakeRunner:
    """Each call takes the next of `durations_s`, the last one for ever; time passes in `synchronize`."""

    name, batch = "fake", None

    def __init__(self, clock, durations_s):
        self.clock, self.durations_s = clock, list(durations_s)
        self.calls = self.waiting = 0

    def step(self):
        self.calls += 1
        self.waiting += 1

    def synchronize(self):
        for _ in range(self.waiting):
            self.clock.now_s += self.durations_s.pop(0) if len(self.durations_s) > 1 else self.durations_s[0]
        self.waiting = 0


def test_samples_are_single_synchronised_calls_in_milliseconds():
    clock = FakeClock()
    samples = take_turn(FakeRunner(clock, [9, 9, 9, 0.001, 0.002, 0.003]), Turn(seconds=0, least=3, most=9), clock)
    assert samples == pytest.approx([1, 2, 3])


def test_calls_right_after_another_models_turn_are_not_counted():
    clock = FakeClock()
    runner = FakeRunner(clock, [0.5, 0.5, 0.5, 0.01])
    assert max(take_turn(runner, Turn(seconds=0.1, least=1, most=100), clock)) == pytest.approx(10)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (Turn(seconds=0.1, least=1, most=100), 10),
        (Turn(seconds=0.1, least=1, most=4), 4),
        (Turn(seconds=0.001, least=7, most=100), 7),
    ],
)
def test_a_turn_ends_by_time_within_its_bounds(turn, expected):
    clock = FakeClock()
    assert len(take_turn(FakeRunner(clock, [0.01001]), turn, clock)) == expected


def test_warm_up_ends_once_the_speed_is_stable():
    clock = FakeClock()
    slow_start = [0.1] * 3 + [0.05] * 5 + [0.01]
    calls, is_stable = warm_up(FakeRunner(clock, slow_start), clock)
    assert is_stable
    assert calls > len(slow_start)


def test_warm_up_gives_up_on_a_model_that_keeps_changing():
    clock = FakeClock()
    growing = [0.01 * 1.05**call for call in range(200)]
    _, is_stable = warm_up(FakeRunner(clock, growing), clock)
    assert not is_stable
    assert clock.now_s >= 10
