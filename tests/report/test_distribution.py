import numpy as np
import pytest

from edgeres.report.figures import distribution_of


def latency_of(fake_run, samples_ms):
    _, output = fake_run.model("import", "model.safetensors", 1000)
    return fake_run.latency(output, 1.0).model_copy(update={"samples_ms": tuple(samples_ms), "rounds": ()})


@pytest.mark.parametrize(
    "samples_ms",
    [np.linspace(1, 2, 777), np.geomspace(0.05, 300, 500), [3.0] * 50, [1.0], [1e-9, 1e-9], [1.0, 1.0000001]],
    ids=["even", "long tail", "all alike", "one call", "tiny", "nearly alike"],
)
def test_every_call_is_counted_once(fake_run, samples_ms):
    found = distribution_of(latency_of(fake_run, samples_ms))
    assert sum(found.counts) + found.above == len(samples_ms)
    assert len(found.edges_ms) == len(found.counts) + 1
    assert found.edges_ms[0] <= min(samples_ms)
    assert found.slowest_ms == max(samples_ms)


def test_few_calls_lie_beyond_the_axis(fake_run):
    found = distribution_of(latency_of(fake_run, [*np.linspace(1, 1.1, 990), *[500.0] * 5]))
    assert 0 < found.above <= 10
    assert not found.is_log
