"""Images by kind: a folder without labels, a table, arrays; the same checks and words as of a folder of classes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from edgeres.core.errors import InputError
from edgeres.core.names import canonical_data_name, name_from_file
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data import data_fingerprint, dataset_for, dataset_from
from edgeres.data.split import UNLABELLED

PLAIN = Preprocess(mean=(0.0,) * 3, std=(1 / 255,) * 3)


def spec_with(num_classes: int = 3, classes: tuple[str, ...] = ()) -> ModelSpec:
    return ModelSpec(
        family="resnet",
        variant="resnet20",
        num_classes=num_classes,
        input_shape=(3, 8, 8),
        preprocess=PLAIN,
        classes=classes,
    )


def save(path: Path, shade: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)


def a_tree(root: Path) -> Path:
    for place, name in enumerate(("a.png", "b.png", "deep/c.png", "deep/er/d.png", "e.png")):
        save(root / name, place)
    return root


def a_table(folder: Path, text: str) -> Path:
    for name in ("a", "b", "c", "d"):
        save(folder / "x" / f"{name}.png")
    (folder / "list.csv").write_text(text)
    return folder / "list.csv"


def test_images_are_all_below_a_folder_without_labels(tmp_path: Path) -> None:
    found = dataset_from(f"images:{a_tree(tmp_path / 'photos')}")
    assert found.classes == ()
    assert not found.train.is_labelled
    assert sorted({*found.train.ids, *found.val.ids}) == [
        f"photos/{name}" for name in ("a.png", "b.png", "deep/c.png", "deep/er/d.png", "e.png")
    ]
    assert len(found.val) >= 1
    assert len(found.train) >= 1
    assert (found.train.labels == UNLABELLED).all()


def test_train_and_val_of_a_class_folder_stay_the_splits_of_its_images(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            save(tmp_path / split / "cat" / f"{number}.png", number)
    found = dataset_from(f"images:{tmp_path}")
    assert (len(found.train), len(found.val)) == (4, 2)
    assert all(name.startswith("val/") for name in found.val.ids)
    with pytest.raises(InputError, match="is one of two splits"):
        dataset_from(f"images:{tmp_path / 'train'}")


def test_images_added_later_move_none_from_one_split_to_the_other(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for number in range(40):
        save(root / f"{number}.png", number)
    before = dataset_from(f"images:{root}")
    save(root / "new.png")
    after = dataset_from(f"images:{root}")
    assert {*before.val.ids} <= {*after.val.ids}
    assert {*before.train.ids} <= {*after.train.ids}


def test_any_network_takes_images_without_labels(tmp_path: Path) -> None:
    name = f"images:{a_tree(tmp_path)}"
    for spec in (spec_with(3), spec_with(1000, tuple(map(str, range(1000))))):
        assert not dataset_for(spec, name).val.is_labelled


def test_a_folder_with_val_alone_is_for_judging(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        save(tmp_path / "val" / label / "0.png")
    found = dataset_from(f"folder:{tmp_path}")
    assert found.classes == ("cat", "dog")
    assert len(found.val) == 2
    with pytest.raises(InputError, match="there are no train images, only some to judge on; add train/"):
        found.train.sample(1, 0)


def test_a_table_names_paths_beside_it_and_classes(tmp_path: Path) -> None:
    table = a_table(
        tmp_path, "\ufeffpath,label,split\nx/a.png,dog,train\n\nx/b.png,cat,train\nx/c.png,dog,val\nx/d.png,cat,test\n"
    )
    found = dataset_from(f"csv:{table}")
    assert found.classes == ("cat", "dog")
    assert found.train.ids == ("list.csv/x/a.png", "list.csv/x/b.png")
    assert found.train.labels.tolist() == [1, 0]
    assert found.val.labels.tolist() == [1, 0]


def test_numbers_in_a_table_are_places_among_the_outputs(tmp_path: Path) -> None:
    table = a_table(tmp_path, "x/a.png,2\nx/b.png,2\nx/c.png,10\nx/d.png,10\n")
    found = dataset_for(spec_with(12), f"csv:{table}")
    assert len(found.classes) == 12
    assert {*found.train.labels, *found.val.labels} == {2, 10}
    named = dataset_for(spec_with(11, tuple("abcdefghijk")), f"csv:{table}")
    assert named.classes == tuple("abcdefghijk")
    with pytest.raises(InputError, match=r"has label 10 and the model has 10 outputs, 0 to 9"):
        dataset_for(spec_with(10), f"csv:{table}")


def test_a_table_of_paths_alone_has_no_labels(tmp_path: Path) -> None:
    found = dataset_from(f"csv:{a_table(tmp_path, 'x/a.png' + chr(10) + 'x/b.png' + chr(10))}")
    assert found.classes == ()
    assert len(found.train) == len(found.val) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"list.csv lists no image"),
        ("path,lable\nx/a.png,cat\n", r"list.csv, line 1: unknown column 'lable'; did you mean label\?"),
        ("path,label,label\nx/a.png,cat,cat\n", r"list.csv, line 1: column 'label' stands there twice"),
        ("path;label\nx/a.png;cat\n", r"list.csv separates its columns by ';'; save it with commas"),
        ("x/a.png,cat\nx/b.png\n", r"list.csv, line 2: x/b.png has no label, others have"),
        ("x/a.png,cat\nx/z.png,dog\n", r"list.csv, line 2: .*z.png does not exist"),
        ("x/a.png,cat\nx,dog\n", r"list.csv, line 2: .*x is no file"),
        ("x/a.png,cat\nx/a.png,dog\n", r"list.csv, line 2: x/a.png stands in line 1 too"),
        ("x/a.png,cat,train\n", r"line 1 has 3 columns, 2 are known \(path,label\)"),
        ("path,label,split\nx/a.png,cat,evening\n", r"line 2: split 'evening' is none of train, val"),
        ("path,label\n,cat\n", r"line 2: has no path"),
        ("x/a.png,cat\nx/b.png,dog\n", r"class 'cat' of .*list.csv has one image"),
        ('x/a.png,"cat\n', r"is not a readable table"),
    ],
)
def test_a_wrong_table_is_refused_with_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataset_from(f"csv:{a_table(tmp_path, text)}")


def test_a_table_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"is not a readable table .*; save it as CSV in UTF-8"):
        dataset_from(f"csv:{tmp_path / 'list.csv'}")


PIXELS = np.random.default_rng(0).integers(0, 256, (10, 8, 6, 3), np.uint8)


@pytest.mark.parametrize(
    "array",
    [PIXELS, PIXELS.transpose(0, 3, 1, 2), PIXELS.astype(np.float32), (PIXELS / 255).astype(np.float64)],
    ids=["NHWC", "NCHW", "float 0 to 255", "float 0 to 1"],
)
def test_an_array_gives_its_pixels_whatever_its_order_and_type(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "images.npy", array)
    found = dataset_from(f"npy:{tmp_path / 'images.npy'}")
    assert found.classes == ()
    assert found.input_shape == (3, 8, 6)
    for split in (found.train, found.val):
        assert (split.source.pixels(split.rows) == PIXELS[split.rows]).all()


def test_an_archive_may_bring_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=PIXELS[..., 0], y=np.arange(10) % 2)
    found = dataset_for(spec_with(5), f"npz:{tmp_path / 'set.npz'}")
    assert (found.train.labels == found.train.rows % 2).all()
    assert found.input_shape == (1, 8, 6)
    np.savez(tmp_path / "bare.npz", images=PIXELS)
    assert not dataset_from(f"npz:{tmp_path / 'bare.npz'}").val.is_labelled


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS.astype(np.uint16), "has more than 8 bits a channel, or a sign .uint16.; convert it to uint8"),
        ((PIXELS / 255 - 0.5).astype(np.float32), "holds values from -0.5 to 0.5.*undo the normalisation"),
        (np.full((2, 4, 4, 3), np.nan, np.float32), "holds values that are not finite"),
        (np.full((2, 4, 4, 3), np.inf, np.float32), "holds values that are not finite"),
        (np.append(np.ones((300, 2, 2, 3)), np.full((1, 2, 2, 3), np.nan), 0), "holds values that are not finite"),
        (np.zeros((3, 32, 32), np.uint8), "is 3 x 32 x 32, one image; save several as N x H x W x 3"),
        (np.zeros((32, 32, 3), np.uint8), "is 32 x 32 x 3, one image"),
        (np.zeros((2, 4, 4, 5), np.uint8), "is 2 x 4 x 4 x 5: no axis is 1 or 3 channels"),
        (np.zeros((2, 3, 4, 3), np.uint8), "2 x 3 x 4 x 3: the channels may be first or last"),
        (np.zeros((2, 4), np.uint8), "is 2 x 4: no axis"),
        (np.zeros((0, 4, 4, 3), np.uint8), "holds no image"),
        (np.zeros((1, 4, 4, 3), np.uint8), "has one image; add some"),
        (np.array([{}, {}], object), "holds Python objects, which are never unpickled"),
    ],
)
def test_an_array_that_holds_no_pixels_is_refused(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "images.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        dataset_from(f"npy:{tmp_path / 'images.npy'}")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pixels": PIXELS}, "holds pixels; it should hold images, and may hold labels"),
        ({"images": PIXELS, "labels": np.arange(3)}, "labels are int64 3; there should be 10 whole numbers"),
        ({"images": PIXELS, "labels": np.zeros(10)}, "labels are float64 10; there should be 10 whole numbers"),
        ({"images": PIXELS, "labels": np.arange(10) - 1}, "label -1 is below 0"),
        ({"images": np.array([{}], object)}, "images is not a readable array .it holds Python objects"),
    ],
)
def test_a_wrong_archive_is_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=message):
        dataset_from(f"npz:{tmp_path / 'set.npz'}")


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_damaged_arrays_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"set.{kind}"
    buffer = io.BytesIO()
    np.savez(buffer, images=PIXELS) if kind == "npz" else np.save(buffer, PIXELS)
    for content in (b"", b"no array", buffer.getvalue()[: len(buffer.getvalue()) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="readable array"):
            dataset_from(f"{kind}:{path}")


def test_a_path_without_its_kind_is_told_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10-jpeg").mkdir()
    for name, said in {"cifar10-jpeg": "folder:cifar10-jpeg", "a.npy": "npy:a.npy", "list.CSV": "csv:list.CSV"}.items():
        Path(name).touch() if "." in name else None
        with pytest.raises(InputError, match=rf"unknown data set '{name}'; did you mean {said}\?"):
            dataset_from(name)


def test_arrays_and_archives_are_not_taken_for_each_other(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npz.npy", PIXELS)
    (tmp_path / "a.npz.npy").rename(tmp_path / "a.npz")
    with pytest.raises(InputError, match="is one array, not an archive of several; name it npy:"):
        dataset_from(f"npz:{tmp_path / 'a.npz'}")
    np.savez(tmp_path / "b.npz", images=PIXELS)
    with pytest.raises(InputError, match="is an archive of arrays; name it npz:"):
        dataset_from(f"npy:{tmp_path / 'b.npz'}")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("images.npy", b"none")
    with pytest.raises(InputError, match="images is not a readable array"):
        dataset_from(f"npz:{tmp_path / 'c.npz'}")


def faulty(kind: str) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    if kind == "16 bit":
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(buffer, "PNG")
        return buffer.getvalue(), "has more than 8 bits a channel"
    if kind == "no bytes":
        return b"", "is not a readable image"
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()[:40], "is not a readable image"


@pytest.mark.parametrize("wrong", ["16 bit", "no bytes", "cut off"])
@pytest.mark.parametrize("kind", ["images", "csv"])
def test_a_file_that_is_no_8_bit_image_is_refused_with_the_words_of_a_folder(
    tmp_path: Path, kind: str, wrong: str
) -> None:
    content, message = faulty(wrong)
    root = a_tree(tmp_path / "photos")
    (root / "bad.png").write_bytes(content)
    (tmp_path / "list.csv").write_text("".join(f"photos/{name}.png\n" for name in ("a", "b", "e", "bad")))
    name = f"images:{root}" if kind == "images" else f"csv:{tmp_path / 'list.csv'}"
    with pytest.raises(InputError, match=f"bad.png {message}"):  # noqa: PT012  # small sets are looked at when opened
        for split in ((found := dataset_for(spec_with(), name)).train, found.val):
            list(split.batches(spec_with(), 4))


@pytest.mark.parametrize("kind", ["images", "csv"])
def test_cmyk_animated_and_turned_images_are_read_as_in_a_folder(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(root / "cmyk.jpg")
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (255, 0)]
    frames[0].save(root / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (8, 8), (255, 0, 0)).save(root / "turned.jpg", exif=exif)
    (tmp_path / "list.csv").write_text("photos/cmyk.jpg\nphotos/moving.gif\nphotos/turned.jpg\n")
    found = dataset_for(spec_with(), f"images:{root}" if kind == "images" else f"csv:{tmp_path / 'list.csv'}")
    assert "1 of 3 images looked at carry an EXIF rotation" in caplog.text
    for split in (found.train, found.val):
        for images, _ in split.batches(spec_with(), 4):
            assert (images[:, 0] > 245).all()
            assert (images[:, 1] < 10).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("images", "data set 'images' should read images:DIR"),
        ("csv:", "data set 'csv:' should read csv:FILE"),
        ("images:nowhere", "nowhere does not exist"),
        ("npz:nowhere", "nowhere does not exist"),
    ],
)
def test_a_kind_without_its_file_is_refused(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        dataset_from(name)


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png is not a folder"):
        dataset_from(f"images:{tmp_path / 'a.png'}")
    with pytest.raises(InputError, match="is a folder; csv:FILE takes a file, images:DIR a folder of images"):
        dataset_from(f"csv:{tmp_path}")
    with pytest.raises(InputError, match="holds no image"):
        dataset_from(f"images:{(tmp_path / 'empty').mkdir() or tmp_path / 'empty'}")


@pytest.mark.parametrize("kind", ["images", "csv", "npy", "npz"])
def test_a_file_may_name_them_by_their_whole_path_as_they_run_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = canonical_data_name(f"{kind}:photos")
    assert name == f"{kind}:{tmp_path / 'photos'}"
    assert name_from_file(name, "scales.json") == name


def test_the_fingerprint_changes_with_what_a_table_lists(tmp_path: Path) -> None:
    name = f"csv:{a_table(tmp_path, 'x/a.png' + chr(10) + 'x/b.png' + chr(10))}"
    before = data_fingerprint(name)
    data_fingerprint.cache_clear()
    assert data_fingerprint(name) == before
    (tmp_path / "x" / "a.png").write_bytes(b"other")
    data_fingerprint.cache_clear()
    assert data_fingerprint(name) != before
