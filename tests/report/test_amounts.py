import pytest

from edgeres.core.errors import InputError
from edgeres.report.gate import GateConfig


@pytest.mark.parametrize(("text", "ms"), [("5ms", 5), ("800us", 0.8), ("0.02s", 20), (" 1.5 ms ", 1.5)])
def test_latencies_are_read_with_their_unit(text, ms):
    assert GateConfig(max_p50=text).rules[0].limit == pytest.approx(ms)


@pytest.mark.parametrize(("text", "size"), [("2MB", 2e6), ("800kB", 8e5), ("1.5MiB", 1.5 * 2**20), ("10B", 10)])
def test_sizes_are_decimal_unless_they_say_binary(text, size):
    assert GateConfig(max_size=text).rules[0].limit == pytest.approx(size)


@pytest.mark.parametrize("text", ["5", "ms", "", "-1ms", "0ms", "5 minutes", "5ms 3us", "2MB"])
def test_what_is_no_latency_is_refused(text):
    with pytest.raises(InputError, match="write it as 5ms"):
        _ = GateConfig(max_p50=text).rules[0].limit


@pytest.mark.parametrize("text", ["5", "0MB", "2mb", "2ms", "MB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="write it as 2MB"):
        _ = GateConfig(max_size=text).rules[0].limit
