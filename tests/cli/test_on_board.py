"""`--on NAME` as a user types it, against a pretend board over real ssh."""

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from edgeres.core.artifacts import Engine
from edgeres.core.stage import StageReport

SHORT = ("--warmup-s", "0", "--duration-s", "1", "--idle-s", "0.5")


@pytest.fixture(scope="module")
def models(hosts, tmp_path_factory):
    """A float file and its INT8 file."""
    from edgeres.quantize.calibrate import CalibrateConfig, calibrate
    from edgeres.quantize.stage import QuantizeConfig, quantize

    folder = tmp_path_factory.mktemp("models")
    model = hosts.onnx_file(folder)
    scales = calibrate(model, CalibrateConfig(data="digits", images=32), folder).output
    return model, quantize(model, QuantizeConfig(scales=scales.path, effort="quick"), folder).output


@pytest.fixture(scope="module")
def cpu_model(models):
    """The same network quantized for ONNX Runtime."""
    from edgeres.quantize.calibrate import FILE_NAME
    from edgeres.quantize.stage import QuantizeConfig, quantize

    folder = models[0].path.parent
    config = QuantizeConfig(scales=folder / FILE_NAME, profile="ort-cpu")
    return quantize(models[0], config, folder / "cpu").output


@pytest.mark.slow
def test_one_table_says_what_two_models_do_on_the_board_although_a_third_fails(edgeres, host, models, tmp_path):
    host.start()
    plan = tmp_path / "x.plan"
    plan.write_bytes(b"vtrt" + bytes(100))
    files = (*(model.path for model in models), plan)
    code, out, err = edgeres("bench", *files, "--on", "desk", "--data", "digits", "--images", 60, *SHORT)
    assert code == 4
    assert "is an engine of TensorRT-RTX" in err.splitlines()[-1]
    assert "p50 2.00" in out
    titles = [line.split("  ")[0] for line in out.splitlines()]
    for title in ("Board", "Model", "Latency ms", "Energy, power", "Top-1 %", "Engine", "Valid"):
        assert title in titles
    assert out.count("NVIDIA Jetson Orin Nano") == 2
    assert out.count("same top-1 on 100.00 %") == 2
    assert "residual adds fused in INT8" in " ".join(out.split())
    assert host.left_behind() == []


@pytest.mark.slow
def test_json_gives_a_report_a_line(edgeres, host, models):
    host.start()
    code, out, _ = edgeres("bench", models[1].path, "--on", "desk", "--json", *SHORT)
    assert code == 0
    (line,) = out.splitlines()
    report = StageReport.model_validate(json.loads(line))
    assert report.stage == "board"
    assert report.source.sha256 == models[1].sha256
    assert report.precision == "int8"


@pytest.mark.slow
def test_an_engine_is_built_on_the_board_brought_back_and_judged_there_again(edgeres, host, models, tmp_path):
    host.start()
    plan = tmp_path / "e.plan"
    code, out, err = edgeres("compile", models[1].path, "--on", "desk", "-o", plan)
    assert code == 0, err
    manifest = Engine(plan).manifest
    assert manifest.targets == ("sm87",)
    assert manifest.runtime_version == "10.3.0"
    assert manifest.onnx_sha256 == models[1].sha256
    assert manifest.inputs == {"images": (1, 1, 8, 8)}
    assert "edgeres-run" not in json.dumps(manifest.options)
    alone = shutil.copyfile(f"{plan}.layers.json", tmp_path / "alone.json")  # as told by the graph, and by itself
    (_, out, err), (_, told, _) = edgeres("layers", plan), edgeres("layers", alone)
    assert f"layers: takes {models[1].path}" in err
    assert "residual adds fused in INT8" in told.splitlines()[-1] == out.splitlines()[-1]
    code, out, err = edgeres("eval", plan, "--on", "desk", "--data", "digits", "--images", 30)
    assert code == 0, err
    assert "n = 30" in out
    assert host.left_behind() == []


NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, gives):
        super().__init__()
        self.stem, self.conv, self.gives = nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), gives

    def forward(self, x):
        x = self.stem(x).relu()
        y = (x + self.conv(x)).relu()
        return self.gives(x, y)


def embedding():
    return Net(lambda x, y: y.mean((2, 3)))


