"""Checkpoints as other people write them."""

from __future__ import annotations

import argparse
import shlex
import sys

import numpy as np
import pytest
import torch

from edgeres.core.errors import InputError
from edgeres.core.input_options import preprocess_from
from edgeres.core.spec import Preprocess
from edgeres.models import network_from, spec_from_arch
from edgeres.models.class_names import names_in_list
from edgeres.models.family import IMAGENET_PREPROCESS
from edgeres.models.foreign import read_weights, shortcut_option, translated, with_batch_counters
from edgeres.models.importing import ImportConfig, import_checkpoint
from edgeres.models.weights import load_network, load_weights

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    torch.manual_seed(1)
    return network_from(spec_from_arch("resnet8", num_classes=7)).eval()


def wrap_plain(state):
    return state


def wrap_data_parallel(state):
    return {"state_dict": {f"module.{key}": value for key, value in state.items()}, "best_prec1": 91.7}


def wrap_compiled_lightning(state):
    return {"epoch": 3, "model": {f"model._orig_mod.{key}": value for key, value in state.items()}}


def wrap_ema(state):
    noise = {key: value + 1 for key, value in state.items() if value.is_floating_point()}
    return {"state_dict": state, "ema": {**state, **noise}}


def wrap_averaged(state):
    return {"n_averaged": torch.tensor(4), **{f"module.{key}": value for key, value in state.items()}}


def wrap_lightning_with_loss(state):
    return {"state_dict": {f"resnet.{key}": one for key, one in state.items()} | {"criterion.weight": torch.ones(7)}}


def wrap_mmpretrain(state):
    moved = {("head." if key.startswith("fc.") else "backbone.") + key: one for key, one in state.items()}
    return {"meta": {}, "state_dict": moved | {"data_preprocessor.mean": torch.ones(3, 1, 1)}}


def wrap_dropout(state):
    return {f"base_model.{key.replace('fc.', 'classifier.1.')}": value for key, value in state.items()}


def wrap_observers(state):
    seen = {"conv1.weight_quantizer._amax": torch.ones(16, 1), "layer1.0.conv1.weight_fake_quant.scale": torch.ones(16)}
    return state | seen | {"layer1.0.bn1.activation_post_process.running_mean": torch.ones(2)}


