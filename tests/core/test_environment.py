"""The folders of the kernel here are written for the test: no machine at hand says its clock."""

import pytest

from edgeres.core import environment as module
from edgeres.core.environment import Environment, clock_mhz, default_threads, environment, governor


@pytest.fixture
def cpus(tmp_path, monkeypatch):
    """`cpus(clocks_khz, governors)` of cores 0, 1, ..."""
    monkeypatch.setattr(module, "_CPUS", tmp_path)

    def write(clocks, governors):
        monkeypatch.setattr(module, "affinity", lambda: tuple(range(len(clocks))))
        for core, (clock, name) in enumerate(zip(clocks, governors, strict=True)):
            folder = tmp_path / f"cpu{core}" / "cpufreq"
            folder.mkdir(parents=True)
            (folder / "scaling_cur_freq").write_text(f"{clock}\n")
            (folder / "scaling_governor").write_text(f"{name}\n")

    return write


def test_clock_and_governor_are_of_the_cores_we_may_use(cpus):
    cpus([3_600_000, 2_400_000], ["performance", "performance"])
    assert clock_mhz() == (3600, 2400)
    assert governor() == "performance"


def test_governors_that_differ_are_all_named(cpus):
    cpus([1, 1], ["powersave", "performance"])
    assert governor() == "performance/powersave"


def test_a_machine_that_does_not_say_has_none(cpus, tmp_path):
    cpus([], [])
    assert (clock_mhz(), governor()) == (None, None)


def test_a_clock_that_one_core_hides_is_not_given(cpus, tmp_path):
    cpus([3_600_000, 2_400_000], ["performance", "performance"])
    (tmp_path / "cpu1" / "cpufreq" / "scaling_cur_freq").write_text("<unknown>\n")
    assert clock_mhz() is None


def test_thread_settings_and_affinity_stand_in_the_fingerprint(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    here = environment()
    assert here.thread_settings["OMP_NUM_THREADS"] == "3"
    assert len(here.affinity) == here.cores
    assert "PATH" not in here.thread_settings


def test_a_fingerprint_of_an_earlier_version_still_reads():
    new = {"affinity", "governor", "clock_mhz", "thread_settings"}
    old = environment().model_dump(exclude=new)
    assert Environment.model_validate(old).clock_mhz is None


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("5,2", 5), ("", 4), ("many", 4), ("0", 4)])
def test_threads_nobody_asked_for_are_openmps_or_all_cores(monkeypatch, said, threads):
    monkeypatch.setattr("edgeres.core.environment.affinity", lambda: (0, 1, 2, 3))
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert default_threads() == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads() == 4


@pytest.mark.parametrize(("cores", "said"), [(1, ", 1 core"), (2, ", 2 cores")])
def test_the_machine_says_how_many_cores_there_are(monkeypatch, cores, said):
    monkeypatch.setattr(module, "available_cores", lambda: cores)
    monkeypatch.setattr(module, "gpu_names", tuple)
    assert environment().machine.endswith(said)