def maps():
    return Net(lambda x, y: {"small": nn.functional.max_pool2d(y, 2), "large": x})
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "measure"), [("embedding", "cosine"), ("maps", "rel. error")])
def test_a_network_without_classes_is_judged_by_how_near_it_is(edgeres, host, kind, measure, tmp_path, runs_folder):
    def done(*command):
        code, out, err = edgeres(*command)
        assert code == 0, err
        return out

    (tmp_path / "nets_of_boards.py").write_text(NETS)
    (tmp_path / "photos").mkdir()
    for number in range(160):
        base = np.random.default_rng(number).integers(0, 256, (2, 2), np.uint8)
        Image.fromarray(base).resize((8, 8)).save(tmp_path / "photos" / f"{number}.png")
    data = ("--data", f"images:{tmp_path / 'photos'}")
    done("import", f"nets_of_boards:{kind}", "--mean", 0.5, "--std", 0.25, "--fit", "none", "--size", 8)
    for command in (["export"], ["calibrate", *data, "--images", 64], ["quantize", "--effort", "quick"]):
        done(*command)
    here = json.loads(done("eval", *data, "--json"))["closeness"][0]
    host.start()
    there = json.loads(done("eval", "--on", "desk", *data, "--json"))
    near, agreement = there["closeness"][0], there["results"]["figures"]["agreement"]
    assert (near["measure"], near["reference"], near["n"]) == (here["measure"], here["reference"], here["n"])
    assert (near["mean"], near["worst"]) == pytest.approx((here["mean"], here["worst"]), abs=1e-6)
    assert near.get("parts", {}) == pytest.approx(here.get("parts", {}), abs=1e-6)
    assert agreement["top1"] is None
    assert agreement["equal_bits"] or agreement["sqnr_db"] > 60
    assert near["runtime"].startswith("tensorrt")
    done("report")
    page = (runs_folder / "latest" / "report.md").read_text().partition("## On boards")[2]
    assert "| Closeness |" in page
    assert f"{measure} {near['mean']:.5f}" in page
    shutil.copy(next((runs_folder / "latest").glob("*-quantize/model.int8.onnx")), "alone.onnx")
    code, _, err = edgeres("eval", "alone.onnx", "--on", "desk", *data)
    assert (code, "--reference FILE" in err) == (2, True)
    whole = next((runs_folder / "latest").glob("*-export/model.onnx"))
    assert measure in done("eval", "alone.onnx", "--on", "desk", *data, "--reference", whole)
    assert host.left_behind() == []


@pytest.mark.slow
def test_a_build_that_hangs_is_ended_when_the_user_says(edgeres, host, models, tmp_path):
    host.start()
    host.mode("hang")
    plan = tmp_path / "e.plan"
    code, _, err = edgeres("compile", models[1].path, "--on", "desk", "-o", plan, "--timeout-s", 1)
    assert code == 4
    assert "edgeres: desk: the build hung: trtexec was ended after 1 s" in err
    code, _, err = edgeres("eval", models[1].path, "--on", "desk", "--data", "digits", "--timeout-s", 1)
    assert (code, "trtexec was ended after 1 s" in err) == (4, True)
    assert not plan.exists()
    assert host.left_behind() == []


