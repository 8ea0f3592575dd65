"""A file that is no checkpoint is called what it is, a damaged one damaged; a good one passes whatever its bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shlex
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from edgeres.core.errors import InputError
from edgeres.models.contents import check_content, why_unreadable
from edgeres.models.foreign import read_weights

STATE = {"layer.weight": torch.arange(600.0), "fc.bias": torch.zeros(2)}


def saved(**options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer, **options)
    return buffer.getvalue()


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, kind)
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "text")
    return buffer.getvalue()


def torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), buffer)
    return buffer.getvalue()


def corrupted(content: bytes) -> bytes:
    """`content` with its pickle overwritten, so that the archive is whole but for one checksum."""
    place = content.index(b"data.pkl") + 100
    return content[:place] + b"\xff" * 20 + content[place + 20 :]


OTHERS = {
    "empty": (b"", "x.pth is empty; copy it again"),
    "jpeg": (picture("JPEG"), "bytes, the first ff d8 ff e0); a network comes as weights"),
    "gzip": (gzip.compress(saved()), "is a compressed file; unpack it"),
    "zip": (zipped("notes.txt"), r"is a zip archive that torch.save did not write (notes.txt, ...)"),
    "xz": (lzma.compress(saved()), "is a compressed file; unpack it"),
    "bzip2": (bz2.compress(saved()), "is a compressed file; unpack it"),
    "text": ("Größe: none\n".encode() * 700, "is no checkpoint, or damaged (9,800 bytes, the first 47 72 c3 b6)"),
    "web page": (b"\n<!DOCTYPE html>\n<html>404</html>", "is a web page, as a failed download leaves; download"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    "bytes": (b"\xf0\x01\x02\x03" * 9, "is no checkpoint, or damaged (36 bytes, the first f0 01 02 03)"),
    "pickle": (b"\x80\x02]q\x00K\x01a.", "is a Python pickle that torch.save did not write; where it was made"),
    "safetensors": (save(STATE), "is a safetensors file; rename it to x.safetensors"),
    "torchscript": (torchscript, "is a TorchScript program, and reading it may run what is in it; if you trust it: py"),
    "cut": (saved()[:-400], f"is cut off or damaged ({len(saved()) - 400:,} bytes); copy it again"),
    "cut, old": (saved(_use_new_zipfile_serialization=False)[:-400], "is cut off or damaged"),
    "corrupted": (corrupted(saved()), "is cut off or damaged"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_checkpoint_is_called_what_it_is(tmp_path: Path, case: str) -> None:
    content, message = OTHERS[case]
    file = tmp_path / "x.pth"
    file.write_bytes(content() if callable(content) else content)
    with pytest.raises(InputError) as caught:
        read_weights(file)
    assert message in str(caught.value)
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (save(STATE)[:-100], "is cut off or damaged"),
        (save(STATE)[:40], "is cut off or damaged"),
        (saved(), "is not a safetensors file but one of torch.save; rename it to x.pth"),
        (b"text", "is no checkpoint, or damaged"),
        (b"", "is empty"),
    ],
)
def test_a_file_named_safetensors_is_held_to_it(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_weights(file)


def exported(path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A .pt2 of a network with tied and transposed weights, a counter and a half-precision buffer; its state dict."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    network.register_buffer("kept", torch.arange(6.0).half().reshape(2, 3).t())
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 8, 8),)), path)
    return path, network.state_dict()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_of_torch_export_are_read_as_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, state = exported(tmp_path / "x.pt2")
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("something was unpickled"))
    weights = read_weights(path).weights
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[key], one) and weights[key].dtype == one.dtype for key, one in state.items())
    content = path.read_bytes()
    for damaged in (content[:-400], content.replace(b'"as_int": 4', b'"as_int": 9')):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.pt2 .*cut off"):
            read_weights(path)
    path.write_bytes(zipped("notes.txt"))
    with pytest.raises(
        InputError, match=r"x\.pt2 is no file of torch\.export\.save, or cut off: it holds no data/weights/"
    ):
        read_weights(path)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_weights_of_an_earlier_torch_export_are_read_without_code(tmp_path: Path) -> None:
    for content, message in ((saved(), ""), (torchscript(), "is cut off or damaged")):
        with zipfile.ZipFile(tmp_path / "x.pt2", "w") as archive:
            archive.writestr("serialized_state_dict.pt", content)
        if message:
            with pytest.raises(InputError, match=message):
                read_weights(tmp_path / "x.pt2")
        else:
            assert torch.equal(read_weights(tmp_path / "x.pt2").weights["layer.weight"], STATE["layer.weight"])


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("taken", "name"), [([], "it's.weights.pth"), (["it's.weights.pth"], "it's.weights2.pth")])
def test_the_command_printed_for_a_torchscript_file_takes_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: list[str], name: str
) -> None:
    file, own = tmp_path / "it's.pt", [tmp_path / one for one in taken]
    for one in own:
        one.write_text("the user's own")
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).eval()
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, 4, 4)), file)
    with pytest.raises(InputError) as caught:
        read_weights(file)
    python, minus_c, code, *arguments = shlex.split(str(caught.value).partition("if you trust it: ")[2])
    assert (python, minus_c) == ("python", "-c")
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(code, {})
    with pytest.raises(FileExistsError):  # what came to be there since is the user's own too
        exec(code, {})
    assert [one.read_text() for one in own] == ["the user's own" for _ in own]
    assert torch.equal(read_weights(tmp_path / name).weights["0.weight"], network[0].weight)


def test_an_onnx_file_is_called_one(tmp_path: Path) -> None:
    file = tmp_path / "x.onnx"
    file.write_bytes(b"\x08\x08")
    with pytest.raises(InputError, match="is an ONNX graph, which is a network by itself; import it alone"):
        check_content(file)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_passes(tmp_path: Path, zipped: bool) -> None:
    file = tmp_path / "x.pt"
    torch.save(STATE, file, _use_new_zipfile_serialization=zipped)
    check_content(file)
    assert read_weights(file)[0].keys() == STATE.keys()


@pytest.mark.parametrize("length", [0x280, 0x480, 0x4D42, 0xD8FF])
def test_a_safetensors_header_whose_length_spells_another_format_passes(tmp_path: Path, length: int) -> None:
    file = tmp_path / "x.safetensors"
    header = json.dumps({"a.b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(struct.pack("<Q", length) + header.ljust(length) + bytes(4))
    assert read_weights(file)[0].keys() == {"a.b"}


def test_a_whole_archive_torch_cannot_read_is_not_called_damaged(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    file.write_bytes(saved())
    assert "is whole, and this version of torch cannot read it" in why_unreadable(file)
