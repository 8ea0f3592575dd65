import pytest

from edgeres.bench.watch import busy_between, busy_cores, jiffies_from

# cpu user nice system idle iowait irq softirq steal guest guest_nice
BEFORE = "cpu  0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 50 0\ncpu1 0 0 0 1000 0 0 0 0 0 0\nintr 1 2 3\n"
AFTER = "cpu  0 0 0 0\ncpu0 150 0 100 850 0 0 0 0 99 0\ncpu1 0 0 0 1050 50 0 0 0 0 0\nintr 1 2 3\n"


def test_idle_and_waiting_for_disks_are_not_busy():
    assert busy_between(jiffies_from(BEFORE), jiffies_from(AFTER), {0, 1}) == pytest.approx(0.5)


def test_only_the_cores_this_process_may_use_count():
    assert busy_between(jiffies_from(BEFORE), jiffies_from(AFTER), {1}) == 0


def test_two_readings_within_one_tick_are_no_load():
    assert busy_between(jiffies_from(BEFORE), jiffies_from(BEFORE), {0, 1}) == 0


def test_a_system_without_proc_is_not_asked(monkeypatch, tmp_path):
    monkeypatch.setattr("edgeres.bench.watch._STAT", tmp_path / "absent")
    assert busy_cores(0.0) is None


def test_what_this_process_does_beside_its_sleep_is_no_other_program(monkeypatch):
    busy, own_s = iter([{0: (0, 0)}, {0: (50, 50)}]), iter([1.0, 1.4])
    monkeypatch.setattr("edgeres.bench.watch.jiffies", lambda: next(busy))
    monkeypatch.setattr("edgeres.bench.watch.cpu_s_of", lambda pids: next(own_s))
    monkeypatch.setattr("edgeres.bench.watch.affinity", lambda: (0,))
    monkeypatch.setattr("edgeres.bench.watch.time.sleep", lambda seconds: None)
    assert busy_cores(0.5) == pytest.approx(0.2)