def wrap_linear(state):
    return {key.replace("fc.", "linear."): value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        *(wrap_plain, wrap_data_parallel, wrap_compiled_lightning, wrap_ema, wrap_averaged, wrap_linear),
        *(wrap_lightning_with_loss, wrap_mmpretrain, wrap_dropout, wrap_observers),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrapped_and_prefixed_files_give_the_same_network(network, tmp_path, wrap, zipped):
    file = tmp_path / "foreign.pth"
    torch.save(wrap(network.state_dict()), file, _use_new_zipfile_serialization=zipped)
    result = import_checkpoint(None, ImportConfig(file=file), tmp_path / "out")
    assert (result.output.spec.variant, result.output.spec.num_classes) == ("resnet8", 7)
    with torch.inference_mode():
        assert torch.equal(load_network(result.output)(IMAGES), network(IMAGES))


def test_shortcut_is_a_name_for_downsample_and_the_option_is_told_by_the_keys(tmp_path):
    for option in "ABC":
        spec = spec_from_arch("resnet8", num_classes=3, options={"shortcut": option})
        state = network_from(spec).state_dict()
        foreign = {key.replace("downsample", "shortcut"): value for key, value in state.items()}
        assert translated(foreign, "x")[0].keys() == state.keys()
        assert shortcut_option(state) == option
        file = tmp_path / f"{option}.pt"
        torch.save(foreign, file)
        output = import_checkpoint(None, ImportConfig(file=file, arch="resnet8"), tmp_path / option).output
        assert output.spec.options == ({} if option == "A" else {"shortcut": option})


def test_missing_batch_counters_are_filled_in(network, tmp_path):
    state = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    assert with_batch_counters(state).keys() == network.state_dict().keys()


def test_several_state_dicts_are_noted_and_chosen_by_key(network, tmp_path):
    file = tmp_path / "ema.pt"
    torch.save(wrap_ema(network.state_dict()), file)
    usual, notes, *_ = read_weights(file)
    averaged = read_weights(file, "ema").weights
    assert "state_dict" in notes[0]
    assert "ema" in notes[0]
    assert not torch.equal(usual["fc.bias"], averaged["fc.bias"])
    with pytest.raises(InputError, match="did you mean ema"):
        read_weights(file, "emma")


@pytest.mark.parametrize(("first", "second"), [("model.", "ema."), ("student.net.", "teacher.net.")])
def test_one_of_two_networks_in_a_state_dict_is_taken_by_key(network, tmp_path, first, second):
    file, state = tmp_path / "two.pt", network.state_dict()
    other = {key: one + 1 if one.is_floating_point() else one for key, one in state.items()}
    both = [{f"{prefix}{key}": one for key, one in part.items()} for prefix, part in ((first, state), (second, other))]
    torch.save({"state_dict": both[0] | both[1]}, file)
    name = second.partition(".")[0]
    weights, _ = translated(read_weights(file, name).weights, "x")
    assert torch.equal(weights["fc.bias"], other["fc.bias"])
    if first == "model.":
        assert torch.equal(translated(read_weights(file).weights, "x")[0]["fc.bias"], state["fc.bias"])
    else:
        with pytest.raises(InputError, match=r"two\.pt holds 2 networks; .* --key: state_dict.student, "):
            read_weights(file)


def test_what_is_left_out_is_noted(network, tmp_path):
    torch.save(wrap_lightning_with_loss(network.state_dict()), tmp_path / "net.pt")
    notes = import_checkpoint(None, ImportConfig(file=tmp_path / "net.pt"), tmp_path / "out").report.notes
    assert "left out, as they belong to no layer: criterion.weight (1 in all)" in notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.1.weight": (9, 64), "fc.4.weight": (7, 9)}, r"2 linear layers .* \(fc.1 64 -> 9, fc.4 9 -> 7\)"),
        ({"fc1.weight": (9, 64), "fc2.weight": (7, 9)}, r"2 linear layers .* \(fc1 64 -> 9, fc2 9 -> 7\)"),
        ({"age.weight": (9, 64), "sex.weight": (2, 64)}, r"2 linear layers .* \(age 64 -> 9, sex 64 -> 2\)"),
        ({"fc.weight": (7, 63)}, r"no classifier, a linear layer behind its 64 features \(other keys: fc.weight\)"),
        ({"fc.1.weight": (7, 64), "fc.0.weight": (64,), "fc.0.bias": (64,)}, "2 unexpected .fc.0.bias, fc.0.weight"),
        ({"fc.weight": (7, 64), "neck.weight": (64,), "neck.running_mean": (64,)}, r"unexpected \(neck\."),
        ({"fc.weight": (7, 64), "layer1.0.attend.weight": (1, 64)}, "1 unexpected .layer1.0.attend.weight"),
    ],
)
def test_layers_that_are_not_rebuilt_are_named(network, tmp_path, change, message):
    state = {key: one for key, one in network.state_dict().items() if not key.startswith("fc.")}
    torch.save(state | {key: torch.ones(shape) for key, shape in change.items()}, tmp_path / "net.pt")
    with pytest.raises(InputError, match=message):
        import_checkpoint(None, ImportConfig(file=tmp_path / "net.pt"), tmp_path / "out")


def test_one_output_becomes_two_classes_with_the_same_decision(network, tmp_path):
    state = network.state_dict()
    torch.save(state | {"fc.weight": state["fc.weight"][:1], "fc.bias": state["fc.bias"][:1]}, tmp_path / "one.pt")
    output = import_checkpoint(None, ImportConfig(file=tmp_path / "one.pt"), tmp_path / "out").output
    with torch.inference_mode():
        ours, theirs = load_network(output)(IMAGES), network(IMAGES)[:, 0]
    assert torch.allclose(ours.softmax(1)[:, 1], theirs.sigmoid())
    assert torch.equal(ours.argmax(1) == 1, theirs > 0)


