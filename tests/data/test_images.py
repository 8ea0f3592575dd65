from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data.images import fitted, image_from, normalised

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def spec_with(side: int, resize: int | None, interpolation: str = "bilinear") -> ModelSpec:
    return ModelSpec(
        family="resnet",
        variant="resnet18",
        num_classes=2,
        input_shape=(3, side, side),
        preprocess=Preprocess(mean=MEAN, std=STD, resize=resize, interpolation=interpolation),
    )


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(20, 90),
    st.integers(20, 90),
    st.integers(16, 40),
    st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
)
def test_preprocessing_is_torchvisions(height: int, width: int, resize: int, interpolation: str) -> None:
    side = resize - 3
    image = noise(height, width)
    ours = normalised(
        fitted(image, spec_with(side, resize, interpolation), "x")[None], spec_with(side, resize).preprocess
    )
    theirs = v2.Compose(
        [
            v2.Resize(resize, v2.InterpolationMode(interpolation)),
            v2.CenterCrop(side),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )(image)
    np.testing.assert_allclose(ours[0], theirs.numpy(), atol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1", "LA"])
def test_every_8_bit_mode_is_read(tmp_path, mode: str) -> None:
    path = tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}"
    noise(5, 4).convert(mode).save(path)
    image = image_from(path)
    assert image.mode == ("L" if mode in {"L", "1", "LA"} else "RGB")
    assert image.size == (4, 5)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path) -> None:
    noise(5, 4).convert("P").save(tmp_path / "image.png", transparency=bytes(range(200)))
    assert image_from(tmp_path / "image.png").mode == "RGB"


def test_16_bit_images_are_refused_rather_than_clipped(tmp_path) -> None:
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png has more than 8 bits a channel"):
        image_from(tmp_path / "deep.png")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "ppm", "gif"])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_named_or_read(tmp_path_factory, suffix: str, data) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    noise(24, 24).save(folder / f"good.{suffix}")
    content = bytearray((folder / f"good.{suffix}").read_bytes())
    cut = data.draw(st.integers(0, len(content) - 1))
    content = content[:cut]
    if content:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = folder / f"bad.{suffix}"
    path.write_bytes(content)
    try:
        image_from(path)
    except InputError as err:
        assert str(path) in str(err)  # noqa: PT017
