"""Clocks and power mode are put back whatever ends the run."""

import pytest

from edgeres.bench.agent import settings, undo
from edgeres.bench.agent.process import Refused

QUICK = ("--idle-s", "0.1")
FREE, LOCKED = ("306750000", "1020750000"), ("1020750000", "1020750000")


def power_mode(bench):
    return bench.run("detect")[1]["power_mode"]


def log(bench):
    path = bench.root / "state" / "clocks.log"
    return path.read_text().split() if path.exists() else []


def test_clocks_are_locked_for_the_run_and_put_back(bench):
    code, result = bench.measure("--lock-clocks", *QUICK)
    assert (code, result["clocks_locked"], result["not_put_back"]) == (0, True, [])
    assert result["board"]["gpu_clock"]["is_locked"]
    assert log(bench) == ["--store", "lock", "--restore"]
    assert bench.clock() == FREE
    assert bench.left() == []


def test_clocks_are_not_touched_unless_asked(bench):
    assert bench.measure(*QUICK)[1]["clocks_locked"] is False
    assert log(bench) == []


@pytest.mark.parametrize("how", ["signal", "connection"])
def test_clocks_and_power_mode_are_put_back_when_the_run_is_cut(bench, how):
    folder = bench.root / "edgeres-run-1"
    folder.mkdir()
    options = ["--idle-s", "0.1", "--lock-clocks", "--power-mode", "15W", "--folder", str(folder)]
    process = bench.start("--leash", "measure", "--engine", "model.plan", *options, FAKE_MODE="slowly")
    bench.wait_until(lambda: (bench.root / "state" / "load").exists())
    assert bench.clock() == LOCKED
    assert power_mode(bench) == {"name": "15W", "id": 0}
    process.terminate() if how == "signal" else process.stdin.close()
    process.wait(30)
    for pipe in (process.stdout, process.stderr):
        pipe.close()
    assert bench.clock() == FREE
    assert power_mode(bench) == {"name": "MAXN_SUPER", "id": 2}
    process.stdin.close()


def test_two_signals_in_a_row_do_not_stop_the_putting_back(bench):
    process = bench.start("measure", "--engine", "model.plan", "--idle-s", "0.1", "--lock-clocks", FAKE_MODE="slowly")
    bench.wait_until(lambda: (bench.root / "state" / "load").exists())
    process.terminate()
    bench.wait_until(lambda: bench.strays() == [] or "trtexec" not in " ".join(bench.strays()))
    process.terminate()
    process.communicate(timeout=30)
    assert bench.clock() == FREE


def test_a_failed_run_puts_the_clocks_back(bench):
    assert "signal 11" in bench.refusal("measure", "--engine", "model.plan", "--idle-s", "0.1", "--lock-clocks",
                                        FAKE_MODE="crash")  # fmt: skip
    assert bench.clock() == FREE


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"FAKE_ROOT": "no"}, "cannot lock the clocks: jetson_clocks needs root and this user has no sudo without"),
        ({"FAKE_MODE": "unlockable"}, "cannot lock the clocks: jetson_clocks ended with exit 1: Error: cannot write"),
    ],
)
def test_clocks_that_may_not_be_locked_are_one_line_and_stay(bench, more, message):
    assert message in bench.refusal("measure", "--engine", "model.plan", "--lock-clocks", **more)
    assert bench.clock() == FREE
    assert bench.left() == []


def test_a_board_without_jetson_clocks_says_so(bench):
    (bench.root / "bin" / "jetson_clocks").unlink()
    assert bench.refusal("measure", "--engine", "model.plan", "--lock-clocks") == "no jetson_clocks on this board"


@pytest.mark.parametrize("asked", ["25W", "1"])
def test_a_power_mode_is_set_by_name_or_id_and_put_back(bench, asked):
    code, result = bench.measure("--power-mode", asked, *QUICK)
    assert (code, result["is_valid"], result["not_put_back"]) == (0, True, [])
    assert result["board"]["power_mode"] == {"name": "25W", "id": 1}
    assert power_mode(bench) == {"name": "MAXN_SUPER", "id": 2}


@pytest.mark.parametrize(
    ("asked", "more", "message"),
    [
        ("7W", {}, "power mode 7W wants a reboot: set it yourself (sudo nvpmodel -m 3) and run again"),
        ("9W", {}, "no power mode '9W' on this board; it has: 15W (0), 25W (1), MAXN_SUPER (2), 7W (3)"),
        ("15W", {"FAKE_ROOT": "no"}, "cannot set power mode 15W: nvpmodel ended with exit 255: NVPM ERROR: Error"),
    ],
)  # fmt: skip
def test_a_power_mode_that_cannot_be_had_is_one_line_and_changes_nothing(bench, asked, more, message):
    assert message in bench.refusal("measure", "--engine", "model.plan", "--power-mode", asked, **more)
    assert power_mode(bench) == {"name": "MAXN_SUPER", "id": 2}


def as_user(bench, monkeypatch, **more):
    for name, value in {**bench.environment, "FAKE_ROOT": "no", **more}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(settings.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(undo, "place", lambda: bench.temporary / "kept")


def test_a_user_with_sudo_without_a_password_may_lock(bench, monkeypatch):
    as_user(bench, monkeypatch)
    with settings.held(True, None) as complaints:
        assert bench.clock() == LOCKED
    assert (bench.clock(), complaints) == (FREE, [])


def test_a_user_whose_sudo_asks_for_a_password_is_refused(bench, monkeypatch):
    as_user(bench, monkeypatch, FAKE_SUDO="asks")
    with (
        pytest.raises(Refused, match="needs root and this user has no sudo without a password"),
        settings.held(True, None),
    ):
        pass
    assert bench.clock() == FREE


def test_what_could_not_be_put_back_is_said_with_the_command_that_does_it(bench, monkeypatch):
    as_user(bench, monkeypatch)
    with settings.held(True, None) as complaints:
        monkeypatch.setenv("FAKE_SUDO", "asks")
    assert len(complaints) == 1
    assert "not put back as it was: jetson_clocks needs root" in complaints[0]
    stored = bench.temporary / "kept" / "clocks.conf"
    assert stored.is_file()
    assert complaints[0].endswith(f"; run: sudo jetson_clocks --restore {stored}")


def test_what_could_not_be_put_back_is_a_warning_of_the_measurement(bench):
    jetson_clocks = bench.root / "bin" / "jetson_clocks"
    text = jetson_clocks.read_text()
    jetson_clocks.write_text(
        text.replace('elif action == "--restore":', 'elif action == "--restore":\n    sys.exit(3)')
    )
    code, result = bench.measure("--lock-clocks", *QUICK)
    assert (code, len(result["not_put_back"])) == (0, 1)
    assert "jetson_clocks ended with exit 3" in result["not_put_back"][0]
    assert result["not_put_back"][0] in result["warnings"]
