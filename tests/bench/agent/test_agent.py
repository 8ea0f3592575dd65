import ast
import json
import shutil
import sys
from pathlib import Path

import pytest

import edgeres.bench.agent
from edgeres.bench.agent import detect, figures
from edgeres.bench.boards import SHARED, agent_bytes

AGENT = Path(edgeres.bench.agent.__file__).parent
HOUSE = AGENT.parents[1]
OURS = {f"edgeres.{name.removesuffix('.py')}".replace("/", ".") for name in SHARED}
SOURCES = [*sorted(AGENT.glob("*.py")), AGENT.with_name("board_keeper.py"), *(HOUSE / name for name in SHARED)]


def further(*values):
    """A case for `make exhaustive`."""
    return pytest.param(*values, marks=pytest.mark.exhaustive)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_what_runs_on_the_board_is_python_3_6_and_needs_nothing_but_itself_and_the_standard_library(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 6))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    absolute = [name.name for node in imports if isinstance(node, ast.Import) for name in node.names]
    absolute += [node.module for node in imports if isinstance(node, ast.ImportFrom) and node.level == 0]
    needed = {name.partition(".")[0] for name in absolute if name not in OURS}
    assert needed <= sys.stdlib_module_names - {
        "dataclasses",
        "__future__",
    }
    assert "shell=True" not in path.read_text()


def test_the_same_sources_are_the_same_file():
    assert agent_bytes() == agent_bytes()