def test_a_classifier_without_a_bias_gets_one_of_zeros(network, tmp_path):
    torch.save({key: one for key, one in network.state_dict().items() if key != "fc.bias"}, tmp_path / "x.pt")
    output = import_checkpoint(None, ImportConfig(file=tmp_path / "x.pt"), tmp_path / "out").output
    assert not load_weights(output)["fc.bias"].any()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (
            "conv1.weight",
            lambda one: torch.quantize_per_tensor(one, 0.01, 0, torch.qint8),
            "is quantized; save",
        ),
        ("fc.weight", lambda one: one.to_sparse(), "is sparse; save it with .to_dense"),
        ("layer1.0.bn1.running_var", lambda one: -one, r"holds a variance below 0 \(-1\)"),
        ("conv1.weight", lambda one: one.to(torch.int8), "holds int8, not floating-point numbers"),
    ],
)
def test_tensors_that_cannot_be_used_are_named_in_one_line(network, tmp_path, key, change, message):
    state = network.state_dict()
    torch.save(state | {key: change(state[key])}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=rf"x\.pt: {key} {message}"):
        import_checkpoint(None, ImportConfig(file=tmp_path / "x.pt"), tmp_path / "out")


@pytest.mark.parametrize(
    "said",
    [
        {"class_to_idx": {name: 6 - i for i, name in enumerate("abcdefg")}},
        {"hyper_parameters": {"idx_to_class": dict(enumerate("gfedcba"))}},
        {"classes": list("gfedcba")},
    ],
)
def test_class_names_in_the_file_are_used(network, tmp_path, said):
    torch.save({"state_dict": network.state_dict(), **said}, tmp_path / "x.pt")
    result = import_checkpoint(None, ImportConfig(file=tmp_path / "x.pt"), tmp_path / "out")
    assert result.output.spec.classes == tuple("gfedcba")
    assert "class names are the file's own: g, f, e, ..." in result.report.notes


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ({"mean": [0.48, 0.47, 0.43], "std": (0.2, 0.2, 0.2)}, "--mean 0.48,0.47,0.43 --std 0.2,0.2,0.2"),
        ({"cfg": {"mean": torch.full((1, 3, 1, 1), 0.48), "std": torch.ones(3)}}, "--mean 0.48,0.48,0.48 --std 1,1,1"),
        ({"mean": [127.5, 127.5, 127.5], "std": [51, 51, 51]}, "--mean 0.5,0.5,0.5 --std 0.2,0.2,0.2"),
        ({"mean": [0.5], "std": [0.2]}, ""),
        ({"mean": 0.5, "std": 0.2}, ""),
        ({"mean": [0.48, 0.47, 0.43]}, ""),
    ],
)
def test_mean_and_std_in_the_file_are_named_and_not_taken_silently(network, tmp_path, said, options):
    torch.save({"state_dict": network.state_dict(), **said}, tmp_path / "x.pt")
    usual, *_ = (
        one for one in warnings_of(tmp_path / "x.pt") if one.startswith("mean and std were not given: assumed")
    )
    assert usual.endswith(f"the file holds others, to take them: {options}" if options else "set --mean and --std")
    values = dict(
        zip(("mean", "std"), (list(map(float, one.split(","))) for one in options.split()[1::2]), strict=False)
    )
    assert not any("mean and std" in one for one in warnings_of(tmp_path / "x.pt", **values)) or not values


def warnings_of(file, **values):
    return import_checkpoint(None, ImportConfig(file=file, **values), file.parent / "out").report.warnings


@pytest.mark.parametrize(("taken", "name"), [([], "it's.plain.pth"), (["it's.plain.pth"], "it's.plain2.pth")])
def test_a_file_of_plain_objects_is_refused_with_a_command_that_converts_it(
    network, tmp_path, monkeypatch, taken, name
):
    file, own = tmp_path / "it's.pth", [tmp_path / one for one in taken]
    for one in own:
        one.write_text("the user's own")
    state = network.state_dict()
    extra = {"args": argparse.Namespace(lr=0.1), "best": np.float64(91.5), "optimizer": {"lr": np.float64(0.1)}}
    numbers = {
        **{name: 6 - i for i, name in enumerate("abc")},
        **{np.str_(c): np.int64(i) for i, c in enumerate("gfed")},
    }
    torch.save({"state_dict": state, **extra, "data": {"class_to_idx": numbers}}, file)
    with pytest.raises(InputError, match=r"refused\. This takes its tensors .*: python -c ") as caught:
        read_weights(file)
    message = str(caught.value)
    assert "\n" not in message
    _, _, code, *arguments = shlex.split(message[message.index("python -c") :])
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    try:
        exec(code, {})
        with pytest.raises(FileExistsError):  # what came to be there since is the user's own too
            exec(code, {})
    finally:
        torch.serialization.clear_safe_globals()  # what the command allows is for it alone
    assert [one.read_text() for one in own] == ["the user's own" for _ in own]
    made = read_weights(tmp_path / name)
    assert torch.equal(made.weights["fc.bias"], state["fc.bias"])
    result = import_checkpoint(None, ImportConfig(file=tmp_path / name), tmp_path / "out")
    assert result.output.spec.classes == tuple("gfedcba")


