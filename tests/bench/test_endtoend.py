from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.bench.endtoend import PARTS, Chain, figures_of, files_of
from edgeres.bench.measure import Turn, take_turn
from edgeres.core.errors import InputError
from edgeres.core.metrics import Latency


class FakeRunner:
    """Keeps the images it was given; the logits are their channel means."""

    name, batch = "fake", None

    def __init__(self):
        self.seen = []

    def infer(self, images):
        self.seen.append(images)
        return images.mean(axis=(2, 3))


class TickingClock:
    """Each reading is one millisecond later than the last."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        self.now_s += 0.001
        return self.now_s


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{value}.png" for value in (0, 255)]
    for path in paths:
        Image.fromarray(np.full((8, 8), int(path.stem), np.uint8)).save(path)
    return paths


def test_files_come_in_turn_and_arrive_as_the_model_wants_them(photos, spec_of):
    runner = FakeRunner()
    chain = Chain(runner, spec_of("resnet8"), photos)
    for _ in range(3):
        chain.step()
    assert [images.shape for images in runner.seen] == [(1, 1, 8, 8)] * 3
    assert [float(images[0, 0, 0, 0]) for images in runner.seen] == pytest.approx([-0.75, 1.75, -0.75])


def test_parts_belong_to_the_calls_that_were_counted(photos, spec_of):
    chain = Chain(FakeRunner(), spec_of("resnet8"), photos, TickingClock())
    samples = take_turn(chain, Turn(seconds=0, least=4, most=4), TickingClock())
    parts = chain.take(len(samples))
    assert len(parts) == len(samples) == 4
    assert parts == [pytest.approx((1.0,) * len(PARTS))] * 4
    assert chain.take(4) == []


def test_a_file_that_is_no_image_is_named(tmp_path, spec_of):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"broken\.png is not a readable image"):
        Chain(FakeRunner(), spec_of("resnet8"), [tmp_path / "broken.png"]).step()


def test_parts_are_medians_and_shares_add_up_to_one_whatever_strays():
    latency = Latency(
        samples_ms=(4.0, 8.0),
        batch=1,
        runtime="fake",
        threads=1,
        session="s",
        artifact="a",
        warmup=1,
        machine="m",
    )
    found = figures_of(latency, [(1.0, 1.0, 2.0, 0.0), (1.0, 1.0, 6.0, 0.0), (1.0, 1.0, 4.0, 999.0)])
    assert found["parts_ms"] == {"decode": 1.0, "preprocess": 1.0, "inference": 4.0, "argmax": 0.0}
    assert found["shares"] == pytest.approx({"decode": 1 / 6, "preprocess": 1 / 6, "inference": 2 / 3, "argmax": 0.0})
    assert found["images_per_s"]["value"] == pytest.approx(1000 / 6)


def test_files_are_those_of_the_validation_split(tmp_path):
    for split, values in (("train", (0, 1)), ("val", (2, 3))):
        for value in values:
            folder = tmp_path / "photos" / split / f"class{value % 2}"
            folder.mkdir(parents=True)
            Image.fromarray(np.full((8, 8), value, np.uint8)).save(folder / "image.png")
    found = files_of("folder:photos")
    assert [Path(path).parts[-3] for path in found] == ["val", "val"]


def test_a_data_set_of_arrays_has_none_and_one_that_is_absent_is_refused():
    assert files_of("digits").startswith("digits holds arrays, not image files")
    with pytest.raises(InputError, match="nowhere does not exist"):
        files_of("folder:nowhere")
