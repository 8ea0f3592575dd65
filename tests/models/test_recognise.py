"""Networks are told by keys and shapes, ours and those we only know the name of."""

from __future__ import annotations

import pytest
import torch
import torchvision

from edgeres.core.errors import InputError
from edgeres.models import network_from, spec_from_arch
from edgeres.models.importing import ImportConfig, import_checkpoint
from edgeres.models.recognise import check_recognised, recognised
from edgeres.models.weights import expected_shapes, load_network


@pytest.mark.parametrize(
    "arch",
    [
        *("resnet8", "resnet20", "resnet50cifar", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
        *("fcresnet20", "vgg11", "vgg13", "vgg16"),
    ],
)
def test_every_network_of_ours_is_told_by_its_shapes(arch):
    seen = recognised(expected_shapes(spec_from_arch(arch, num_classes=5)))
    assert (seen.arch, seen.options) == (arch, {})


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("resnet20", {"width": 24}),
        ("resnet26", {"layers": 4}),
        ("resnet29", {"bottleneck": True}),
        ("resnet20", {"ordering": "full-preact"}),
        ("resnet20", {"ordering": "bn-after-add"}),
        ("resnet18", {"stem": "cifar"}),
        ("resnet50", {"stem": "cifar", "width": 32}),
    ],
)
def test_options_are_told_by_the_shapes_too(arch, options):
    seen = recognised(expected_shapes(spec_from_arch(arch, num_classes=5, options=options)))
    assert (seen.arch, seen.options) == (arch, options)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("resnext50_32x4d", r"resnext50_32x4d \(torchvision, timm\)"),
        ("resnext101_64x4d", "resnext101_64x4d"),
        ("wide_resnet50_2", "wide_resnet50_2"),
        ("densenet121", "a DenseNet"),
        ("mobilenet_v2", "a MobileNetV2"),
        ("mobilenet_v3_small", "a MobileNetV3"),
        ("efficientnet_b0", "an EfficientNet"),
        ("convnext_tiny", "an EfficientNet or ConvNeXt"),
        ("vit_b_32", "a vision transformer"),
        ("alexnet", "a VGG, AlexNet"),
    ],
)
def test_networks_that_are_not_rebuilt_are_called_what_they_are(name, called):
    with torch.device("meta"):
        state = torchvision.models.get_model(name).state_dict()
    with pytest.raises(
        InputError, match=f"x.pt looks like {called}.*say whose definition it is, --arch torchvision/NAME"
    ):
        check_recognised({key: tuple(one.shape) for key, one in state.items()}, "x.pt")


@pytest.mark.parametrize(
    ("changed", "called"),
    [
        ({"layer1.0.se.fc1.weight": (16, 64, 1, 1)}, "seresnet34"),
        ({"conv1.0.weight": (32, 3, 3, 3)}, "resnet34d"),
        ({"layer1.3.conv1.weight": (64, 64, 3, 3)}, "resnet36"),
    ],
)
def test_relatives_of_timm_are_called_so(changed, called):
    shapes = expected_shapes(spec_from_arch("resnet34", num_classes=5))
    assert recognised(shapes | changed).called == f"{called} (timm)"


@pytest.mark.parametrize(
    ("arch", "inner"),
    [("resnet34", (64, 32, 3, 3)), ("resnet50", (192, 192, 3, 3)), ("resnet50", (96, 96, 3, 3))],
    ids=["basic modules with groups", "three times as wide", "one and a half times as wide"],
)
def test_a_relative_of_none_is_called_by_no_relatives_name(arch, inner):
    shapes = expected_shapes(spec_from_arch(arch, num_classes=5))
    assert recognised(shapes | {"layer1.0.conv2.weight": inner}).called == arch


def test_three_stages_of_unequal_length_are_no_network_of_ours():
    shapes = expected_shapes(spec_from_arch("resnet20", num_classes=5))
    assert recognised({key: shape for key, shape in shapes.items() if not key.startswith("layer3.2.")}) is None


def test_what_nothing_gives_away_is_asked_for_with_its_keys():
    told = r"cannot tell the network; it has 1 key \(a.weight\); here they are called conv1, .* --weights x.pt$"
    with pytest.raises(InputError, match=told):
        check_recognised({"a.weight": (2, 2)}, "x.pt")
    with pytest.raises(InputError, match=r"cannot tell the network; if it is one of .* --arch resnet50; it has 1 key"):
        check_recognised({"layer1.0.conv1.weight": (2, 2, 3, 3)}, "x.pt")


@pytest.mark.parametrize("arch", [None, "resnet8"])
@pytest.mark.parametrize(
    ("theirs", "own", "said"),
    [
        ("layer", "group", r"cannot tell the network; it has \d+ keys \(conv1.weight, .*\)"),
        (
            ".conv",
            ".conv_",
            r"no convolutions under known names; its modules have \d+ keys \(layer1.0.bn1.*\)",
        ),
        ("downsample", "skip", r"unexpected .*; its modules have 12 keys \(layer2.0.skip.0.weight, .*\)"),
    ],
)
def test_names_of_ones_own_are_told_by_what_they_would_be_called_and_what_takes_them(tmp_path, arch, theirs, own, said):
    spec = spec_from_arch("resnet8", num_classes=5, options={"shortcut": "B"})
    state = {key.replace(theirs, own): torch.ones(shape) for key, shape in expected_shapes(spec).items()}
    torch.save(state, tmp_path / "own.pt")
    config = ImportConfig(file=tmp_path / "own.pt", arch=arch)
    remedy = r"here they are called conv1, .*downsample.0 \(or shortcut\).* --weights \S+/own.pt$"
    with pytest.raises(InputError, match=rf"{said}; {remedy}"):
        import_checkpoint(None, config, tmp_path)


def test_a_cifar_stem_on_an_imagenet_depth_is_rebuilt(tmp_path):
    """ResNet-18 for CIFAR as scripts write it: torchvision's with another first layer and without its pooling."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=4)
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    theirs.eval()
    torch.save({key.replace("downsample", "shortcut"): one for key, one in theirs.state_dict().items()}, "x.pt")
    result = import_checkpoint(None, ImportConfig(file="x.pt"), tmp_path / "out")
    spec = result.output.spec
    assert (spec.variant, spec.input_shape, spec.preprocess.resize) == ("resnet18", (3, 32, 32), None)
    assert any(note.startswith("recognised as resnet18") for note in result.report.notes)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(load_network(result.output)(images), theirs(images), atol=1e-5)


def test_the_name_given_counts_where_keys_leave_it_open(tmp_path):
    torch.save(network_from(spec_from_arch("plain20", num_classes=3)).state_dict(), "x.pt")
    for arch, family in ((None, "resnet"), ("plain20", "plain")):
        output = import_checkpoint(None, ImportConfig(file="x.pt", arch=arch), tmp_path / family).output
        assert output.spec.family == family


def test_a_wrong_name_is_answered_with_the_right_one(tmp_path):
    torch.save(network_from(spec_from_arch("resnet14", num_classes=3)).state_dict(), "x.pt")
    with pytest.raises(InputError, match=r"does not fit resnet8: keys .*; it looks like resnet14$"):
        import_checkpoint(None, ImportConfig(file="x.pt", arch="resnet8"), tmp_path / "out")