@pytest.mark.parametrize("command", ["compile", "eval"])
def test_a_time_limit_goes_with_a_board(edgeres, models, command):
    code, _, err = edgeres(command, models[1].path, "--timeout-s", 5)
    assert (code, err) == (2, "edgeres: --timeout-s ends what hangs on a board; it goes with --on NAME\n")


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"vtrt", "is an engine of TensorRT-RTX, which TensorRT cannot run"),
        (b"ftrt", "was built with TensorRT 8.6.1"),
        (b"abcd", "is not a TensorRT plan"),
    ],
)
def test_an_engine_the_board_cannot_run_is_refused_before_it_is_sent(edgeres, host, tmp_path, head, said):
    host.start()
    plan = tmp_path / "x.plan"
    plan.write_bytes(head + bytes(20) + bytes([8, 6, 1, 0]) + bytes(100))
    code, _, err = edgeres("bench", plan, "--on", "desk")
    assert code in {2, 4}
    assert said in err
    assert code == 2 or "build one there: edgeres compile MODEL.onnx --on desk" in err
    assert len(err.strip().splitlines()) == 1
    assert host.left_behind() == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("bench", "m.onnx", "--on", "dusk"), 2, "no board 'dusk'; did you mean desk?"),
        (("bench", "m.onnx", "--on", "desk"), 2, "m.onnx does not exist"),
        (("bench", "half.onnx", "--on", "desk"), 2, "half.onnx is not a readable ONNX file"),
        (("bench", "m.safetensors", "--on", "desk"), 2, "is no ONNX file, which boards take"),
        (("bench", "--on", "desk", "--rounds", "3"), 2, "--rounds does not go with --on"),
        (("bench", "m.onnx", "--lock-clocks"), 2, "--lock-clocks is for --on BOARD"),
        (("eval", "m.safetensors", "--on", "desk"), 2, "on which data set? --data digits"),
        (("bench", "--per-module", "x.plan", "--on", "desk"), 2, "takes an ONNX file or a checkpoint, got x.plan"),
        (("bench", "--per-module", "--on", "desk"), 2, "takes one ONNX file or one checkpoint; name it"),
        (
            ("bench", "half.onnx", "--on", "desk", "--timeout-s", "5"),
            2,
            "--timeout-s 5 would end a run, which takes 12 s",
        ),
        (("compile", "half.onnx", "--on", "desk", "--timeout-s", "0"), 2, "compile: --timeout-s: Input should be gre"),
        (("eval", "half.onnx", "--on", "desk", "--timeout-s", "0"), 2, "eval: --timeout-s: Input should be greater"),
        (("compile", "half.onnx", "--on", "desk", "--targets", "sm86"), 2, "--targets does not go with --on"),
        (("compile", "half.onnx", "--on", "desk", "-o", "x.onnx"), 2, "half.onnx is not a readable ONNX file"),
    ],
)
def test_what_is_wrong_is_said_before_any_board_is_asked(edgeres, tmp_path, monkeypatch, hosts, arguments, code, said):
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')
    (tmp_path / "half.onnx").write_bytes(b"\x08\x07\x12\x40half of a file")
    (tmp_path / "m.safetensors").write_bytes(b"")
    (tmp_path / "x.plan").write_bytes(b"ftrt")
    found, out, err = edgeres(*arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_the_doctor_looks_at_a_board(edgeres, host):
    host.start()
    (host.root / "jetson" / "bin" / "tegrastats").unlink()
    code, out, _ = edgeres("doctor", "--on", "desk")
    assert code == 0
    assert "JetPack 6.2, L4T 36.4.3, CUDA 12.6, TensorRT 10.3" in out
    assert "tegrastats  not found: no power, clocks, temperatures\n" in out
    code, out, _ = edgeres("doctor", "--on", "desk", "--json")
    assert json.loads(out)["schema_version"] == 1
    assert {check["name"]: check["status"] for check in json.loads(out)["checks"]}["tegrastats"] == "missing"


RECIPE = """
name = "tiny"
data = "digits"
[[stage]]
use = "train"
arch = "resnet8"
epochs = 1
[[stage]]
use = "export"
[[stage]]
use = "calibrate"
images = 32
[[stage]]
use = "quantize"
effort = "quick"
"""


@pytest.fixture
def quick():
    """`quick(duration_s)`: what a recipe measures on a board takes so long, and no warm-up."""
    from edgeres.bench.config import BoardConfig

    patch = pytest.MonkeyPatch()

    def set_to(duration_s):
        for name, value in (("warmup_s", 0), ("duration_s", duration_s), ("idle_s", 0.5)):
            patch.setattr(BoardConfig.model_fields[name], "default", value)
        BoardConfig.model_rebuild(force=True)

    yield set_to
    patch.undo()
    BoardConfig.model_rebuild(force=True)


@pytest.mark.slow
def test_the_answer_of_a_run_is_how_much_faster_it_is_on_the_board_and_it_is_not_measured_twice(
    edgeres, host, runs_folder, tmp_path, quick
):
    quick(5)
    host.start(FAKE_INT8_MS="1.25")
    (tmp_path / "tiny.toml").write_text(RECIPE + '[[stage]]\nuse = "eval"\n')
    code, out, err = edgeres("run", "tiny.toml", "--on", "desk")
    assert code == 0, err
    assert "speed ×1.60 of 01-export/model.onnx" in " ".join(out.split())
    compiling = f"edgeres compile {runs_folder}/tiny/03-quantize/model.int8.onnx --on desk"
    assert f"no engine stays there; to have it: {compiling}\n" in out
    assert "1.60× faster on desk" in out
    summary = json.loads((runs_folder / "tiny/report.json").read_text())
    assert "1.60× faster on desk" in summary["headline"]
    assert "points of top-1 on desk (int8)" in summary["headline"]
    assert not [one for one in summary["absent"] if one["name"].startswith(("01-export", "03-quantize"))]
    shown = [row["latency"]["p50_ms"]["value"] for row in summary["rows_on_board"] if row["latency"]]
    assert shown == [2.0, 1.25]
    rules = ("--min-speedup", 1.5, "--max-p50", "1.3ms", "--max-loss", 50)
    for on in ((), ("--on", "desk")):
        code, out, err = edgeres("gate", "tiny", *rules, *on)
        assert (code, out.count("pass"), err) == (0, 3, ""), out
        assert "1.600 times as fast (95 %: 1.600 to 1.600) as 01-export" in out
        assert out.count("on desk") == 3
    code, out, err = edgeres("gate", "tiny", "--min-speedup", 1.5, "--on", "here")
    assert code == 1
    code, out, err = edgeres("run", "tiny.toml", "--on", "desk")
    assert code == 0, err
    reports = [json.loads(path.read_text()) for path in sorted((runs_folder / "tiny").glob("*-board/report.json"))]
    assert [report["precision"] for report in reports] == ["fp32", "int8"]
    assert len({report["latency"][0]["session"] for report in reports}) == 1
    assert all(report["accuracy"] and report["results"]["figures"]["is_valid"] for report in reports)
    assert "desk" in (runs_folder / "tiny" / "report.md").read_text()
    code, out, err = edgeres("bench", "--run", "tiny", "--on", "desk", "--json", "--duration-s", 1)
    assert (code, len(out.splitlines())) == (0, 2)
    assert host.left_behind() == []


THERE = """
[[stage]]
use = "compile"
on = "desk"
optimization_level = 1
[[stage]]
use = "bench"
on = "desk"
warmup_s = 0
duration_s = 5
idle_s = 0.5
[[stage]]
use = "eval"
on = "desk"
[[stage]]
use = "report"
"""


@pytest.mark.slow
def test_stages_of_a_recipe_are_done_on_a_board_and_reused(edgeres, host, runs_folder, tmp_path):
    host.start(FAKE_INT8_MS="1.25")
    (tmp_path / "there.toml").write_text(RECIPE.replace("tiny", "there") + THERE)
    planned = edgeres("run", "there.toml", "--dry-run")[1].splitlines()
    assert [line.split()[0] for line in planned if "on=desk" in line] == ["04-compile", "05-bench", "06-eval"]
    code, _, err = edgeres("run", "there.toml")
    assert code == 0, err
    run = runs_folder / "there"
    engine = Engine(run / "04-compile" / "model.plan").manifest
    assert (engine.targets, engine.options["builder"]) == (("sm87",), "trtexec")
    built = json.loads((run / "04-compile" / "report.json").read_text())
    assert (built["results"]["on"], built["config"]["optimization_level"]) == ("desk", 1)
    there = [json.loads(path.read_text()) for path in sorted(run.glob("*-board/report.json"))]
    assert [(bool(one["latency"]), bool(one["accuracy"])) for one in there] == [
        (True, True),
        (True, True),
        (False, True),
    ]
    summary = json.loads((run / "report.json").read_text())
    assert "1.60× faster on desk" in summary["headline"]
    before = sorted(run.glob("*-*/report.json"))
    times = [path.stat().st_mtime_ns for path in before]
    host.stop()  # nothing is asked of it again
    code, again, err = edgeres("run", "there.toml")
    assert code == 0, err
    assert again.count("(reused)") == 7
    assert [path.stat().st_mtime_ns for path in before] == times
    assert sorted(run.glob("*-*/report.json")) == before
    assert host.left_behind() == []
    (host.root / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')
    code, _, err = edgeres("run", "there.toml", "--from", "compile")
    assert (code, sorted(run.glob("*-*/report.json"))) == (4, before), err  # the engine among them


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            "use = 'export'\non = 'desk'",
            "there.toml, stage 04-export: a board does compile, bench, eval; leave out on",
        ),
        ("use = 'bench'\non = 'dusk'", "no board 'dusk'; did you mean desk?"),
        ("use = 'bench'\non = 'desk'\nrounds = 3", "unknown key 'rounds'"),
        ("use = 'compile'\non = 'desk'\ntargets = ['sm86']", "--targets does not go with on = 'desk', where trtexec"),
    ],
)
def test_what_a_recipe_cannot_ask_of_a_board_is_refused_at_once(edgeres, host, tmp_path, stage, said):
    host.start()
    (tmp_path / "there.toml").write_text(RECIPE + f"[[stage]]\n{stage}\n")
    code, out, err = edgeres("run", "there.toml", "--dry-run")
    assert (code, out) == (2, "")
    assert said in err


