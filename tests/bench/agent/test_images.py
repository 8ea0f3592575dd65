import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeres.bench.agent import evaluate


def packed(folder, pixels, tables, part=2):
    rows = []
    for first in range(0, len(pixels), part):
        chunk, name = pixels[first : first + part], f"part-{first}.bin"
        (folder / name).write_bytes(chunk.tobytes())
        rows.append({"name": name, "n": len(chunk)})
    fields = {"shape": pixels.shape[1:], "n": len(pixels), "dtype": str(pixels.dtype), "tables": tables, "parts": rows}
    (folder / "index.json").write_text(json.dumps(fields))
    return evaluate.images_in(str(folder))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_table_gives_the_float32_of_every_byte_bit_for_bit(tmp_path_factory, seed):
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2**32, (2, 256), dtype=np.uint32).view(np.float32)
    table = np.where(np.isfinite(bits), bits, np.float32(0))
    pixels = random.integers(0, 256, (3, 2, 3, 4), dtype=np.uint8)
    found = packed(tmp_path_factory.mktemp("images"), pixels, table.tolist())
    wanted = np.stack([table[channel][pixels[:, channel]] for channel in range(2)], axis=1)
    got = b"".join(batch for batch, _ in evaluate.batches(found, 1))
    assert got == wanted.astype("<f4").tobytes()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 9])
@pytest.mark.parametrize("part", [1, 2, 3, 7])
def test_batches_go_across_parts_and_the_last_one_is_filled_up_with_its_last_image(tmp_path, size, part):
    pixels = np.arange(7 * 4, dtype=np.uint8).reshape(7, 1, 2, 2)
    got = list(evaluate.batches(packed(tmp_path, pixels, [list(range(256))], part), size))
    assert [count for _, count in got] == [len(pixels[first : first + size]) for first in range(0, 7, size)]
    assert b"".join(batch[: 16 * count] for batch, count in got) == pixels.astype("<f4").tobytes()
    assert all(len(batch) == 16 * size for batch, _ in got)
    assert got[-1][0][-16:] == pixels[-1].astype("<f4").tobytes()
