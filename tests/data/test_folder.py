from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, features

from edgeres.core.errors import InputError
from edgeres.core.spec import Preprocess
from edgeres.data import Split, data_fingerprint, dataset_for, dataset_from
from edgeres.models import spec_from_arch


def save(path: Path, colour: int | tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


def two_splits(root: Path, val: str = "val") -> Path:
    for label, shade in (("cat", 10), ("dog", 200)):
        for i in range(3):
            save(root / "train" / label / f"{i}.png", (shade, i, 0))
        save(root / val / label / "0.png", (shade, 99, 0))
    return root


def shades(split: Split) -> list[int]:
    spec = spec_from_arch(
        "resnet20",
        num_classes=2,
        input_shape=(3, 8, 8),
        preprocess=Preprocess(mean=(0.0,) * 3, std=(1 / 255,) * 3),
    )
    return [round(float(x)) for images, _ in split.batches(spec, 2) for x in images[:, 0, 0, 0]]


@pytest.mark.parametrize(
    ("train", "val"),
    [("Train", "Test"), ("Training", "Testing"), ("training_set", "test_set"), ("TRAIN", "Valid"), ("trainset", "val")],
)
def test_splits_are_known_by_their_usual_names_in_any_case(tmp_path: Path, train: str, val: str) -> None:
    root = two_splits(tmp_path)
    (root / "train").rename(root / "t")
    (root / "t").rename(root / train)
    (root / "val").rename(root / "v")
    (root / "v").rename(root / val)
    found = dataset_from(f"folder:{root}")
    assert found.classes == ("cat", "dog")
    assert found.train.ids[0] == f"{train}/cat/0.png"
    assert found.val.ids == (f"{val}/cat/0.png", f"{val}/dog/0.png")


def test_two_training_folders_and_folders_that_look_like_splits_are_refused(tmp_path: Path) -> None:
    for split in ("seg_train", "seg_test", "seg_pred"):
        for label in ("cat", "dog"):
            save(tmp_path / "nested" / split / label / "0.png", 3)
    with pytest.raises(InputError, match="look like splits, not classes: seg_pred, seg_test, seg_train; call those"):
        dataset_from(f"folder:{tmp_path / 'nested'}")
    root = two_splits(tmp_path / "both")
    (root / "Train_Set" / "cat").mkdir(parents=True)
    assert dataset_from(f"folder:{root}").classes == ("cat", "dog")  # `train` itself comes first
    (root / "train").rename(root / "train-set")
    with pytest.raises(InputError, match="both holds Train_Set and train-set; keep one"):
        dataset_from(f"folder:{root}")


@pytest.mark.parametrize("split", ["train", "val"])
def test_one_of_two_splits_is_not_split_again(tmp_path: Path, split: str) -> None:
    two_splits(tmp_path)
    with pytest.raises(
        InputError, match=rf"{split} is one of two splits \(train, val\); name what holds both: {tmp_path}"
    ):
        dataset_from(f"folder:{tmp_path / split}")


def test_a_tree_called_like_a_split_that_stands_alone_is_a_tree(tmp_path: Path) -> None:
    two_splits(tmp_path)
    (tmp_path / "val").rename(tmp_path / "others")
    assert len(dataset_from(f"folder:{tmp_path / 'train'}").val) > 0


def test_a_third_folder_beside_two_splits_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    two_splits(tmp_path)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    dataset_from(f"folder:{tmp_path}")
    assert "only train and val are used, not test" in caplog.text


def test_classes_called_like_splits_are_classes_if_they_hold_images(tmp_path: Path) -> None:
    for label in ("bullet train", "crash test", "car"):
        for i in range(3):
            save(tmp_path / label / f"{i}.png", i)
    assert dataset_from(f"folder:{tmp_path}").classes == ("bullet train", "car", "crash test")


CAFE = ("caf\u00e9", "cafe\u0301")  # composed, and as macOS writes it


def test_a_class_written_in_two_ways_is_one_class(tmp_path: Path) -> None:
    root = two_splits(tmp_path)
    for split, name in zip(("train", "val"), CAFE, strict=True):
        (root / split / "cat").rename(root / split / name)
    found = dataset_from(f"folder:{root}")
    assert found.classes == (CAFE[0], "dog")
    assert found.val.labels.tolist() == [0, 1]
    save(root / "val" / CAFE[0] / "1.png", (1, 2, 3))
    with pytest.raises(InputError, match="two folders that both read"):
        dataset_from(f"folder:{root}")


@pytest.mark.parametrize("where", ["tree/cat/caf\udce9.png", "tree/caf\udce9/0.png"])
def test_a_name_that_is_no_utf8_is_named_in_one_line(tmp_path: Path, where: str) -> None:
    for label in ("cat", "dog"):
        for i in range(3):
            save(tmp_path / "tree" / label / f"{i}.png", i)
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((tmp_path / "tree/cat/0.png").read_bytes())
    name = f"folder:{tmp_path / 'tree'}"
    with pytest.raises(InputError, match=r"caf\\udce9\S* is not UTF-8; rename it"):
        dataset_from(name)
    assert len(data_fingerprint(name)) == 64


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test"])
def test_classes_are_numbered_in_alphabetical_order(tmp_path: Path, val: str) -> None:
    found = dataset_from(f"folder:{two_splits(tmp_path, val)}")
    assert found.classes == ("cat", "dog")
    assert found.input_shape == (3, 8, 8)
    assert found.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.val.ids == (f"{val}/cat/0.png", f"{val}/dog/0.png")
    assert shades(found.train) == [10, 10, 10, 200, 200, 200]


def test_one_tree_is_split_by_the_seed_without_overlap(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for i in range(10):
            save(tmp_path / label / f"{i}.png", i)
    found = dataset_from(f"folder:{tmp_path}")
    assert np.bincount(found.val.labels).tolist() == [2, 2]
    assert len({*found.train.ids, *found.val.ids}) == 20
    assert found.input_shape == (1, 8, 8)
    assert dataset_from(f"folder:{tmp_path}").val.ids == found.val.ids


def test_images_of_several_sizes_are_streamed_to_the_usual_input(tmp_path: Path) -> None:
    root = two_splits(tmp_path)
    save(root / "train" / "cat" / "wide.png", (77, 0, 0), (20, 10))
    found = dataset_from(f"folder:{root}")
    assert found.input_shape == (3, 224, 224)
    assert found.preprocess.resize == 256
    spec = spec_from_arch("resnet18", num_classes=2)
    images, labels = next(found.train.subset([3, 0]).batches(spec, 2))
    assert images.shape == (2, 3, 224, 224)
    expected = (np.array([77, 10]) / 255 - 0.485) / 0.229
    np.testing.assert_allclose(images[:, 0, 100, 100], expected, rtol=1e-5)
    assert labels.tolist() == [0, 0]


def test_an_odd_image_the_sample_of_headers_missed_changes_no_pixel(tmp_path: Path, monkeypatch) -> None:
    root = two_splits(tmp_path)
    monkeypatch.setattr("edgeres.data.pixels._HEADERS_READ", 2)
    save(root / "train" / "cat" / "1.png", (60, 0, 0), (9, 9))
    found = dataset_from(f"folder:{root}")
    assert found.input_shape == (3, 8, 8)
    with pytest.raises(InputError, match=r"1\.png is 9x9 pixels, resnet20 takes 8x8"):
        shades(found.train)
    assert shades(found.train.subset([0, 2, 3])) == [10, 10, 200]


def test_only_the_images_asked_for_are_decoded(tmp_path: Path) -> None:
    root = two_splits(tmp_path)
    found = dataset_from(f"folder:{root}")
    (root / "train" / "cat" / "1.png").write_bytes(b"not an image")
    assert shades(found.val) == [10, 200]
    assert shades(found.train.subset([5, 0])) == [200, 10]
    with pytest.raises(InputError, match=r"cat/1\.png is not a readable image"):
        shades(found.train)


def test_hidden_and_other_files_are_left_out(tmp_path: Path) -> None:
    root = two_splits(tmp_path)
    (root / "train" / "cat" / "._0.png").write_bytes(b"resource fork")
    (root / "train" / "cat" / "notes.txt").write_text("x")
    (root / "train" / ".thumbs").mkdir()
    assert len(dataset_from(f"folder:{root}").train) == 6


def test_what_is_left_out_is_said_with_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = two_splits(tmp_path)
    for name in ("a.heic", "b.heic", "nameless", "Thumbs.db", ".DS_Store"):
        (root / "val" / "cat" / name).write_bytes(b"")
    for name in (".picasaoriginals", "@eaDir"):
        save(root / "val" / "dog" / name / "0.png", (9, 9, 9))
        save(root / name / "x.png", 1)
    assert len(dataset_from(f"folder:{root}").val) == 2
    hidden, others = caplog.messages
    assert hidden == f"warning: 2 hidden folders are left out: {root}/val/dog/.picasaoriginals"
    assert others.startswith("warning: 3 files are left out for their suffix (2 .heic, 1 without a suffix), as ")


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JFIF", "avif"])
def test_every_suffix_that_pillow_reads_is_taken(tmp_path: Path, suffix: str) -> None:
    root = two_splits(tmp_path)
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    Image.new("RGB", (8, 8), (77, 0, 0)).save(root / "x.tmp", "AVIF" if suffix == "avif" else "JPEG")
    (root / "x.tmp").rename(root / "val" / "cat" / f"1.{suffix}")
    assert abs(shades(dataset_from(f"folder:{root}").val)[1] - 77) < 9


def test_images_with_an_exif_rotation_are_counted_and_turned_on_every_way(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)  # a command called in this process may have left it at another
    root = two_splits(tmp_path)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0] = 200
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6  # a quarter to the right
    Image.fromarray(pixels).save(root / "val" / "cat" / "1.png", exif=turned)
    preprocess = Preprocess(mean=(0.0,) * 3, std=(1 / 255,) * 3)
    spec = spec_from_arch("resnet20", num_classes=2, input_shape=(3, 8, 8), preprocess=preprocess)
    upright = spec.model_copy(update={"preprocess": preprocess.model_copy(update={"exif": True})})
    as_stored = dataset_for(spec, f"folder:{root}").val
    (message,) = caplog.messages
    assert message.startswith("warning: 1 of 9 images looked at carry an EXIF rotation, which is not followed")
    split = dataset_for(upright, f"folder:{root}").val
    assert caplog.messages == [message]
    for one, place in ((as_stored, (0, 0)), (split, (0, 7))):
        used = spec if one is as_stored else upright
        batch, _ = next(one.batches(used, 3))
        assert np.argwhere(batch[1, 0] > 99).tolist() == [list(place)]
        assert np.argwhere(one.fitted(1, used)[:, :, 0] > 99).tolist() == [list(place)]


def broken(root: Path, how: str) -> None:
    two_splits(root)
    if how == "empty class":
        for path in (root / "train" / "cat").iterdir():
            path.unlink()
    elif how == "no val":
        (root / "val").rename(root / "other")
    elif how == "val class missing in train":
        save(root / "val" / "emu" / "0.png", (1, 2, 3))
    elif how == "one class":
        (root / "train" / "dog").rename(root / "dog")
    elif how == "corrupt":
        (root / "train" / "cat" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty class", r"class folder .*train/cat holds no image"),
        ("no val", r"has train/ but none of val/, valid/, validation/, test/"),
        ("val class missing in train", r"class 'emu' is in .*val but not in .*train"),
        ("one class", r"train holds only the folder 'cat'"),
        ("corrupt", r"cat/0\.png is not a readable image"),
    ],
)
def test_a_broken_folder_is_named_in_one_line(tmp_path: Path, how: str, message: str) -> None:
    broken(tmp_path, how)
    with pytest.raises(InputError, match=message) as caught:
        dataset_from(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_class_too_small_to_split_is_named(tmp_path: Path) -> None:
    for i in range(9):
        save(tmp_path / "many" / f"{i}.png", i)
    save(tmp_path / "one" / "0.png", 0)
    with pytest.raises(InputError, match=r"class 'one' .* has one image"):
        dataset_from(f"folder:{tmp_path}")


def test_adding_images_to_one_tree_moves_none_of_the_others(tmp_path: Path) -> None:
    def add(numbers: range) -> tuple[set[str], set[str]]:
        for i in numbers:
            for label in ("cat", "dog"):
                save(tmp_path / "tree" / label / f"{i}.png", i % 200)
        dataset = dataset_from(f"folder:{tmp_path / 'tree'}")
        return set(dataset.train.ids), set(dataset.val.ids)

    train, val = add(range(40))
    more_train, more_val = add(range(40, 60))
    assert train <= more_train
    assert val <= more_val
    assert 0.1 < len(more_val) / (len(more_val) + len(more_train)) < 0.3


def test_a_class_of_two_gives_one_to_each_split(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for i in range(2):
            save(tmp_path / label / f"{i}.png", i)
    dataset = dataset_from(f"folder:{tmp_path}")
    assert sorted(dataset.train.labels) == sorted(dataset.val.labels) == [0, 1]


def test_a_class_without_validation_images_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = two_splits(tmp_path)
    save(root / "train" / "cow" / "0.png", (50, 0, 0))
    found = dataset_from(f"folder:{root}")
    assert caplog.messages == [f"{root / 'val'} has no images of cow"]
    assert found.classes == ("cat", "cow", "dog")
    assert found.val.labels.tolist() == [0, 2]


def test_a_folder_without_classes_says_what_it_should_hold(tmp_path: Path) -> None:
    save(tmp_path / "loose.png", 1)
    with pytest.raises(InputError, match="holds no folder; it should hold one folder of images for each class"):
        dataset_from(f"folder:{tmp_path}")


def test_the_data_layer_imports_no_torch() -> None:
    modules = "edgeres.data, edgeres.data.folder, edgeres.data.known"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