@pytest.mark.slow
def test_the_costs_of_modules_come_from_the_boards_profile(edgeres, host, models, tmp_path):
    from edgeres.core.records.latency import latency_table_from

    host.start()
    out = tmp_path / "latency.json"
    code, _, err = edgeres("bench", "--per-module", models[1].path, "--on", "desk", "-o", out, *SHORT[:-2])
    assert code == 0, err
    table = latency_table_from(out)
    assert table.machine.startswith("desk: ")
    assert len(table.shapes) == 3
    assert sorted(path.name for path in tmp_path.glob("*latency.json*")) == ["latency.json", "latency.json.report.json"]
    assert host.left_behind() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jetpack", "is_traced"), [pytest.param("6.2", False, marks=pytest.mark.exhaustive), ("4.6", True)]
)  # TensorRT 8.2 reads opset 13
def test_the_costs_of_modules_come_from_networks_built_on_the_board_from_a_checkpoint(
    edgeres, host, spec_of, checkpoint_of, gated, tmp_path, jetpack, is_traced
):
    from edgeres.core.records.latency import latency_table_from

    host.start(jetpack=jetpack)
    checkpoint, out = gated if is_traced else checkpoint_of(spec_of()), tmp_path / "latency.json"
    shutil.copyfile(checkpoint.path, source := tmp_path / "mine.safetensors")
    command = ("bench", "--per-module", source, "--on", "desk", "--networks", 4, "-o", out, *SHORT[:-2])
    code, _, err = edgeres(*command)
    assert code == 0, err
    table = latency_table_from(out)
    assert table.method == "networks"
    assert table.machine.startswith("desk: ")
    assert {one.dropped for one in table.timed} > {()}
    ours, traced = (
        ["layer1.0", "layer2.0", "layer3.0"],
        ["backbone.s1.0", "backbone.s1.1", "backbone.s2.0", "backbone.s2.1"],
    )
    assert [row.module for row in table.table] == (traced if is_traced else ours)
    assert sorted(path.name for path in tmp_path.glob("*latency*")) == ["latency.json", "latency.json.report.json"]
    assert host.left_behind() == []


