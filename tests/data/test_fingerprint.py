"""A folder's fingerprint is that of its content, wherever it lies."""

from __future__ import annotations

import shutil

from edgeres.data.dataset import data_fingerprint


def fingerprint(path):
    data_fingerprint.cache_clear()
    return data_fingerprint(f"folder:{path}")


def test_added_removed_renamed_and_changed_files_count(tmp_path):
    root = tmp_path / "a"
    (root / "train" / "cat").mkdir(parents=True)
    (root / "train" / "cat" / "1.png").write_bytes(b"12")
    seen = {fingerprint(root)}
    copy = shutil.copytree(root, tmp_path / "b")
    assert fingerprint(copy) in seen
    for change in (
        lambda: (root / "train" / "cat" / "2.png").write_bytes(b"1"),
        lambda: (root / "train" / "cat" / "2.png").rename(root / "train" / "cat" / "3.png"),
        lambda: (root / "train" / "cat" / "3.png").write_bytes(b"123"),
        lambda: (root / "train" / "cat" / "1.png").unlink(),
    ):
        change()
        now = fingerprint(root)
        assert now not in seen
        seen.add(now)


def test_named_sets_are_their_name():
    assert data_fingerprint("digits") == "digits"