def test_a_board_is_described(bench, python):
    code, board = bench.run("detect", python=python)
    assert code == 0
    assert board["model"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (board["l4t"], board["jetpack"], board["cuda"]) == ("36.4.3", "6.2", "12.6")
    assert board["power_mode"] == {"name": "MAXN_SUPER", "id": 2}
    assert board["power_modes"] == {"15W": 0, "25W": 1, "MAXN_SUPER": 2, "7W": 3}
    assert board["gpu_clock"] == {"mhz": 624, "min_mhz": 306, "max_mhz": 1020, "is_locked": False}
    assert board["fan"] == {"pwm": 128}
    assert board["packages"]["libnvinfer-bin"] == "10.3.0.30-1+cuda12.5"


@pytest.mark.parametrize(
    ("revision", "jetpack"),
    [
        ("35 (release), REVISION: 6.0", "5.1.4"),
        ("35 (release), REVISION: 6.1", "5.1.5"),
        ("35 (release), REVISION: 6.2", "5.1.5"),
        ("35 (release), REVISION: 6.4", "5.1.6"),
        ("36 (release), REVISION: 4.0", "6.1"),
        ("39 (release), REVISION: 2.0", "7.2"),
        ("99 (release), REVISION: 1.0", None),
    ],
)
def test_the_jetpack_is_told_by_l4t(revision, jetpack, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGERES_BOARD_ROOT", str(tmp_path))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(f"# R{revision}, GCID: 1, BOARD: generic\n")
    assert detect.board()["jetpack"] == jetpack


def test_a_machine_without_anything_is_described_too(bench, tmp_path):
    code, board = bench.run("detect", EDGERES_BOARD_ROOT=str(tmp_path / "empty"), PATH="/nowhere")
    assert code == 0
    assert not any(board[key] for key in ("model", "l4t", "jetpack", "power_mode", "gpu_clock", "trtexec", "packages"))


@pytest.mark.parametrize(
    ("tensorrt", "flag", "version"), [("8201", "--int8", "8.2.1"), ("101602", "--stronglyTyped", "10.16.2")]
)
def test_an_engine_is_built_with_the_flags_of_that_version(bench, tensorrt, flag, version):
    code, built = bench.run("build", "--onnx", "model.onnx", "--engine", "new.plan", FAKE_TENSORRT=tensorrt)
    assert (code, built["tensorrt"], flag in built["command"]) == (0, version, True)
    assert built["facts"]["build_s"] == 1.5
    assert built["engine_bytes"] == (bench.root / "new.plan").stat().st_size


def test_energy_is_power_above_rest_times_the_time_of_an_image(bench, python):
    code, result = bench.measure(python=python)
    energy = result["energy"]
    assert (code, result["is_valid"], result["problems"]) == (0, True, [])
    assert (result["p50_ms"], result["p99_ms"], len(result["samples_ms"])) == (2.0, 2.0, 200)
    assert result["images_per_s"] == pytest.approx(1000.0)
    assert energy["idle_w"] == pytest.approx(5.0, abs=0.1)
    assert energy["load_w"] == pytest.approx(9.0, abs=0.4)
    assert energy["mj_per_image"] == pytest.approx((energy["load_w"] - energy["idle_w"]) * 1.0)
    assert 0 <= energy["mj_half_width"] < 1
    assert (energy["source"], energy["is_input"]) == ("VDD_IN", True)
    assert min(energy["idle_samples"], energy["load_samples"]) >= figures.LEAST_SAMPLES
    assert result["heat"]["gpu_mhz"]["median"] == 624
    assert result["profile"] == '[{"count": 200}]'
    assert result["board"]["power_mode"]["name"] == "MAXN_SUPER"


def test_the_latency_alone_takes_one_run_and_no_rest(bench):
    code, result = bench.measure("--idle-s", "99", "--no-energy")
    assert (code, result["problems"], result["energy"]) == (0, [], {"reason": "not asked for"})
    assert (result["p50_ms"], len(result["samples_ms"])) == (2.0, 200)
    assert (result["heat"]["before_c"], result["damaged_samples"]) == (None, 0)
    _, drifted = bench.measure("--no-energy", FAKE_MODE="drift")
    assert [problem[:15] for problem in drifted["problems"]] == ["latency drifted"]


def test_energy_alone_takes_one_run_and_has_the_profile(bench):
    code, result = bench.measure("--no-latency")
    assert (code, result["problems"], result["profile"]) == (0, [], '[{"count": 200}]')
    assert result["energy"]["mj_per_image"] > 0
    assert len((bench.root / "state/timed").read_text().splitlines()) == 1


def test_a_turn_is_the_latency_without_the_profile_and_without_that_of_an_earlier_call(bench):
    for name in ("profile.json", "layers.json"):
        (bench.root / name).write_text("of an earlier call")
    code, result = bench.measure("--no-energy", "--no-profile")
    assert (code, result["profile"], result["layers"]) == (0, None, None)
    assert len(result["samples_ms"]) == 200
    assert len((bench.root / "state/timed").read_text().splitlines()) == 1


def test_nothing_to_measure_is_refused(bench):
    said = bench.refusal("measure", "--engine", "model.plan", "--no-energy", "--no-latency")
    assert said == "--no-latency and --no-energy leave nothing to measure; leave one of them out"


@pytest.mark.parametrize(
    ("mode", "problem"),
    [
        ("throttle", "the GPU's clock moved between 400 and 624 MHz"),
        further("drift", "latency drifted by +20.0 %"),
        ("newmode", "the power mode changed from MAXN_SUPER (2) to "),
        ("overcurrent", "the board throttled: oc1_event_cnt rose from 3 to "),
    ],
)
def test_a_run_that_cannot_be_trusted_says_so(bench, mode, problem):
    code, result = bench.measure(FAKE_MODE=mode)
    assert (code, result["is_valid"]) == (0, False)
    assert any(problem in text for text in result["problems"])


# of the JetPacks `make test` takes two for the clock and the other two for the temperature
@pytest.mark.parametrize("jetpack", ["4.6", further("5.1"), "6.2", further("7.2")])
def test_a_plain_users_run_is_judged_by_the_clock_the_kernel_says(bench_of, jetpack):
    bench = bench_of(jetpack)
    _, held = bench.measure("--no-energy", FAKE_MODE="plain")
    assert (held["is_valid"], held["problems"], held["heat"]["clock_source"]) == (True, [], "devfreq")
    _, fell = bench.measure("--no-energy", FAKE_MODE="plain,throttle")
    assert (fell["is_valid"], fell["heat"]["gpu_mhz"]["lowest"]) == (False, 400)
    assert fell["problems"][0].startswith("the GPU's clock moved between 400 and")


@pytest.mark.parametrize(
    ("jetpack", "celsius"), [further("4.6", 46.25), ("5.1", 46.25), further("6.2", 47.5), ("7.2", 47.5)]
)
def test_where_tegrastats_prints_no_temperature_a_thermal_zone_says_it(bench_of, jetpack, celsius):
    bench = bench_of(jetpack)
    _, result = bench.measure("--no-energy", FAKE_MODE="blind")
    assert (result["heat"]["temperature_source"], result["heat"]["highest_c"]) == ("thermal zone", celsius)
    assert (result["is_valid"], result["heat"]["clock_source"]) == (True, "tegrastats")


def test_a_sensor_that_is_off_is_no_temperature(bench):
    for file in (bench.root / "sys/class/thermal").glob("*/temp"):
        file.write_text("-256000\n")
    _, result = bench.measure("--no-energy", FAKE_MODE="blind")
    assert (result["heat"]["temperature_source"], result["heat"]["highest_c"]) == (None, None)


def test_without_any_clock_validity_is_open(bench):
    for file in (bench.root / "sys/class/devfreq").glob("*/cur_freq"):
        file.unlink()
    _, result = bench.measure("--no-energy", FAKE_MODE="plain")
    assert (result["is_valid"], result["heat"]["gpu_mhz"], result["heat"]["clock_source"]) == (None, None, None)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("silent", "when it timed is unknown"),
        ("garbage", "lines of tegrastats are in no known format"),
        further("newformat", "lines of tegrastats are in no known format"),
        ("quiet", "tegrastats ended before the run did"),
    ],
)
def test_without_knowing_power_or_time_there_is_no_energy(bench, mode, reason):
    code, result = bench.measure(FAKE_MODE=mode)
    assert code == 0
    assert reason in result["energy"]["reason"]
    assert "mj_per_image" not in result["energy"]


