"""tools/gpu_check.py as far as it goes without commands: what is tried, what is said, how packages travel."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[1] / "tools" / "gpu_check.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("gpu_check", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place_of(tool, tmp_path):
    def make(*, dry: bool = True, left_s: float = 60):
        return tool.Place(tmp_path, time.monotonic() + left_s, "sm86", ("sm86",), dry, {})

    return make


def outcomes(tool, place, *checks) -> dict[str, tuple[str, str | None]]:
    return {row["name"]: (row["outcome"], row.get("reason")) for row in tool.checked(place, checks)}


def test_what_fails_stops_what_needs_it_and_nothing_else(tool, place_of):
    def refused(_):
        raise tool.Failed("compile: no")

    checks = [
        tool.Check("first", refused),
        tool.Check("second", lambda _: {"x": 1}, ("first",)),
        tool.Check("third", lambda _: {"x": 1 / 0}),
        tool.Check("fourth", lambda _: {"x": 1}),
    ]
    assert outcomes(tool, place_of(), *checks) == {
        "first": ("did not", "compile: no"),
        "second": ("not run", "needs first"),
        "third": ("did not", "ZeroDivisionError: division by zero"),
        "fourth": ("worked", None),
    }


def test_a_dry_run_leaves_out_what_needs_a_gpu(tool, place_of):
    check = tool.Check("bench", lambda _: {}, needs_gpu=True)
    assert outcomes(tool, place_of(dry=True), check) == {"bench": ("not run", "needs a GPU")}
    assert outcomes(tool, place_of(dry=False), check) == {"bench": ("worked", None)}


def test_no_check_is_begun_when_the_time_is_over(tool, place_of):
    assert outcomes(tool, place_of(left_s=1), tool.Check("late", lambda _: {})) == {
        "late": ("not run", "no time was left")
    }


def test_every_need_is_a_check_before_it(tool):
    seen = set[str]()
    for check in tool.CHECKS:
        assert seen.issuperset(check.needs), check.name
        seen.add(check.name)


def test_a_command_that_fails_is_told_by_its_last_line(tool, place_of):
    place = place_of()
    place.environment.update(PYTHONPATH=str(TOOL.parents[1]))
    with pytest.raises(tool.Failed, match=r"^cannot read nothing\.onnx"):
        place.edgeres("layers", "nothing.onnx")
    assert place.commands == ["edgeres layers nothing.onnx"]


def test_training_on_the_cpu_does_not_pass_for_training_on_a_gpu(tool, place_of):
    def trained(device: str, precision: str):
        return [{"duration_s": 1.0, "results": {"device": device, "precision": precision}}]

    assert tool._trained(place_of(dry=True), trained("cpu", "fp32"))["duration_s"] == 1
    assert tool._trained(place_of(dry=False), trained("cuda", "bf16"))["duration_s"] == 1
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32")):
        with pytest.raises(tool.Failed, match=f"it was trained on {device} in {precision}"):
            tool._trained(place_of(dry=False), trained(device, precision))


def test_logits_of_an_engine_are_held_against_its_graph(tool, spec_of, checkpoint_of, exported, monkeypatch):
    first = exported(checkpoint_of(spec_of()), "a")
    other = exported(checkpoint_of(spec_of(), seed=1), "b")
    stem = str(first.path.with_suffix(""))
    monkeypatch.setattr("edgeres.core.artifacts.Engine", lambda _: first)
    assert (tool._logits(stem)["same_top1"], tool._logits(stem)["sqnr_db"]) == (1, float("inf"))
    monkeypatch.setattr("edgeres.core.artifacts.Engine", lambda _: other)
    assert tool._logits(stem)["sqnr_db"] < tool._logits(stem)["least_db"]


def test_wheels_travel_whole_or_in_pieces(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "_PIECE_MIB", 1)
    content = bytes(range(256)) * 8192
    for name in ("big", "small"):
        with zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(f"{name}/__init__.py", "value = 1")
            wheel.writestr(f"{name}/library.so", content)
    pieces, into = tmp_path / "pieces", tmp_path / "into"
    into.mkdir()
    tool.pack(pieces, [tmp_path / "big-1-py3-none-any.whl"])
    (tmp_path / "small-1-py3-none-any.whl").rename(pieces / "small-1-py3-none-any.whl")
    assert [path.name for path in sorted(pieces.iterdir())] == [
        "big-1-py3-none-any.whl.xz.00",
        "small-1-py3-none-any.whl",
    ]
    site = tool.unpacked(pieces, into)
    assert {path.name for path in site.iterdir()} == {"big", "small"}
    assert (site / "big" / "library.so").read_bytes() == content


def test_a_wheel_larger_than_a_piece_is_cut(tool, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "_PIECE_MIB", 1)
    content = random.Random(0).randbytes(2_500_000)
    with zipfile.ZipFile(tmp_path / "noise-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("noise/data", content)
    tool.pack(tmp_path / "pieces", [tmp_path / "noise-1-py3-none-any.whl"])
    sizes = [path.stat().st_size for path in sorted((tmp_path / "pieces").iterdir())]
    assert len(sizes) == 3
    assert max(sizes) == 1 << 20
    assert (tool.unpacked(tmp_path / "pieces", tmp_path) / "noise" / "data").read_bytes() == content


def test_without_a_gpu_it_says_what_to_do(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--out", str(tmp_path / "out.json"), "--work", str(tmp_path)])
    monkeypatch.setattr(tool, "_target_here", lambda *_, **__: None)
    assert tool.main() == 2
    assert capsys.readouterr().err == "no GPU here; --dry-run tries what needs none\n"
    assert not (tmp_path / "out.json").exists()


def test_the_json_says_what_each_check_did(tool, tmp_path, monkeypatch, capsys):
    def refused(_):
        raise tool.Failed("no")

    checks = (tool.Check("one", lambda _: {"ms": 2}), tool.Check("two", refused), tool.Check("gpu", refused, (), True))
    out, tried = tmp_path / "out.json", tool.checked
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--dry-run", "--out", str(out), "--work", str(tmp_path)])
    monkeypatch.setattr(tool, "checked", lambda place: tried(place, checks))
    assert tool.main() == 1
    found = json.loads(out.read_text())
    assert [(row["name"], row["outcome"]) for row in found["checks"]] == [
        ("one", "worked"),
        ("two", "did not"),
        ("gpu", "not run"),
    ]
    assert found["checks"][0]["figures"] == {"ms": 2}
    assert found["dry_run"] is True
    assert capsys.readouterr().out.splitlines()[1].startswith("did not  two (0.0 s): no")


@pytest.mark.exhaustive
def test_all_that_needs_no_gpu_works(tool, tmp_path):
    out = tmp_path / "found.json"
    words = ("--dry-run", "--minutes", "60", "--work", str(tmp_path / "work"), "--out", str(out))
    done = subprocess.run([sys.executable, str(TOOL), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {row["name"]: (row["outcome"], row.get("reason")) for row in json.loads(out.read_text())["checks"]}
    assert found == {
        check.name: ("not run", "needs a GPU") if check.needs_gpu else ("worked", None) for check in tool.CHECKS
    }
