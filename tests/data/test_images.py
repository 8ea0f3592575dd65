from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from torchvision.transforms import v2

from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data.images import fitted, image_from, is_turned, normalised

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


def spec_fit(side: int, **more: object) -> ModelSpec:
    return spec_with(side, None).model_copy(update={"preprocess": Preprocess(mean=MEAN, std=STD, **more)})


@settings(max_examples=15, deadline=None)
@given(st.integers(5, 90), st.integers(5, 90), st.sampled_from([None, 24, 31]))
def test_squashing_is_torchvisions_resize_to_both_sides(height: int, width: int, resize: int | None) -> None:
    steps = [v2.Resize((resize or 24,) * 2), v2.CenterCrop(24)]
    theirs = np.asarray(v2.Compose(steps)(noise(height, width)))
    ours = fitted(noise(height, width), spec_fit(24, fit="squash", resize=resize), "x")
    np.testing.assert_array_equal(ours, theirs)


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 90), st.integers(8, 90))
def test_a_letterboxed_image_keeps_its_aspect_and_its_border(height: int, width: int) -> None:
    image = Image.new("RGB", (width, height), (200, 200, 200))
    seen = fitted(image, spec_fit(24, fit="letterbox", border=114), "x")[:, :, 0]
    rows, columns = ((seen == 200).any(axis=axis).sum() for axis in (1, 0))
    assert max(rows, columns) == 24
    assert abs(min(rows, columns) - 24 * min(height, width) / max(height, width)) <= 0.5
    assert set(np.unique(seen)) <= {114, 200}
    assert abs(np.argmax(seen == 200) // 24 - (24 - rows) / 2) <= 0.5


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_turns_an_image_upright_where_the_preprocessing_says_so(
    tmp_path, orientation: int, turns: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    noise(24, 16).save(tmp_path / f"x.{suffix}", exif=exif)
    image = image_from(tmp_path / f"x.{suffix}")
    as_stored = fitted(image, spec_fit(16, resize=16), "x")
    upright = fitted(image, spec_fit(16, resize=16, exif=True), "x")
    np.testing.assert_array_equal(upright, np.rot90(as_stored, turns))
    assert is_turned(tmp_path / f"x.{suffix}") == (orientation != 1)


def test_preprocessing_that_contradicts_itself_is_refused() -> None:
    for more, message in (({"fit": "letterbox", "resize": 30}, "nothing to crop"), ({"border": 9}, "surrounds")):
        with pytest.raises(InputError, match=message):
            Preprocess(mean=MEAN, std=STD, **more)


def test_only_what_differs_from_the_first_version_is_written() -> None:
    assert Preprocess(mean=MEAN, std=STD).model_dump().keys() == {"mean", "std", "resize", "interpolation"}
    boxed = Preprocess(mean=MEAN, std=STD, fit="letterbox", border=114, exif=True)
    assert Preprocess.model_validate_json(boxed.model_dump_json()) == boxed


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
