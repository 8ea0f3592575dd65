"""Files to a board and back over real ssh, through a wire that is cut."""

import hashlib
import os
import subprocess
import time

import pytest

from edgeres.bench import board_session, board_upload
from edgeres.bench.board_answers import BoardFound
from edgeres.bench.board_link import Link
from edgeres.bench.board_session import Session, session
from edgeres.bench.boards import checked_board
from edgeres.core.errors import DeviceError

DESK = checked_board("desk", "orin")
SIZE = 3_000_000


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(board_upload, "WAIT_S", 0.02)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(SIZE))
    return path


def test_an_upload_goes_on_where_the_connection_was_cut(host, file):
    host.start(cuts=[1_500_000])
    seen = []
    with session(DESK) as opened:
        with file.open("rb") as source:
            board_upload.send(opened.link, source, f"{opened.folder}/big", seen.append)
        assert opened.link.run(["sha256sum", f"{opened.folder}/big"]).out.split()[0] == sha256(file)
    assert host.wire.opened == 2
    assert sum(seen) >= SIZE
    assert host.wire.carried[1] < SIZE  # a second upload from the start would take more
    assert host.left_behind() == []


def test_a_download_goes_on_where_the_connection_was_cut(host, hosts, file, tmp_path, monkeypatch):
    host.start(cuts=[])
    with session(DESK) as opened:
        opened.upload(file, "big")
        read = board_upload._continue

        def cut_once(*arguments):
            monkeypatch.setattr(board_upload, "_continue", read)
            arguments[2].write_bytes(file.read_bytes()[:1_000_000])
            host.wire.cut()
            read(*arguments)

        monkeypatch.setattr(board_upload, "_continue", cut_once)
        opened.download("big", tmp_path / "back", sha256(file), SIZE)
    assert sha256(tmp_path / "back") == sha256(file)
    assert host.wire.opened == 2


def test_a_laptop_that_vanishes_during_an_upload_leaves_nothing(host, hosts, monkeypatch):
    monkeypatch.setattr(board_session, "GRACE_S", 0.5)
    host.start(cuts=[])
    link = Link(DESK).__enter__()
    folder = link.run(["mktemp", "-d", "-t", "edgeres-run-XXXXXXXX"]).out.strip()
    opened = Session(link, folder)
    opened.write(board_session._KEEPER_SOURCE.read_bytes(), "keeper.py")
    opened.hold()
    opened.write(b"half of a model", "model.onnx")
    assert len(host.left_behind()) == 1
    host.wire.cut()
    hosts.wait_until(lambda: host.left_behind() == [] and host.programs() == [])


def test_what_an_agent_had_set_that_was_killed_with_the_connection_is_put_back_by_the_keeper(host, hosts, monkeypatch):
    monkeypatch.setattr(board_session, "GRACE_S", 0.5)
    host.start(cuts=[])
    left, mode = host.root / f"jetson/var/tmp/edgeres-kept-{os.getuid()}", host.root / "jetson/state/power_mode"
    with session(DESK):
        left.mkdir(mode=0o700)
        (left / "mode.json").write_text('{"before": 1, "during": 2}')
        host.wire.cut()
    hosts.wait_until(lambda: host.left_behind() == [] and host.programs() == [])
    assert not left.exists()
    assert mode.read_text() == "1"


def test_who_only_looks_at_a_board_changes_nothing_that_a_killed_run_had_set(host):
    host.start()
    left = host.root / f"jetson/var/tmp/edgeres-kept-{os.getuid()}"
    left.mkdir(mode=0o700)
    (left / "mode.json").write_text('{"before": 1, "during": 2}')
    with session(DESK) as opened:
        (said,) = opened.found.left
        assert said.endswith("has left power mode MAXN_SUPER; the next run puts it back, or: sudo nvpmodel -m 1")
        assert opened.agent(BoardFound).power_mode.name == "MAXN_SUPER"
        assert opened.claim() == ["a run that was killed had left power mode MAXN_SUPER: put back"]
        assert opened.agent(BoardFound).left == ()


@pytest.mark.slow
def test_what_a_board_without_power_left_is_removed_by_the_next_session(host):
    host.start()
    left, young, other = (host.board_tmp / name for name in ("edgeres-run-aaaaaaaa", "edgeres-run-bbbbbbbb", "mine"))
    for folder in (left, young, other):
        folder.mkdir()
    (left / "owner").write_text(f"{os.getpid()} 1")  # the number is in use again, by a program that began later
    with session(DESK) as first, session(DESK) as second:
        assert not left.exists()
        assert young.exists()
        assert first.folder != second.folder
        assert len(host.left_behind()) == 3
    assert sorted(host.board_tmp.iterdir()) == [young, other]
    hour_ago = time.time() - 3600  # noqa: TID251
    os.utime(young, (hour_ago, hour_ago))
    with session(DESK):
        assert not young.exists()


def test_a_file_damaged_on_the_way_is_sent_again(host, file, monkeypatch):
    host.start()
    with session(DESK) as opened:
        opened.write(b"something else", "big")
        opened.upload(file, "big")
        assert opened.link.run(["sha256sum", f"{opened.folder}/big"]).out.split()[0] == sha256(file)
        monkeypatch.setattr(board_upload, "sha256_on", lambda link, remote, size: "0" * 64)
        with pytest.raises(DeviceError, match="did not arrive whole, twice"):
            opened.upload(file, "big")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(host, small_disk, file):
    host.start(TMPDIR=str(small_disk))
    with session(DESK) as opened:
        with pytest.raises(
            DeviceError, match=r"^desk: building x needs 8\.\d MB in .*small, (0\.9|1\.0) MB are free; make room"
        ):
            opened.need(100_000, "building x")
        with pytest.raises(DeviceError, match=r"^desk: .*big\.bin.* is its disk full\?"):
            opened.upload(file, "big.bin")
    assert list(small_disk.iterdir()) == []


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()
