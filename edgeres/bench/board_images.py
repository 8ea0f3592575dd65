"""A split's images on a board, bit for bit what ONNX Runtime is fed here.

    DIR/index.json      {"shape": [C, H, W], "n", "dtype": "uint8", "tables": [[256 floats] * C],
                         "parts": [{"name", "n", "sha256"}, ...]}
    DIR/part-00000.bin  raw uint8 pixels, (n, C, H, W)

A pixel's input is tables[channel][byte]: every preprocessing here works on each byte alone, so bytes travel, not
floats. Labels never leave the laptop.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeres.bench.board_session import Session
from edgeres.core.progress import bar
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data import Split
from edgeres.data.images import Pixels, normalised
from edgeres.data.sources import in_threads

PART_BYTES = 16 << 20  # kept in memory; a lost connection repeats at most the packets under way
_BYTES = 256


def tables_of(preprocess: Preprocess, channels: int) -> NDArray[np.float32]:
    """float32 (C, 256): what each byte of each channel becomes."""
    every = np.tile(np.arange(_BYTES, dtype=np.uint8)[:, None, None, None], (1, 1, 1, channels))
    return np.ascontiguousarray(normalised(every, preprocess)[:, :, 0, 0].T)


def bytes_needed(split: Split, spec: ModelSpec) -> int:
    """Size of all parts on the board's disk."""
    return len(split) * math.prod(spec.input_shape)


def send_images(session: Session, split: Split, spec: ModelSpec, name: str) -> str:
    """Writes the images into the folder `name` of the run; returns its path on the board."""
    session.need(bytes_needed(split, spec), f"{len(split)} images")
    session.run(["mkdir", "-p", "--", f"{session.folder}/{name}"])
    parts: list[dict[str, Any]] = []
    with bar(f"{session.board.name}: sending {len(split)} images") as shown:
        shown.expect(bytes_needed(split, spec))
        for pixels in parts_of(split, spec):
            file = f"part-{len(parts):05d}.bin"
            content = pixels.tobytes()
            session.write(content, f"{name}/{file}", shown.advance)
            parts.append({"name": file, "n": len(pixels), "sha256": hashlib.sha256(content).hexdigest()})
    index = {
        "shape": list(spec.input_shape),
        "n": len(split),
        "dtype": "uint8",
        "tables": tables_of(spec.preprocess, spec.input_shape[0]).tolist(),
        "parts": parts,
    }
    session.write(json.dumps(index).encode(), f"{name}/index.json")
    return f"{session.folder}/{name}"


def parts_of(split: Split, spec: ModelSpec, part_bytes: int = PART_BYTES) -> Iterator[Pixels]:
    """The images in order, resized and cropped for `spec`: uint8 (n, C, H, W), about `part_bytes` at a time."""
    many = max(1, part_bytes // math.prod(spec.input_shape))
    whole = split.inputs(spec)
    if whole is not None:
        for start in range(0, len(whole), many):
            yield _channels_first(whole[start : start + many])
        return
    decoded = in_threads(partial(split.fitted, spec=spec), range(len(split)))
    for start in range(0, len(split), many):
        yield _channels_first(np.stack([next(decoded) for _ in range(min(many, len(split) - start))]))


def _channels_first(pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
