"""The kernel's files here are made up; a real busy process is in the one slow test."""

import subprocess
import sys
import time

import pytest

from edgeres.bench.watch import Reading, Watch, cpu_s_of, fallen_clock, neighbours_in


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """`kernel(busy, idle, own)`: jiffies of the only core, and of process 7, since boot."""
    monkeypatch.setattr("edgeres.bench.watch._STAT", tmp_path / "stat")
    monkeypatch.setattr("edgeres.bench.watch._PROC", tmp_path)
    monkeypatch.setattr("edgeres.bench.watch.affinity", lambda: (0,))
    monkeypatch.setattr("edgeres.bench.watch.os.getpid", lambda: 6)
    monkeypatch.setattr("edgeres.bench.watch.os.sysconf", lambda name: 100)
    (tmp_path / "7").mkdir()

    def write(busy, idle, own):
        (tmp_path / "stat").write_text(f"cpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\n")
        (tmp_path / "7" / "stat").write_text(f"7 (a b) c) S 1 1 1 0 -1 0 0 0 0 0 {own} 0 0 0 20 0\n")

    return write


class FakeClock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def test_our_own_work_is_not_other_programs(kernel):
    clock = FakeClock()
    watch = Watch(clock)
    kernel(0, 0, 0)
    watch.start([7])
    clock.now_s = 1.0
    kernel(90, 10, 60)
    watch.look()
    clock.now_s = 2.0
    kernel(150, 50, 120)
    watch.look()
    assert [reading.other_cores for reading in watch.readings] == pytest.approx([0.3, 0.0])
    assert [reading.at_s for reading in watch.readings] == [1.0, 2.0]


def test_looks_close_together_are_one_reading(kernel):
    clock = FakeClock()
    watch = Watch(clock)
    kernel(0, 0, 0)
    watch.start([7])
    for tenth in range(1, 11):
        clock.now_s = tenth / 10
        kernel(tenth * 10, 0, 0)
        watch.look()
    assert [reading.other_cores for reading in watch.readings] == pytest.approx([1.0, 1.0])


def test_a_system_without_proc_has_no_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeres.bench.watch._STAT", tmp_path / "absent")
    clock = FakeClock()
    watch = Watch(clock)
    watch.start([])
    clock.now_s = 1.0
    watch.look()
    assert watch.readings[0].other_cores is None
    assert neighbours_in(watch.readings, 0.3) is None


def readings(loads=(), clocks=()):
    pairs = zip(loads or [None] * len(clocks), clocks or [None] * len(loads), strict=True)
    return [Reading(at_s=at, other_cores=load, clock_mhz=clock) for at, (load, clock) in enumerate(pairs)]


def test_neighbours_are_summed_up_by_mean_most_and_how_often():
    found = neighbours_in(readings(loads=[0.0, 0.1, 1.0, 0.5]), 0.3)
    assert (found.mean_cores, found.most_cores) == (pytest.approx(0.4), 1.0)
    assert (found.busy_readings, found.readings) == (2, 4)


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [
        ([4000] * 5 + [2800] * 5, (4000, 2800)),
        ([4000] * 5 + [3800] * 5, None),
        ([2800] * 5 + [4000] * 5, None),
        ([4000] * 4 + [1200] + [4000] * 5, None),
        ([4000, 2800], None),
    ],
)
def test_a_clock_that_fell_for_good_is_told_from_one_that_wavers(clocks, expected):
    assert fallen_clock(readings(clocks=clocks)) == expected


@pytest.mark.slow
def test_a_real_process_beside_us_is_seen_and_our_own_child_is_not():
    loop = [sys.executable, "-S", "-c", "while True: pass"]
    with subprocess.Popen(loop) as stranger, subprocess.Popen(loop) as child:
        try:
            watch = Watch()
            watch.start([child.pid])
            deadline = time.perf_counter() + 60
            time.sleep(2)
            while cpu_s_of([stranger.pid]) < 0.4 and time.perf_counter() < deadline:
                time.sleep(0.1)  # other programs may leave it little
            watch.look()
            used = cpu_s_of([stranger.pid])
        finally:
            stranger.kill()
            child.kill()
    assert used > 0.3
    assert watch.readings[0].other_cores > 0.15
