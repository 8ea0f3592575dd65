"""Files carry their spec and say so when they do not."""

from __future__ import annotations

import json
import struct

import pytest

from edgeres.core.artifacts import Checkpoint, model_from
from edgeres.core.errors import InputError


def test_the_spec_is_read_back_from_the_file_alone(checkpoint_of, spec_of):
    spec = spec_of("resnet14", ordering="full-preact").without(("layer1.1",))
    checkpoint = checkpoint_of(spec)
    assert Checkpoint(checkpoint.path).spec == spec
    assert checkpoint.precision == "fp32"


def header_only(path, header: bytes):
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file"),
        (struct.pack("<Q", 2**62), "not a safetensors file"),
        (struct.pack("<Q", 4) + b"{{{{", "not a safetensors file"),
        (struct.pack("<Q", 2) + b"[]", "not a safetensors file"),
        (struct.pack("<Q", 2) + b"{}", "not written by edgeres"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        _ = Checkpoint(path).card


def test_a_damaged_spec_is_refused(tmp_path):
    header = json.dumps({"__metadata__": {"edgeres": '{"schema_version": 1}'}}).encode()
    with pytest.raises(InputError, match="its spec is not a readable Card: spec is needed"):
        _ = Checkpoint(header_only(tmp_path / "x.safetensors", header)).card


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.safetensors", "does not exist"),
        ("x.pth", "edgeres import"),
        ("x.zip", "cannot tell what this is"),
    ],
)
def test_models_are_told_by_their_suffix(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        model_from(tmp_path / name)


def test_an_artifact_may_be_named_by_the_text_of_its_path(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    assert Checkpoint(str(file)) == Checkpoint(file)
    assert Checkpoint(str(file)).size_bytes == 0