def test_a_board_without_tegrastats_is_timed_all_the_same(bench):
    (bench.root / "bin" / "tegrastats").unlink()
    code, result = bench.measure()
    assert (code, result["p50_ms"]) == (0, 2.0)
    assert any("no tegrastats" in text for text in result["warnings"])


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("bad", "trtexec 10.3.0 ended with exit 1: Failed to parse onnx file"),
        ("crash", "ended with signal 11"),
        ("full", "wrote no engine; disk full?"),
        ("nospace", "Saving engine to file failed."),
        ("hang", "the build hung: trtexec was ended after 1 s"),
    ],
)
def test_a_build_that_fails_is_one_line(bench, mode, message):
    job = ["build", "--onnx", "model.onnx", "--engine", "new.plan", "--timeout-s", "1"]
    code, answer = bench.run(*job, FAKE_MODE=mode)
    assert (code, list(answer)) == (4, ["error"])
    assert message in answer["error"]
    assert "\n" not in answer["error"]


def test_a_board_without_trtexec_says_what_to_install(bench):
    (bench.root / "bin" / "trtexec").unlink()
    code, answer = bench.measure()
    assert (code, answer["error"]) == (4, "no trtexec on this board; install it: sudo apt install libnvinfer-bin")


def test_when_the_connection_is_lost_nothing_stays_behind(bench, monkeypatch):
    folder = bench.root / "edgeres-run-1"
    folder.mkdir()
    monkeypatch.setattr(bench, "file", Path(shutil.copy(bench.file, folder)))
    job = ["--leash", "measure", "--engine", "model.plan", "--idle-s", "0.1"]
    process = bench.start(*job, FAKE_MODE="slowly")
    bench.wait_until(lambda: (bench.root / "state" / "load").exists())
    process.stdin.close()
    process.wait(30)
    process.stdout.close()
    process.stderr.close()
    assert not folder.exists()
    assert bench.strays() == []


def test_only_the_folder_of_a_run_is_removed(bench):
    bench.start("--leash", "detect").communicate(timeout=30)
    assert bench.file.exists()


def test_an_open_leash_does_not_disturb_the_answer(bench):
    process = bench.start("--leash", "detect")
    assert json.loads(process.stdout.readline())["jetpack"] == "6.2"
    assert process.wait(30) == 0
    process.communicate()


def test_a_signal_ends_what_was_started(bench):
    process = bench.start("measure", "--engine", "model.plan", "--idle-s", "0.1", FAKE_MODE="slowly")
    bench.wait_until(lambda: (bench.root / "state" / "load").exists())
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 128 + 15


def test_the_half_width_of_a_constant_is_zero_and_of_noise_is_not():
    assert figures.half_width([5.0] * 32) == 0
    assert figures.half_width([float(i % 7) for i in range(64)]) > 0


def test_percentiles_are_interpolated():
    assert [figures.percentile([3.0, 1.0, 2.0], q) for q in (0, 50, 75, 100)] == [1.0, 2.0, 2.5, 3.0]
