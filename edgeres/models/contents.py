"""What a file is that was taken for a checkpoint, told by its first bytes, so that the refusal can say what to do."""

from __future__ import annotations

import codecs
import zipfile
import zlib
from pathlib import Path

from edgeres.core.errors import InputError

_HEAD_BYTES = 4096
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_MAGIC = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"RIFF", "a WebP, WAV or AVI file"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive; unpack it and name the file inside"),
    (b"BZh", "a bzip2 archive; unpack it and name the file inside"),
    (b"\xfd7zXZ\x00", "an xz archive; unpack it and name the file inside"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive; unpack it and name the file inside"),
)
_ZIPS = (b"PK\x03\x04", b"PK\x05\x06")
_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # of torch.save before 1.6, inside a pickled integer
_ONNX_FIELDS = frozenset(b"\x12\x1a\x22\x2a\x32\x3a\x42")  # what may follow ir_version in a ModelProto
_LATEST_IR = 31
_SAVE = "where it was made, save the weights alone: torch.save(model.state_dict(), FILE)"
_WANTED = "import takes the weights of a network: .pt, .pth, .th or .safetensors"


def check_content(path: Path) -> None:
    """Raises InputError that says what the file is if its first bytes show that it is no checkpoint."""
    head = _head(path)
    if not head:
        raise InputError(f"{path} is empty; copy it again from where it was made")
    if _is_torch(head) or _is_safetensors(head):
        _check_suffix(path, head)
    elif what := _described(head):
        advice = "" if ";" in what else f"; {_WANTED}"
        raise InputError(f"{path} is {what}{advice}")


def why_unreadable(path: Path) -> str:
    """The sentence on a file that begins as a checkpoint does and cannot be read."""
    head, size = _head(path), f"{path.stat().st_size:,} bytes"
    if head.startswith(_ZIPS):
        names = _names_in_zip(path)
        if names and not any(name.endswith("/data.pkl") for name in names):
            return f"{path} is a zip archive that torch.save did not write ({names[0]}, ...); {_WANTED}"
        if any(name.endswith("/constants.pkl") for name in names):
            return f"{path} is a TorchScript program; {_SAVE}"
        if names and _is_whole(path):
            return f"{path} is whole, and this version of torch cannot read it; {_SAVE}"
    if head.startswith(_PICKLES) and _TORCH_MAGIC not in head:
        return f"{path} is a Python pickle that torch.save did not write; {_SAVE}"
    if _is_torch(head) or _is_safetensors(head):
        return f"{path} is cut off or damaged ({size}); copy it again from where it was made"
    return f"{path} is no checkpoint, or damaged ({size}, the first {head[:4].hex(' ')}); {_WANTED}"


def is_whole_torch(path: Path) -> bool:
    """Whether the file begins as torch.save's do and, if it is an archive, every checksum in it holds."""
    head = _head(path)
    return _is_torch(head) and (not head.startswith(_ZIPS) or _is_whole(path))


def _is_torch(head: bytes) -> bool:
    """Whether a file that begins so may be torch.save's: a zip archive or, before torch 1.6, a pickle."""
    return head.startswith((*_ZIPS, *_PICKLES)) and not _is_safetensors(head)


def _is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so is safetensors: a length as u64, then JSON."""
    return 2 <= int.from_bytes(head[:8], "little") <= _MAX_HEADER_BYTES and head[8:9] == b"{"


def _check_suffix(path: Path, head: bytes) -> None:
    """The reader is chosen by the suffix, as every later stage does."""
    if _is_safetensors(head) and path.suffix != ".safetensors":
        raise InputError(f"{path} is a safetensors file; rename it to {path.stem}.safetensors")
    if _is_torch(head) and path.suffix == ".safetensors":
        raise InputError(f"{path} is not a safetensors file but one of torch.save; rename it to {path.stem}.pth")


def _described(head: bytes) -> str | None:
    if text := _text(head):
        return text
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if head[:1] == b"\x08" and len(head) > 2 and head[1] <= _LATEST_IR and head[2] in _ONNX_FIELDS:
        return "an ONNX graph; import takes the weights it was exported from (.pt, .pth, .th or .safetensors)"
    return None


def _text(head: bytes) -> str | None:
    """What kind of text, None if it is none."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # a sign may be cut at the end
    except UnicodeDecodeError:
        return None
    if any(ord(sign) < 32 and sign not in "\t\n\r\f\x1b" for sign in text):
        return None
    if text.startswith("version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; fetch that with: git lfs pull"
    if text.lstrip().lower().startswith(("<!doctype", "<html")):
        return "a web page, as a failed download leaves; download the file again"
    return "text"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as err:
        raise InputError(f"cannot read {path}: {err.strerror}") from err


def _names_in_zip(path: Path) -> list[str]:
    """None are listed of an archive that is cut off: the list stands at its end."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return []


def _is_whole(path: Path) -> bool:
    """Whether every checksum in the archive holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError):
        return False