@pytest.mark.parametrize(
    "arguments",
    [("bench",), ("bench", "--per-module", "-o", "t.json"), ("compile", "-o", "x.plan"), ("eval", "--data", "digits")],
)
def test_a_file_made_for_a_cpu_is_refused_before_any_board_is_asked(
    edgeres, cpu_model, tmp_path, monkeypatch, arguments
):
    monkeypatch.setenv("EDGERES_BOARDS", str(tmp_path / "boards.toml"))
    (tmp_path / "boards.toml").write_text('[desk]\nhost = "nowhere.invalid"\n')
    code, out, err = edgeres(*arguments[:1], cpu_model.path, *arguments[1:], "--on", "desk")
    assert (code, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert "was quantized for ONNX Runtime on a CPU; make one for TensorRT: edgeres quantize FLOAT.onnx" in line


def heed_interrupts():
    """What is started in the background, as by nohup, ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.exhaustive),
    ],
)
def test_a_laptop_that_is_interrupted_leaves_nothing_on_the_board(host, hosts, models, number, code):
    host.start()
    host.mode("hang")
    command = [sys.executable, "-m", "edgeres.cli.main", "bench", str(models[0].path), "--on", "desk", *SHORT]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts) as process:
        hosts.wait_until(lambda: any("--saveEngine" in program for program in host.programs()), seconds=60)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert code < 0 or err.splitlines()[-1].startswith("edgeres: interrupted")
    hosts.wait_until(lambda: host.left_behind() == [] and host.programs() == [])
