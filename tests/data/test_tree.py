"""Links in a folder of images: each real file counts once in a split, no loop is walked, a dangling link is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from edgeres.core.errors import InputError
from edgeres.data import dataset_from
from edgeres.data.dataset import data_fingerprint
from edgeres.data.images import image_from
from edgeres.data.tree import images_below

SPLITS, CLASSES, EACH = ("train", "val"), ("cat", "dog"), 3


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split in SPLITS:
        for label in CLASSES:
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(EACH):
                Image.new("L", (8, 8), 10 * i).save(folder / f"{i}.png")
    return tmp_path / "photos"


def val_ids(root: Path) -> tuple[str, ...]:
    return dataset_from(f"folder:{root}").val.ids


@pytest.mark.parametrize("target", [".", "..", "../..", "../dog", "../cat", "{root}"])
def test_a_link_to_what_is_counted_already_or_back_up_adds_nothing(photos: Path, target: str) -> None:
    without = val_ids(photos)
    (photos / "val" / "cat" / "self").symlink_to(target.format(root=photos))
    assert val_ids(photos) == without
    assert len(without) == EACH * len(CLASSES)


def test_what_was_left_out_is_said_once_with_an_example(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (photos / "val" / "cat" / "self").symlink_to(".")
    (photos / "val" / "dog" / "same.png").symlink_to("0.png")
    val_ids(photos)
    (message,) = caplog.messages
    assert message == f"warning: 2 links lead to images that are counted already and left out: {photos}/val/cat/self"


def test_two_links_to_one_file_elsewhere_count_once_and_two_files_twice(photos: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for name in ("a", "b"):
        Image.new("L", (8, 8), 77).save(store / f"{name}.png")
    (store / "link.png").symlink_to("a.png")
    folder = photos / "val" / "cat"
    for name, target in (("x", "a"), ("y", "a"), ("z", "b"), ("w", "link")):
        (folder / f"{name}.png").symlink_to(os.path.relpath(store / f"{target}.png", folder))
    assert [Path(one).stem for one in val_ids(photos)[:-EACH]] == ["0", "1", "2", "w", "z"]


def test_a_store_of_nameless_files_inside_the_class_is_reached_through_its_links(photos: Path) -> None:
    folder = photos / "val" / "cat"
    (folder / "objects").mkdir()
    (folder / "0.png").rename(folder / "objects" / "5f3c")
    (folder / "0.png").symlink_to("objects/5f3c")
    assert "val/cat/0.png" in val_ids(photos)


def test_class_folders_that_are_links_are_followed_and_nested_ones_too(photos: Path, tmp_path: Path) -> None:
    without = val_ids(photos)
    (photos / "val" / "cat").rename(tmp_path / "cats")
    (photos / "val" / "cat").symlink_to(tmp_path / "cats")
    assert val_ids(photos) == without
    (tmp_path / "more").mkdir()
    Image.new("L", (8, 8), 5).save(tmp_path / "more" / "new.png")
    (tmp_path / "more" / "back").symlink_to(photos / "val")
    (tmp_path / "cats" / "more").symlink_to(tmp_path / "more")
    assert sorted({*val_ids(photos)} - {*without}) == ["val/cat/more/new.png"]


@pytest.mark.parametrize("target", ["cat", "."])
def test_a_class_that_is_only_a_link_to_another_is_refused(photos: Path, target: str) -> None:
    for split in SPLITS:
        (photos / split / "abc").symlink_to(target)
    with pytest.raises(InputError, match=rf"train/abc is a link to {target}, which adds no image to the other classes"):
        val_ids(photos)


@pytest.mark.parametrize("target", ["gone.jpg", "lost.png"])
def test_a_link_to_nothing_is_called_that_with_its_target(photos: Path, target: str) -> None:
    link = photos / "train" / "cat" / "lost.png"
    link.symlink_to(target)
    message = rf"lost\.png is a link to nothing: {target} is not there"
    with pytest.raises(InputError, match=message):
        val_ids(photos)
    with pytest.raises(InputError, match=message):
        image_from(link)


def test_a_link_to_nothing_beside_real_images_is_listed_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    assert images_below([tmp_path]) == [[tmp_path / "a.png"]]


def test_a_folder_that_may_not_be_read_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = photos / "val" / "cat" / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refusing(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path) == str(closed):
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InputError, match=r"cannot read the folder .*val/cat/closed"):
        val_ids(photos)


def fingerprint(root: Path) -> str:
    data_fingerprint.cache_clear()
    return data_fingerprint(f"folder:{root}")


def test_links_change_the_fingerprint_by_where_they_lead(photos: Path, tmp_path: Path) -> None:
    before = fingerprint(photos)
    link = photos / "val" / "cat" / "self"
    link.symlink_to("..")
    looping = fingerprint(photos)
    assert fingerprint(photos.rename(tmp_path / "moved")) == looping
    (tmp_path / "moved").rename(photos)
    link.unlink()
    link.symlink_to("../dog")
    other = fingerprint(photos)
    link.unlink()
    link.symlink_to(photos / "train" / "dog" / "0.png")
    assert len({before, looping, other, fingerprint(photos)}) == 4


def test_a_folder_named_by_a_link_has_the_fingerprint_of_its_content(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("photos")
    assert fingerprint(tmp_path / "link") == fingerprint(photos)


@pytest.mark.parametrize("text", ["{there}/a.png", "../there/a.png", "./../there/../there/a.png", "chain.png"])
def test_every_way_of_writing_a_link_leads_to_the_same_file(tmp_path: Path, text: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (there / "a.png").touch()
    (here / "chain.png").symlink_to(there / "a.png")
    (here / "b.png").symlink_to(text.format(there=there))
    assert images_below([here]) == [[here / "b.png"]]
    assert images_below([there, here]) == [[there / "a.png"], []]


def test_of_two_links_to_one_folder_the_first_by_name_is_followed(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    Image.new("L", (8, 8), 5).save(tmp_path / "more" / "new.png")
    for name in ("z", "b", "k"):
        (photos / "val" / "cat" / name).symlink_to(tmp_path / "more")
    assert [one for one in val_ids(photos) if "new" in one] == ["val/cat/b/new.png"]