class Custom:
    """A class that would have to be imported to open the file."""


def test_a_file_that_would_run_code_is_refused(tmp_path):
    file = tmp_path / "whole.pt"
    torch.save({"model": Custom()}, file)
    with pytest.raises(InputError, match="would run code when opened; refused"):
        read_weights(file)


def test_nothing_is_half_loaded(network, tmp_path):
    state = dict(network.state_dict())
    del state["layer1.0.conv2.weight"]
    state["extra.weight"] = torch.zeros(2, 2)
    state["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    file = tmp_path / "odd.pt"
    torch.save(state, file)
    with pytest.raises(InputError) as caught:
        import_checkpoint(None, ImportConfig(file=file, arch="resnet8"), tmp_path / "out")
    message = str(caught.value)
    assert "1 missing (layer1.0.conv2.weight)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "conv1.weight is (16, 3, 5, 5), should be (16, 3, 3, 3)" in message
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_preprocessing_and_labels_travel_with_the_file(network, tmp_path):
    file, labels = tmp_path / "net.pt", tmp_path / "labels.txt"
    torch.save(network.state_dict(), file)
    labels.write_text("\n".join("abcdefg") + "\n")
    config = ImportConfig(
        file=file, arch="resnet8", labels=labels, mean=(0.5,) * 3, std=(0.25,) * 3, resize=40, size=32
    )
    result = import_checkpoint(None, config, tmp_path / "out")
    assert result.output.spec.classes == tuple("abcdefg")
    assert result.output.spec.preprocess.mean == (0.5, 0.5, 0.5)
    assert result.output.spec.preprocess.resize == 40
    assert not result.report.warnings


def test_assumed_preprocessing_is_a_warning(network, tmp_path):
    file = tmp_path / "net.pt"
    torch.save(network.state_dict(), file)
    result = import_checkpoint(None, ImportConfig(file=file, arch="resnet8"), tmp_path / "out")
    assert "--mean" in result.report.warnings[0]
    assert "assumed 32 x 32 (all images have it)" in result.report.warnings[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"classes": 10}, "has 7 outputs"),
        ({"mean": (0.5,) * 3}, "belong together"),
        ({"mean": (0.5,) * 2, "std": (0.2,) * 2}, "2 values for 3 channels"),
        ({"mean": (0.5,) * 3, "std": (0.0,) * 3}, "std must be positive"),
        ({"resize": 31}, "--resize 31 is smaller than the input, the 32 pixels"),
    ],
)
def test_contradictions_are_refused(network, tmp_path, more, message):
    file = tmp_path / "net.pt"
    torch.save(network.state_dict(), file)
    with pytest.raises(InputError, match=message):
        import_checkpoint(None, ImportConfig(file=file, arch="resnet8", **more), tmp_path / "out")


def test_an_edgeres_checkpoint_is_copied_with_its_spec(checkpoint_of, spec_of, tmp_path):
    original = checkpoint_of(spec_of("resnet8").without(("layer1.0",)))
    copy = import_checkpoint(None, ImportConfig(file=original.path), tmp_path / "out").output
    assert copy.spec == original.spec
    assert copy.card.parent == original.sha256
    assert all(torch.equal(a, load_weights(copy)[key]) for key, a in load_weights(original).items())


def test_half_precision_weights_are_stored_as_float32(network, tmp_path):
    file = tmp_path / "half.pt"
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}, file)
    weights = load_weights(import_checkpoint(None, ImportConfig(file=file, arch="resnet8"), tmp_path / "out").output)
    assert weights["conv1.weight"].dtype == torch.float32


