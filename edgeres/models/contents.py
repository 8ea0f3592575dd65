"""What a file is that was taken for a checkpoint, told by its first bytes, so that the refusal can say what to do."""

from __future__ import annotations

import shlex
import zipfile
import zlib
from pathlib import Path

from edgeres.core.errors import InputError
from edgeres.core.files import free_path
from edgeres.core.names import function_meant
from edgeres.core.safe_text import typed

_HEAD_BYTES = 4096
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_ZIPS = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # of torch.save before 1.6, inside a pickled integer
_OTHERS = (
    ((b"version https://git-lfs",), "a Git LFS pointer, not the file itself; fetch that with: git lfs pull"),
    ((b"<!doctype", b"<html"), "a web page, as a failed download leaves; download the file again"),
    ((b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"\x28\xb5\x2f\xfd"), "a compressed file; unpack it and name the file inside"),
)
_SAVE = "where it was made, save the weights alone: torch.save(model.state_dict(), FILE)"
_SCRIPT = "import torch; w = torch.jit.load({0!r}, 'cpu').state_dict(); open({1!r}, 'x').close(); torch.save(w, {1!r})"
_WANTED = "a network comes as weights (.pt, .pth, .th, .ckpt, .pt2, .safetensors), .onnx or package.module:function"


def check_content(path: Path) -> None:
    """Raises InputError that says what the file is if its first bytes or its name show that it is no checkpoint."""
    head = _head(path)
    if not head:
        raise InputError(f"{path} is empty; copy it again from where it was made")
    if path.suffix == ".py":
        raise InputError(f"{path} is a Python file; {_WANTED}{function_meant(f'{path}:FUNCTION')}")
    if _is_safetensors(head) and path.suffix != ".safetensors":
        raise InputError(f"{path} is a safetensors file; rename it to {path.stem}.safetensors")
    if _is_torch(head) and path.suffix == ".safetensors":
        raise InputError(f"{path} is not a safetensors file but one of torch.save; rename it to {path.stem}.pth")
    if path.suffix.lower() == ".onnx":
        raise InputError(
            f"{path} is an ONNX graph, which is a network by itself; import it alone: edgeres import {typed(path)}"
        )
    for begins, what in _OTHERS:
        if not _is_safetensors(head) and head.lstrip().lower().startswith(begins):
            raise InputError(f"{path} is {what}")


def why_unreadable(path: Path) -> str:
    """The sentence on a file that cannot be read as a checkpoint."""
    head, size = _head(path), f"{path.stat().st_size:,} bytes"
    if head.startswith(_ZIPS):
        names, is_whole = _archive(path)
        if names and not any(name.endswith("/data.pkl") for name in names):
            return f"{path} is a zip archive that torch.save did not write ({names[0]}, ...); {_WANTED}"
        if any(name.endswith("/constants.pkl") for name in names):
            script = _SCRIPT.format(str(path), str(free_path(path.with_suffix(".weights.pth"))))
            return (
                f"{path} is a TorchScript program, and reading it may run what is in it; if you trust it: python -c"
                f" {shlex.quote(script)}"
            )
        if is_whole:
            return f"{path} is whole, and this version of torch cannot read it; {_SAVE}"
    if head.startswith(_PICKLES) and _TORCH_MAGIC not in head:
        return f"{path} is a Python pickle that torch.save did not write; {_SAVE}"
    if _is_torch(head) or _is_safetensors(head):
        return f"{path} is cut off or damaged ({size}); copy it again from where it was made"
    return f"{path} is no checkpoint, or damaged ({size}, the first {head[:4].hex(' ')}); {_WANTED}"


def is_whole_torch(path: Path) -> bool:
    """Whether the file begins as torch.save's do and, if it is an archive, every checksum in it holds."""
    head = _head(path)
    return _is_torch(head) and (not head.startswith(_ZIPS) or _archive(path)[1])


def _is_torch(head: bytes) -> bool:
    """Whether a file that begins so may be torch.save's: a zip archive or, before torch 1.6, a pickle."""
    return head.startswith((*_ZIPS, *_PICKLES)) and not _is_safetensors(head)


def _is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so is safetensors: a length as u64, then JSON."""
    return 2 <= int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES and head[8:9] == b"{"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err


def _archive(path: Path) -> tuple[list[str], bool]:
    """The names in a zip archive, and whether every checksum in it holds; none are told of one that is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist(), archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError):
        return [], False
