"""A file is whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from edgeres.core.errors import InputError
from edgeres.core.files import sha256_of, write_bytes, write_text, written


def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with written(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_an_unwritable_place_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "file" / "below.txt", "x")


def test_a_full_disk_is_said_with_the_path(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"^cannot write .*/weights: No space left on device$"):
        write_bytes(tmp_path / "weights", b"x")
    assert not list(tmp_path.iterdir())


def test_sha256_is_sha256(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 3_000_000)
    assert sha256_of(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    with pytest.raises(InputError, match="does not exist"):
        sha256_of(tmp_path / "none")


def test_what_a_killed_process_had_begun_to_write_goes_and_what_another_writes_stays(tmp_path):
    path = tmp_path / "a[1].json"
    gone, alive, strange = (path.with_name(f".{path.name}.{pid}.tmp") for pid in (99999999, os.getppid(), "x"))
    for left in (gone, alive, strange):
        left.write_text("half")
    write_text(path, "whole")
    assert path.read_text() == "whole"
    assert [left.exists() for left in (gone, alive, strange)] == [False, True, True]