def test_values_that_are_not_finite_are_refused(network, tmp_path):
    state = dict(network.state_dict())
    state["fc.bias"] = torch.full_like(state["fc.bias"], torch.inf)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"bad\.pt: fc\.bias holds values that are not finite"):
        import_checkpoint(None, ImportConfig(file=tmp_path / "bad.pt", arch="resnet8"), tmp_path / "out")


def test_tensors_that_share_memory_are_stored_apart(network, tmp_path):
    state = dict(network.state_dict())
    state["layer1.0.bn2.weight"] = state["layer1.0.bn1.weight"]
    torch.save(state, tmp_path / "tied.pt")
    output = import_checkpoint(None, ImportConfig(file=tmp_path / "tied.pt", arch="resnet8"), tmp_path / "out").output
    assert load_network(output)(IMAGES).shape == (2, 7)


def test_a_grey_network_keeps_its_one_channel(tmp_path):
    spec = spec_from_arch(
        "resnet8", num_classes=3, input_shape=(1, 28, 28), preprocess=Preprocess(mean=(0.1,), std=(0.3,))
    )
    torch.save(network_from(spec).state_dict(), tmp_path / "grey.pt")
    config = ImportConfig(file=tmp_path / "grey.pt", arch="resnet8", mean=(0.1,), std=(0.3,), size=28)
    assert import_checkpoint(None, config, tmp_path / "out").output.spec.input_shape == (1, 28, 28)


def test_an_edgeres_checkpoint_keeps_its_preprocessing_though_its_network_is_named(checkpoint_of, spec_of, tmp_path):
    original = checkpoint_of(spec_of("resnet8"))
    config = ImportConfig(file=original.path, arch="resnet8")
    assert import_checkpoint(None, config, tmp_path / "out").output.spec == original.spec
    for more in ({"arch": "resnet14"}, {"classes": 10}):
        with pytest.raises(InputError, match=r"is an edgeres checkpoint already .* leave out --"):
            import_checkpoint(None, ImportConfig(file=original.path, **more), tmp_path / "no")


def test_preprocessing_and_class_names_of_our_own_file_are_set_anew(checkpoint_of, spec_of, tmp_path):
    original = checkpoint_of(spec_of("resnet8"))
    (tmp_path / "labels.txt").write_text("\n".join("abcdefghij"))
    more = {"mean": (0.5,), "std": (0.2,), "size": 16, "fit": "letterbox", "exif": True, "labels": "labels.txt"}
    result = import_checkpoint(None, ImportConfig(file=original.path, **more), tmp_path / "out")
    spec = result.output.spec
    assert spec.preprocess == Preprocess(mean=(0.5,), std=(0.2,), fit="letterbox", exif=True)
    assert (spec.input_shape, spec.classes) == ((1, 16, 16), tuple("abcdefghij"))
    assert result.output.card.parent == original.sha256
    assert "set anew: --mean, --std, --fit, --exif, --size, --labels" in result.report.notes[-1]
    back = import_checkpoint(None, ImportConfig(file=result.output.path, resize=20, fit="crop"), tmp_path / "b").output
    assert back.spec.preprocess == Preprocess(mean=(0.5,), std=(0.2,), resize=20, exif=True)
    assert all(torch.equal(a, load_weights(back)[key]) for key, a in load_weights(original).items())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, {"resize": 256}),
        ({"size": 64, "resize": 72}, {"resize": 72}),
        ({"fit": "squash", "size": 64}, {"fit": "squash"}),
        ({"fit": "squash", "resize": 256}, {"fit": "squash", "resize": 256}),
        ({"fit": "letterbox", "border": 114}, {"fit": "letterbox", "border": 114}),
        ({"fit": "none", "size": 64}, {}),
    ],
)
def test_how_images_come_to_the_inputs_size_is_as_said(tmp_path, more, expected):
    config = ImportConfig(file=tmp_path / "x.pt", arch="resnet18", **more)
    assert preprocess_from(config, IMAGENET_PREPROCESS, (3, 224, 224), config.size) == IMAGENET_PREPROCESS.model_copy(
        update={"resize": None, **expected}
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"size": 64},
            r"--size 64 does not say how .* --resize PIXELS .* --fit squash, --fit letterbox, or --fit none",
        ),
        ({"size": 64, "fit": "crop"}, "--fit crop needs --resize"),
        ({"resize": 72, "fit": "letterbox"}, "--fit letterbox crops nothing; leave out --resize 72"),
        ({"fit": "squash", "border": 9}, "border 9 is what surrounds a letterboxed image"),
    ],
)
def test_a_size_that_no_image_can_come_to_is_refused_at_once(tmp_path, more, message):
    config = ImportConfig(file=tmp_path / "x.pt", arch="resnet18", **more)
    with pytest.raises(InputError, match=message):
        preprocess_from(config, IMAGENET_PREPROCESS, (3, 224, 224), config.size)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"size": 3}, "--size 3: images of fewer than 4 pixels a side"),
        ({"size": 1_000_000}, "--size 1000000: at most 4096 pixels a side"),
        ({"size": "2x64"}, "--size 2: images of fewer than 4 pixels a side"),
        ({"size": "64x"}, "--size 64x: a number of pixels, or HEIGHTxWIDTH such as 48x320"),
        ({"size": "64,48"}, "--size 64,48: a number of pixels, or HEIGHTxWIDTH"),
        ({"size": "48x64", "resize": 50}, "--resize 50 is smaller than the input, the 64 pixels"),
        ({"resize": 99_999_999}, "--resize 99999999: at most 4096 pixels a side"),
        ({"size": 64, "resize": 32}, "--resize 32 is smaller than the input, the 64 pixels"),
    ],
)
def test_sizes_no_network_takes_are_refused_before_anything_runs(network, tmp_path, more, message):
    torch.save(network.state_dict(), tmp_path / "net.pt")
    with pytest.raises(InputError, match=message):
        ImportConfig(file=tmp_path / "net.pt", arch="resnet8", **more).check()


