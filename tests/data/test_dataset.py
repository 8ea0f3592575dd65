from __future__ import annotations

import sys

import numpy as np
import pytest

from edgeres.core.errors import InputError
from edgeres.core.spec import ModelSpec, Preprocess
from edgeres.data import Dataset, dataset_for, dataset_from, split_from_arrays
from edgeres.data.known import PREPROCESS


def spec_with(classes: tuple[str, ...], num_classes: int = 10) -> ModelSpec:
    return ModelSpec(
        family="resnet",
        variant="resnet20",
        num_classes=num_classes,
        input_shape=(1, 8, 8),
        preprocess=PREPROCESS,
        classes=classes,
    )


def test_digits_are_the_1797_scans_split_without_overlap() -> None:
    digits = dataset_from("digits")
    assert len(digits.train) + len(digits.val) == 1797
    assert len({*digits.train.ids, *digits.val.ids}) == 1797
    assert digits.classes == tuple("0123456789")
    shares = np.bincount(digits.val.labels) / np.bincount(np.r_[digits.val.labels, digits.train.labels])
    assert np.abs(shares - 0.25).max() < 0.01


def test_the_digits_split_is_a_function_of_the_seed_alone() -> None:
    assert dataset_from("digits", seed=3).val.ids == dataset_from("digits", seed=3).val.ids
    assert dataset_from("digits", seed=3).val.ids != dataset_from("digits", seed=4).val.ids


def test_the_stored_constants_normalise_the_digits() -> None:
    digits = dataset_from("digits")
    images = np.concatenate([x for x, _ in digits.train.batches(spec_with(digits.classes), 500)])
    assert abs(images.mean()) < 0.01
    assert abs(images.std() - 1) < 0.01


def test_labels_follow_the_order_of_the_models_classes() -> None:
    backwards = tuple("9876543210")
    plain, renumbered = dataset_from("digits"), dataset_for(spec_with(backwards), "digits")
    assert renumbered.classes == backwards
    for split, original in ((renumbered.train, plain.train), (renumbered.val, plain.val)):
        names = [renumbered.classes[label] for label in split.labels]
        assert names == [plain.classes[label] for label in original.labels]


def test_a_model_without_class_names_keeps_the_data_sets_order() -> None:
    assert dataset_for(spec_with(()), "digits").classes == tuple("0123456789")


def test_class_names_the_model_does_not_know_are_named() -> None:
    with pytest.raises(InputError, match=r"classes the model does not know: 0"):
        dataset_for(spec_with((*"123456789", "zero")), "digits")


def test_classes_may_have_no_images_which_is_said(caplog) -> None:
    classes = (*"98765", "ten", *"43210")
    with caplog.at_level("INFO", "edgeres"):
        plain, found = dataset_from("digits"), dataset_for(spec_with(classes, num_classes=11), "digits")
    assert "digits has no images of ten, which the network knows" in caplog.messages
    assert found.classes == classes
    assert [classes[label] for label in found.val.labels] == [plain.classes[label] for label in plain.val.labels]


def test_names_that_look_alike_are_one() -> None:
    classes = ("\ufeff0", "1\u200b", *"23456789")
    found = dataset_for(spec_with(classes), "digits")
    assert found.classes == classes
    assert (found.val.labels == dataset_from("digits").val.labels).all()


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"digits has 10 classes \(0, 1, 2, 3, ...\) and the model has 7 outputs"):
        dataset_for(spec_with((), num_classes=7), "digits")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data set 'digit'; did you mean digits"),
        ("folder:", "should read folder:PATH"),
        ("folder", "should read folder:PATH"),
        ("digits:8", "should read digits"),
        ("folder:/no/such/place", "/no/such/place does not exist"),
        ("no_such_module:data", "there is no module no_such_module; run it in the folder that has it, or with that"),
        ("no_such.module:data", "there is no module no_such; run it in the folder"),
        ("json:lodas", "json has no function 'lodas'; did you mean loads"),
    ],
)
def test_a_wrong_name_is_answered_in_one_line(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        dataset_from(name)
    assert "\n" not in str(caught.value)


OWN = """
import numpy as np
from edgeres.core.spec import Preprocess
from edgeres.data import Dataset, split_from_arrays

def squares():
    images = np.zeros((4, 6, 6), np.uint8)
    train, val = (split_from_arrays(name, images, [0, 1, 0, 1]) for name in ("train", "val"))
    return Dataset("squares", ("a", "b"), train, val, Preprocess(mean=(0.5,), std=(0.5,)), (1, 6, 6))

def nothing():
    return 7
"""


def test_a_package_that_a_users_module_lacks_is_no_matter_of_the_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_lacking.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"there is no module no_such_package$"):
        dataset_from("own_lacking:data")


def test_a_function_of_the_present_directory_may_make_the_data_set(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_squares.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert dataset_from("own_squares:squares").classes == ("a", "b")
    with pytest.raises(InputError, match=r"must return an edgeres\.data\.Dataset, got int"):
        dataset_from("own_squares:nothing")
    assert str(tmp_path) not in sys.path


def test_a_label_without_a_class_is_refused() -> None:
    split = split_from_arrays("train", np.zeros((2, 4, 4), np.uint8), [0, 2])
    with pytest.raises(InputError, match="train has label 2, there are 2 classes"):
        Dataset("x", ("a", "b"), split, split, Preprocess(mean=(0.5,), std=(0.5,)), (1, 4, 4))


def test_arrays_that_are_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="must be uint8"):
        split_from_arrays("train", np.zeros((2, 4, 4), np.float32), [0, 1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 images, 3 labels"):
        split_from_arrays("train", np.zeros((2, 4, 4), np.uint8), [0, 1, 1])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def f():\n    return {}['x']\n", r"KeyError: 'x' \(.*mine_\d+\.py, line 2\)"),
        ("import numpy as np\ndef f():\n    return np.load('none.npy')\n", r"FileNotFoundError: .*none.npy.*line 3\)"),
        ("def f(x):\n    pass\n", r"TypeError: f\(\) missing 1 required positional argument: 'x'$"),
        ("def f(:\n", r"SyntaxError: .*mine_\d+\.py, line 1\)"),
        ("raise ValueError('at import')\n", r"ValueError: at import \(.*line 1\)"),
        ("def f():\n    raise SystemExit(3)\n", r"SystemExit: 3 \(.*line 2\)"),
        ("def f(argument):\n    pass\n", "TypeError: f\\(\\) missing 1 required"),
    ],
)
def test_what_fails_in_the_users_own_function_is_the_users(tmp_path, monkeypatch, code, said) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"mine_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(InputError, match=said):
        dataset_from(f"{name}:f")


@pytest.mark.parametrize("name", [":f", "..:x", "a b:f", "a.:f", "a:f()"])
def test_a_function_is_called_by_its_name(name) -> None:
    with pytest.raises(InputError, match=r"should read package\.module:function"):
        dataset_from(name)
