"""The images of a data set as the other computer packed them: raw bytes in parts, and how to make float32 of them.

    index.json      {"shape": [C, H, W], "n": N, "dtype": "uint8", "tables": [[256 floats] * C],
                     "parts": [{"name", "n"}, ...]}
    part-00000.bin  raw uint8 pixels, (n, C, H, W)

Pixels go through `tables`: the normalised value of each byte, per channel, as the other computer computed it, so that
the network's input here is bit for bit the one it had there. Labels are not here.
"""

import json
import struct
from pathlib import Path
from typing import Any, Iterator, NamedTuple  # noqa: UP035 - Python 3.6

from .process import Refused

FLOAT_BYTES = 4
_LEVELS = 256


class Part(NamedTuple):
    """One file of `n` images."""

    path: "Path"
    n: "int"


class Images(NamedTuple):
    """N images of `shape` (C, H, W). `planes`: per channel four tables of 256, one for each byte of a float32."""

    shape: "tuple[int, int, int]"
    n: "int"
    planes: "list[list[bytes]]"
    parts: "list[Part]"

    @property
    def image_bytes(self) -> "int":
        """Of one image as it is stored."""
        channels, height, width = self.shape
        return channels * height * width


def images_in(folder: "str") -> "Images":
    """What `folder` holds; raises Refused with one line if its index is damaged, or its parts are not as it says."""
    path = Path(folder) / "index.json"
    try:
        fields = json.loads(path.read_text())
        if fields["dtype"] != "uint8":
            raise ValueError(f"dtype {fields['dtype']!r} is not uint8")
        channels, height, width = (int(length) for length in fields["shape"])
        parts = [Part(path.with_name(row["name"]), int(row["n"])) for row in fields["parts"]]
        found = Images((channels, height, width), int(fields["n"]), _planes_from(fields["tables"], channels), parts)
        is_whole = all(part.path.stat().st_size == part.n * found.image_bytes for part in parts)
    except (OSError, ValueError, TypeError, KeyError, struct.error) as err:
        raise Refused(f"damaged index of images {path}: {type(err).__name__}: {err}") from err
    if not is_whole or found.n < 1 or found.n != sum(part.n for part in parts) or min(found.shape) < 1:
        raise Refused(f"damaged index of images {path}: {found.n} images of {found.shape}, parts {fields['parts']!r}")
    return found


def batches(images: "Images", size: "int") -> "Iterator[tuple[bytes, int]]":
    """(float32 (size, C, H, W), how many of them are images): the last batch is filled up with its last image."""
    for raw in _raw(images, size):
        count = len(raw) // images.image_bytes
        full = raw + raw[-images.image_bytes :] * (size - count)
        yield _floats(full, images), count


def _raw(images: "Images", size: "int") -> "Iterator[bytes]":
    """`size` images at a time, across the borders of parts; fewer at the end."""
    wanted, kept = size * images.image_bytes, b""
    for part in images.parts:
        with part.path.open("rb") as file:
            for chunk in iter(lambda: file.read(wanted - len(kept)), b""):  # noqa: B023 - used up in this turn
                kept += chunk
                if len(kept) == wanted:
                    yield kept
                    kept = b""
    if kept:
        yield kept


def _floats(raw: "bytes", images: "Images") -> "bytes":
    """Each byte as four: one table for each byte of the float32, written with a stride of four."""
    channels, height, width = images.shape
    plane, out = height * width, bytearray(FLOAT_BYTES * len(raw))
    for index, start in enumerate(range(0, len(raw), plane)):
        pixels, first = raw[start : start + plane], FLOAT_BYTES * start
        for place, table in enumerate(images.planes[index % channels]):
            out[first + place : first + FLOAT_BYTES * plane : FLOAT_BYTES] = pixels.translate(table)
    return bytes(out)


def _planes_from(tables: "Any", channels: "int") -> "list[list[bytes]]":
    if len(tables) != channels or any(len(table) != _LEVELS for table in tables):
        raise ValueError(f"tables must be {channels} of {_LEVELS} values")
    packed = [struct.pack(f"<{_LEVELS}f", *table) for table in tables]
    return [[one[place::FLOAT_BYTES] for place in range(FLOAT_BYTES)] for one in packed]