@pytest.mark.parametrize(("size", "shape"), [(4, (4, 4)), ("4096", (4096, 4096)), ("48x64", (48, 64))])
def test_sizes_between_the_outermost_are_taken(network, tmp_path, size, shape):
    torch.save(network.state_dict(), tmp_path / "net.pt")
    config = ImportConfig(file=tmp_path / "net.pt", arch="resnet8", size=size)
    config.check()
    assert import_checkpoint(None, config, tmp_path / "out").output.spec.input_shape == (3, *shape)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffcaf\u00e9\r\nb\r\nc\r\nd\r\ne\r\nf\r\ng\r\n",
        "cafe\u0301\nb\u200b\nc\nd\ne\nf\ng\u00ad\n",
        '{"0": "cafe\u0301", "1": "b", "2": "c", "3": "d", "4": "e", "5": "f", "6": "g"}',
        '{"caf\u00e9": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "g": 6}',
        '["caf\u00e9", "b", "c", "d", "e", "f", "g"]',
    ],
)
def test_class_names_are_read_as_they_look(tmp_path, text):
    (tmp_path / "labels.txt").write_bytes(text.encode())
    assert names_in_list(tmp_path / "labels.txt", 7) == ("caf\u00e9", *"bcdefg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,ant\n1,bee\n", "is a table .'0,ant', ...."),
        ('{"ant": 0, "bee": 2}', "names no classes; it should read"),
        ('{"ant": 0,', "is not valid JSON"),
    ],
)
def test_lists_that_are_no_names_are_refused(tmp_path, text, message):
    (tmp_path / "labels").write_text(text)
    with pytest.raises(InputError, match=message):
        names_in_list(tmp_path / "labels", 2)


def test_two_classes_of_one_name_are_refused(network, tmp_path):
    file, labels = tmp_path / "net.pt", tmp_path / "labels.txt"
    torch.save(network.state_dict(), file)
    labels.write_text("\n".join(["crane", "cat", "dog", "crane", "e", "f", "g"]))
    with pytest.raises(InputError, match=r"gives the name 'crane' to the classes 1, 4; .* give each its own"):
        import_checkpoint(None, ImportConfig(file=file, arch="resnet8", labels=labels), tmp_path / "out")
