from __future__ import annotations

import pytest

from edgeres.core.errors import InputError
from edgeres.runtime.manifest import plan_header


def header(magic: bytes, version: tuple[int, ...]) -> bytes:
    return magic + bytes(20) + bytes(version) + bytes(36)


@pytest.mark.parametrize(
    ("magic", "version", "expected"),
    [
        (b"ftrt", (10, 3, 0, 30), ("tensorrt", "10.3.0.30")),
        (b"vtrt", (1, 7, 1, 116), ("tensorrt-rtx", "1.7.1.116")),
    ],
)
def test_the_header_tells_runtime_and_version(magic, version, expected, tmp_path):
    path = tmp_path / "x.plan"
    path.write_bytes(header(magic, version))
    found = plan_header(path)
    assert (found.runtime, found.version) == expected


@pytest.mark.parametrize("content", [b"", b"ftrt", b"PK\x03\x04" + bytes(60)])
def test_another_file_is_refused(content, tmp_path):
    path = tmp_path / "x.plan"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is not a TensorRT plan"):
        plan_header(path)


def test_an_absent_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        plan_header(tmp_path / "x.plan")
