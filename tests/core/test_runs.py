"""Run folders: found, numbered, claimed by one process at a time, readable when damaged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeres.core.errors import InputError
from edgeres.core.files import process_began
from edgeres.core.runs import (
    LATEST,
    STARTED_NAME,
    Run,
    StageFolder,
    latest_run,
    new_run,
    run_holding,
    run_named,
)


@pytest.fixture
def run(runs_folder):
    path = runs_folder / "mine"
    path.mkdir(parents=True)
    return Run(path)


def begin(run: Run, name: str, **started: object) -> StageFolder:
    folder = run.path / name
    folder.mkdir()
    (folder / STARTED_NAME).write_text(json.dumps(started))
    return next(found for found in run.folders() if found.path == folder)


def test_folders_are_numbered_in_order_and_others_are_left_out(run):
    for name in ("10-bench", "02-prune", "00-train", "02-prune.old1", "notes"):
        (run.path / name).mkdir()
    (run.path / "03-export").write_text("a file")
    assert [folder.path.name for folder in run.folders()] == ["00-train", "02-prune", "10-bench"]
    assert run.folder_for("eval", "key").name == "11-eval"


def test_a_left_folder_is_taken_up_by_the_same_call_only(run):
    left = begin(run, "00-train", key="a", pid=2**22 + 1, host="elsewhere")
    assert run.folder_for("train", "a") == left.path
    assert run.folder_for("train", "b").name == "01-train"
    assert run.folder_for("prune", "a").name == "01-prune"


def test_a_folder_another_process_works_in_is_left_to_it(run):
    import platform

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        began = process_began(worker.pid)
        busy = begin(run, "00-train", key="a", pid=worker.pid, began=began, host=platform.node())
        assert busy.is_busy
        assert run.folder_for("train", "a").name == "01-train"
        worker.communicate(b"\n")
    assert not busy.is_busy
    assert run.folder_for("train", "a") == busy.path


def test_no_run_is_called_latest(runs_folder):
    assert new_run(LATEST).name == "latest-2"


def test_two_claims_get_two_folders(run):
    first = run.claim("prune", "a")
    assert run.claim("prune", "a") == first
    assert (first.name, run.claim("export", "b").name) == ("00-prune", "01-export")


def test_what_goes_on_after_others_were_begun_becomes_the_newest_with_all_it_holds(run, caplog):
    left = begin(run, "00-quantize", key="a")
    (left.path / "kept.json").write_text("kept")
    (run.path / "01-quantize").mkdir()
    with caplog.at_level("INFO", "edgeres"):
        path = run.claim("quantize", "a")
    assert path == run.path / "02-quantize" == run.claim("quantize", "a")
    assert (path / "kept.json").read_text() == "kept"
    assert [folder.path.name for folder in run.folders()] == ["01-quantize", "02-quantize"]
    assert caplog.messages == [f"{left.path} goes on as 02-quantize, the newest of the run"]


@pytest.mark.parametrize("named_by", ["recipe.toml", "00-optimize/fast/00-import/report.json"])
def test_what_a_recipe_or_a_report_names_goes_on_where_it_lies(run, named_by, caplog):
    left = begin(run, "00-optimize", key="a")
    (run.path / named_by).parent.mkdir(parents=True, exist_ok=True)
    (run.path / named_by).touch()
    (run.path / "01-export").mkdir()
    with caplog.at_level("INFO", "edgeres"):
        assert run.claim("optimize", "a") == left.path
    assert "counts as newer all the same" in caplog.text


def test_a_number_that_another_process_has_now_holds_nothing(run):
    """After a power cut, or in a container that was started again."""
    import platform

    left = begin(run, "00-train", key="a", pid=os.getppid(), began="1", host=platform.node())
    assert not left.is_busy
    assert run.folder_for("train", "a") == left.path
    assert begin(run, "01-train", pid=os.getppid(), began=process_began(os.getppid()), host=platform.node()).is_busy


DAMAGED = ["", "[]", "{", '{"key": null}', "[" * 100_000, '{"pid": 99999999999999999999}', '{"pid": "²"}', "\udcff"]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_start_is_nobodys(run, text):
    folder = begin(run, "00-train")
    (folder.path / STARTED_NAME).write_text(text, errors="surrogateescape")
    assert not folder.is_busy
    assert run.folder_for("train", "a").name == "01-train"


def test_latest_follows_and_survives_as_a_text_file(run, runs_folder, monkeypatch):
    run.make_latest()
    assert latest_run() == run
    other = new_run("mine")
    assert other.name == "mine-2"
    other.path.mkdir()

    def no_links(*arguments: object, **named: object) -> None:
        raise OSError("not allowed")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    (runs_folder / LATEST).unlink()
    other.make_latest()
    assert latest_run() == other
    assert run_named(None) == other
    assert run_named("mine") == run


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"x" * 5000, "é".encode() * 300, b"../../etc", b""])
def test_a_damaged_pointer_is_no_run(run, runs_folder, content):
    (runs_folder / LATEST).write_bytes(content)
    with pytest.raises(InputError, match="no current run"):
        latest_run()


def test_a_run_that_is_gone_is_said_to_be(run, runs_folder):
    run.make_latest()
    run.path.rmdir()
    with pytest.raises(InputError, match="no current run"):
        latest_run()
    with pytest.raises(InputError, match="no run 'mine'"):
        run_named("mine")


def test_the_run_of_a_file_is_told_by_its_folder(run):
    begin(run, "00-train", key="a")
    (run.path / "20-resnet").mkdir()
    assert run_holding(run.path / "00-train" / "model.safetensors") == run
    assert run_holding(run.path / "model.safetensors") is None
    assert run_holding(run.path / "20-resnet" / "model.safetensors") is None


@pytest.mark.parametrize("where", ["NAME", "runs/NAME/01-optimize/fast", "elsewhere/NAME"])
@pytest.mark.parametrize("runs", ["runs", None])
def test_what_commands_call_a_run_is_found_by_it(runs_folder, monkeypatch, runs, where):
    if runs:
        monkeypatch.setenv("EDGERES_RUNS", runs)
    path = runs_folder / where if where == "NAME" else runs_folder.parent / where
    (path / "00-train").mkdir(parents=True)
    for run in (Run(path), Run(path.relative_to(runs_folder.parent))):
        assert run.called == ("NAME" if where == "NAME" else run.called)
        assert run_named(run.called).path.samefile(path)
        assert runs is None or where.startswith("elsewhere") or run.called == where  # as short as it was typed


def test_a_path_through_latest_is_the_run_itself(run, runs_folder):
    begin(run, "00-train", key="a")
    run.make_latest()
    assert run_holding(runs_folder / LATEST / "00-train" / "model.safetensors") == run
    run_holding(runs_folder / LATEST / "00-train" / "model.safetensors").make_latest()
    assert latest_run() == run


def test_a_pointer_to_itself_is_no_current_run(runs_folder):
    runs_folder.mkdir()
    (runs_folder / LATEST).symlink_to(LATEST)
    with pytest.raises(InputError, match="no current run"):
        latest_run()


@pytest.fixture
def shells(monkeypatch):
    """A function that says which shell (1 or another process that lives) the commands that follow are typed in."""
    sessions = {"first": os.getpid(), "other": os.getppid()}
    return lambda name: monkeypatch.setattr(os, "getsid", lambda pid: sessions[name])


def test_another_shell_that_moved_latest_is_said_with_both_names(run, shells):
    other = new_run("other")
    other.path.mkdir()
    shells("first")
    run.make_latest()
    assert run_named(None) == run
    shells("other")
    assert run_named(None) == run  # a shell in which nothing was done yet goes on where the work is
    other.make_latest()
    assert run_named(None) == other
    shells("first")
    with pytest.raises(InputError, match=r"latest is other by now.* worked in mine: name the run, mine or other;"):
        run_named(None)
    assert run_named("latest") == other
    run.make_latest()
    assert run_named(None) == run


def test_a_shell_is_known_again_by_when_it_began_too(run, shells, runs_folder):
    shells("first")
    run.make_latest()
    (record,) = (runs_folder / ".shells").iterdir()
    record.write_text(f"1{record.read_text()}")
    other = new_run("other")
    other.path.mkdir()
    shells("other")
    other.make_latest()
    shells("first")
    assert run_named(None) == other


def test_records_of_shells_that_are_gone_are_removed(run, shells, runs_folder):
    (runs_folder / ".shells").mkdir()
    (runs_folder / ".shells" / "99999999").write_text("1 mine\n")
    shells("first")
    run.make_latest()
    assert [path.name for path in (runs_folder / ".shells").iterdir()] == [str(os.getpid())]


def test_a_run_that_a_shell_worked_in_and_that_is_gone_holds_nothing_up(run, shells):
    other = new_run("other")
    other.path.mkdir()
    shells("first")
    other.make_latest()
    shells("other")
    run.make_latest()
    other.path.rmdir()
    shells("first")
    assert run_named(None) == run


def test_the_environment_names_the_run_of_a_shell_and_latest_stays(run, monkeypatch):
    other = new_run("other")
    other.path.mkdir()
    run.make_latest()
    monkeypatch.setenv("EDGERES_RUN", "other")
    assert run_named(None) == other
    other.make_latest()
    assert latest_run() == run
    monkeypatch.setenv("EDGERES_RUN", "gone")
    with pytest.raises(InputError, match="EDGERES_RUN=gone: there is no run 'gone'"):
        run_named(None)
    assert run_named("mine") == run


@pytest.mark.parametrize("name", ["", "latest", ".hidden", "a/b", "..", "mine"])
def test_a_name_that_no_run_can_have_is_refused(run, name):
    with pytest.raises(InputError, match="no run can be called"):
        new_run(name, is_exact=True)
