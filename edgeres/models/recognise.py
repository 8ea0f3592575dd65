"""Which network a state dict is, told by its keys and shapes alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from edgeres.core.amounts import counted
from edgeres.core.errors import InputError, few_of
from edgeres.models.resnet_family import IMAGENET_STAGES
from edgeres.models.vgg_family import STAGES as VGG_STAGES

Shapes = Mapping[str, tuple[int, ...]]
_OF_A_MODULE = re.compile(r"layer1\.0\.conv\d+\.weight")  # convolutions (or linear layers) of the first
_ORDERING_OF = {"bn_last.weight": "full-preact", "layer1.0.bn_out.weight": "bn-after-add"}  # of five, by keys
_OTHERS = (  # key that gives away what is not rebuilt here, and what it is called
    (r"embedder\.embedder\.convolution\.", "a ResNet of Hugging Face transformers"),
    (r"stages\.\d+\.(blocks\.)?\d+\.(gamma|conv_dw\.)", "a ConvNeXt (timm)"),
    (r"features\.denseblock\d", "a DenseNet (torchvision, timm)"),
    (r"features\.\d+\.conv\.\d", "a MobileNetV2 (torchvision)"),
    (r"features\.\d+\.\d+\.block\.", "an EfficientNet or ConvNeXt (torchvision)"),
    (r"features\.\d+\.block\.", "a MobileNetV3 (torchvision)"),
    (r"blocks\.\d+\.\d+\.(conv_dw|conv_pw)", "an EfficientNet or MobileNet (timm)"),
    (r"s1\.b1\.|trunk_output\.block1", "a RegNet (timm, torchvision)"),
    (r"cls_token|patch_embed|encoder\.layers\.encoder_layer_0", "a vision transformer"),
    (r"features\.\d+\.(weight|squeeze)", "a VGG, AlexNet or SqueezeNet (torchvision)"),
    (r"Conv2d_1a_3x3|inception", "an Inception or GoogLeNet (torchvision)"),
)


@dataclass(frozen=True)
class Recognised:
    """`arch` and `options` rebuild it; without `arch` it is none of ours and `called` says what it looks like."""

    arch: str | None
    called: str
    options: dict[str, str | int | float] = field(default_factory=dict)


def recognised(shapes: Shapes) -> Recognised | None:
    """The network with these keys, called as torchvision does and without a prefix; None if nothing gives it away."""
    counts = _counts(shapes)
    if not counts:
        what = next((what for pattern, what in _OTHERS if any(re.search(pattern, key) for key in shapes)), None)
        return Recognised(None, what) if what else None
    if "layer1.0.conv.weight" in shapes:
        arch = next((name for name, stages in VGG_STAGES.items() if stages == counts), None)
        return Recognised(arch, arch) if arch else None
    if other := _relative(shapes, counts):
        return Recognised(None, other)
    return _residual(shapes, counts)


def check_recognised(shapes: Shapes, where: str) -> Recognised:
    """What can be rebuilt; raises InputError that says what the network looks like, or which keys it has."""
    seen = recognised(shapes)
    if seen is None:
        maybe = "if it is one of `edgeres ls models`, name it: --arch resnet50; " if _counts(shapes) else ""
        raise InputError(f"{where}: cannot tell the network; {maybe}it has {other_names(shapes, where)}")
    if seen.arch is None:
        raise InputError(
            f"{where} looks like {seen.called}, which no name of `edgeres ls models` rebuilds; say whose definition it"
            " is, --arch torchvision/NAME or timm/NAME, or import an ONNX file or a function (edgeres help networks)"
        )
    return seen


def other_names(keys: Collection[str], where: str) -> str:
    """`164 keys (a, b, ...)`, what they would be called here, and what takes any names: the end of a message."""
    return (
        f"{counted(len(keys), 'key')} ({few_of(keys)}); here they are called conv1, bn1, layer1.0.conv1, layer1.0.bn1,"
        " layer1.0.downsample.0 (or shortcut), ..., fc; with names of its own a network comes by the"
        f" function that makes it: edgeres import package.module:function --weights {where}"
    )


def _counts(shapes: Shapes) -> tuple[int, ...]:
    """Modules in each stage."""
    modules = {(int(match[1]), int(match[2])) for key in shapes if (match := re.match(r"layer(\d+)\.(\d+)\.", key))}
    stages = sorted({stage for stage, _ in modules})
    return tuple(max(index for stage, index in modules if stage == one) + 1 for one in stages)


def _relative(shapes: Shapes, counts: tuple[int, ...]) -> str | None:
    """The name of a network that is like a residual one of ours, and is not."""
    depth = _imagenet_depth(shapes, counts)
    if any(re.search(r"\.se\.|\.se_module\.", key) for key in shapes):
        return f"seresnet{depth} (timm)"
    if "conv1.0.weight" in shapes:
        return f"resnet{depth}d (timm)"
    inner = shapes.get("layer1.0.conv2.weight", ())
    if len(inner) != 4 or "conv1.weight" not in shapes:
        return None
    out, a_group, stem = inner[0], inner[1], shapes["conv1.weight"][0]
    if a_group < out and _is_bottleneck(shapes):
        return f"resnext{depth}_{out // a_group}x{a_group}d (torchvision, timm)"
    if _is_bottleneck(shapes) and out == 2 * stem:
        return f"wide_resnet{depth}_2 (torchvision, timm)"
    if not _is_bottleneck(shapes) and out > stem:
        return f"a wide residual network, {out // stem} times as wide as its stem"
    return None


def _residual(shapes: Shapes, counts: tuple[int, ...]) -> Recognised | None:
    stem, layers = shapes.get("conv1.weight"), sum(bool(_OF_A_MODULE.fullmatch(key)) for key in shapes)
    if stem is None or layers < 1:
        return None
    bottleneck, is_linear = _is_bottleneck(shapes), len(stem) == 2
    options: dict[str, str | int | float] = {}
    if len(counts) == len(IMAGENET_STAGES[18]) and not is_linear:
        depth = _imagenet_depth(shapes, counts)
        if IMAGENET_STAGES.get(depth) != counts:
            return Recognised(None, f"resnet{depth} (timm)")
        arch, width, usual = f"resnet{depth}", 64, 3 if bottleneck else 2
        if stem[2] == 3:
            options["stem"] = "cifar"
    elif len(counts) == 3 and len(set(counts)) == 1:
        depth, width = layers * sum(counts) + 2, 64 if is_linear else 16
        arch, usual = f"{'fc' if is_linear else ''}resnet{depth}", 3 if bottleneck else 2
        if depth in IMAGENET_STAGES and not is_linear:
            arch += "cifar"
        if bottleneck:
            options["bottleneck"] = True
    else:
        return None
    options |= {name: seen for name, seen, was in (("layers", layers, usual), ("width", stem[0], width)) if seen != was}
    for key, ordering in _ORDERING_OF.items():
        if key in shapes:
            options["ordering"] = ordering
    return Recognised(arch, arch, options)


def _is_bottleneck(shapes: Shapes) -> bool:
    return shapes.get("layer1.0.conv1.weight", ())[2:] == (1, 1)


def _imagenet_depth(shapes: Shapes, counts: tuple[int, ...]) -> int:
    """As networks of four stages are called: every convolution of a module, the stem and the classifier."""
    return (3 if _is_bottleneck(shapes) else 2) * sum(counts) + 2
