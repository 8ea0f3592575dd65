"""Which architectures of timm and torchvision edgeres takes, with random weights at a small input.

    python tools/zoo_figures.py [--only PATTERN] [--engines]     timm: pip install timm

Of each: residual modules found beside the library's own count of blocks with a skip; every module dropped by itself and
compared, bit for bit, with the whole network whose branch is left out, and with the whole network, which differs; ONNX
Runtime against torch; INT8 on made-up photos, linted, with --engines built by TensorRT-RTX for sm86. Results go to
results/zoo.json, by name.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pruning_tables import table_head, table_row
from torch import nn

from edgeres.compile.stage import CompileConfig, compile_engine
from edgeres.core.artifacts import Checkpoint, OnnxModel
from edgeres.core.config import Record, record_from_json
from edgeres.core.errors import EdgeresError
from edgeres.core.files import write_text
from edgeres.core.spec import TRACED, ModelSpec, Preprocess
from edgeres.export.stage import ExportConfig, export
from edgeres.models import modules_of, network_from
from edgeres.models.libraries import definition
from edgeres.models.network import Network
from edgeres.models.sources import Brought, from_module
from edgeres.models.weights import save_checkpoint, weights_without
from edgeres.quantize.calibrate import calibrate
from edgeres.quantize.config import CalibrateConfig, QuantizeConfig
from edgeres.quantize.lint import lint
from edgeres.quantize.lint.pairs import problems
from edgeres.quantize.stage import quantize

PATH = Path(__file__).parent / "results" / "zoo.json"
CLASSES, SIDE = 10, 64
_STIR, _ROUNDING = 0.2, 1e-4
TORCHVISION = (
    "resnet18 resnet50 resnext50_32x4d wide_resnet50_2 regnet_y_400mf regnet_x_400mf mobilenet_v2 mobilenet_v3_small"
    " mobilenet_v3_large efficientnet_b0 efficientnet_v2_s convnext_tiny mnasnet1_0 shufflenet_v2_x1_0 densenet121"
    " vit_b_16 swin_t"
)
TIMM = (
    "resnet18 resnet50 resnet50d resnet26t resnext50_32x4d wide_resnet50_2 seresnet50 seresnext50_32x4d ecaresnet50d"
    " skresnet18 skresnet50 res2net50_26w_4s resnest14d resnest50d resnetv2_50 resnetv2_50x1_bit resnetblur50"
    " resnet50_gn resnetrs50 cspresnet50 cspresnext50 cspdarknet53 darknet53 regnetx_004 regnety_004 regnetz_c16"
    " gernet_s dla34 dla60 dla60_res2net hrnet_w18_small mobilenetv2_100 mobilenetv3_small_100 mobilenetv3_large_100"
    " efficientnet_b0 efficientnet_lite0 tf_efficientnet_b0 efficientnetv2_rw_t mnasnet_100 semnasnet_100 fbnetc_100"
    " spnasnet_100 mixnet_s ghostnet_100 convnext_atto convnextv2_atto vovnet39a ese_vovnet19b_dw rexnet_100"
    " hardcorenas_a tinynet_a nf_resnet50 repvgg_a2 selecsls42b xception41 edgenext_xx_small deit_small_patch16_224"
    " mixer_s16_224 convmixer_768_32 poolformer_s12"
)
_ALWAYS = (
    "BasicBlock Bottleneck Bottle2neck ResNestBottleneck SelectiveKernelBasic SelectiveKernelBottleneck"
    " ResBottleneckBlock PreActBottleneck PreActBasic CNBlock ConvNeXtBlock DlaBasic DlaBottleneck DlaBottle2neck"
    " DarkBlock NormFreeBlock BottleneckBlock"
)
_SAYS_SO = ("use_res_connect", "has_skip", "apply_residual", "use_shortcut")


class ZooLine(Record):
    """One architecture; `refused`: why it was not taken; `stopped`: why its road ended after the import."""

    refused: str | None = None
    modules: int = 0
    exact: int = 0
    skips: int | None = None
    difference: float | None = None
    int8_layers: int = 0
    findings: int = 0
    engine_bytes: int | None = None
    stopped: str | None = None
    seconds: float = 0.0


class ZooLines(Record):
    """By name, `timm/resnet18`."""

    lines: dict[str, ZooLine]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*")
    parser.add_argument("--engines", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    names = [*(f"torchvision/{name}" for name in TORCHVISION.split()), *(f"timm/{name}" for name in TIMM.split())]
    lines = dict(record_from_json(ZooLines, PATH).lines) if PATH.exists() else {}
    for name in fnmatch.filter(names, options.only):
        lines[name] = line_of(name, engines=options.engines)
        print(name, lines[name].model_dump_json(exclude_defaults=True), flush=True)
        kept = {name: lines[name] for name in names if name in lines}
        write_text(PATH, ZooLines(lines=kept).model_dump_json(indent=1) + "\n")
    return 0


def line_of(name: str, *, engines: bool) -> ZooLine:
    """All that is said of one architecture."""
    torch.manual_seed(0)
    begun_s = time.perf_counter()
    try:
        make, (channels, *_), *_ = definition(name)
        size = 224 if any(part in name for part in ("vit", "deit", "mixer", "swin")) else SIDE
        module = _steady(lambda: make(CLASSES), torch.randn(2, channels, size, size))
        brought = from_module(module, (channels, size, size), name)
    except EdgeresError as err:
        return ZooLine(refused=str(err), seconds=time.perf_counter() - begun_s)
    with tempfile.TemporaryDirectory() as folder:
        line = _judged(module, brought, name, Path(folder), engines)
    return line.model_copy(update={"seconds": time.perf_counter() - begun_s})


def zoo_table() -> list[str]:
    """One row a network that is taken, the others in a sentence."""
    found = record_from_json(ZooLines, PATH).lines
    lines = table_head("network", "modules", "blocks with a skip", "same bits", "ONNX, relative", "INT8 layers", "lint")
    for name, line in found.items():
        if line.refused is None:
            skips = "" if line.skips is None else str(line.skips)
            error = "" if line.difference is None else f"{line.difference:.0e}"
            lint_says = line.stopped or ("clean" if not line.findings else f"{line.findings} findings")
            cells = (
                str(line.modules),
                skips,
                f"{line.exact} of {line.modules}",
                error,
                str(line.int8_layers),
                lint_says,
            )
            lines.append(table_row(f"`{name}`", *cells))
    taken = [line for line in found.values() if line.refused is None]
    about = f"{len(taken)} of {len(found)} taken."
    refused = [f"- `{name}`: {line.refused}" for name, line in found.items() if line.refused is not None]
    return [*lines, "", about, "", *refused]


def _judged(module: nn.Module, brought: Brought, name: str, folder: Path, engines: bool) -> ZooLine:
    spec = ModelSpec(
        family=TRACED,
        variant=name.replace("/", "-"),
        num_classes=brought.outputs,
        input_shape=brought.shape,
        preprocess=Preprocess(mean=(0.5,), std=(0.25,)),
        structure=brought.structure,
    )
    network = network_from(spec)
    network.load_state_dict(brought.weights)
    images = torch.randn(2, *brought.shape, generator=torch.Generator().manual_seed(1))
    names = [info.name for info in modules_of(spec)]
    exact = sum(_is_exact(spec, brought, network.eval(), one, images) for one in names)
    line = ZooLine(modules=len(names), exact=exact, skips=_skips_in(module))
    checkpoint = save_checkpoint(brought.weights, spec, folder / "model.safetensors", stage="import")
    try:
        return line.model_copy(update=_road(checkpoint, folder, engines))
    except EdgeresError as err:
        return line.model_copy(update={"stopped": str(err)})


@torch.no_grad()
def _is_exact(spec: ModelSpec, brought: Brought, whole: Network, name: str, images: torch.Tensor) -> bool:
    cut = spec.without((name,))
    network = network_from(cut)
    network.load_state_dict(weights_without(brought.weights, cut))
    x = whole.stem(images)
    for one, unit in whole.units():
        x = unit.bypass(x) if one == name else unit(x)
    found = network.eval()(images)
    return torch.equal(found, whole.classify(whole.tail(x))) and not torch.equal(found, whole(images))


def _steady(make: Callable[[], nn.Module], images: torch.Tensor) -> nn.Module:
    """The module stirred, less and less until single precision is enough to say what it gives."""
    for share in (_STIR, _STIR / 4, _STIR / 16):
        module = _stirred(make(), share).eval()
        with torch.no_grad():
            exact = copy.deepcopy(module).double()(images.double())
            if (module(images) - exact).abs().max() <= _ROUNDING * exact.abs().max():
                break
    return module


def _stirred(module: nn.Module, share: float) -> nn.Module:
    """`module` with nothing left at 0 or 1, where libraries begin: of a branch that gives 0 nothing can be told."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(1 - 2.5 * share, 1 + 2.5 * share)
            elif tensor.is_floating_point() and tensor.std(correction=0) == 0:
                tensor.add_(torch.randn(tensor.shape), alpha=share)
    return module


def _road(checkpoint: Checkpoint, folder: Path, engines: bool) -> dict[str, object]:
    exported = export(checkpoint, ExportConfig(), folder / "float")
    data = _photos(folder / "photos", checkpoint.spec.input_shape[1])
    table = calibrate(exported.output, CalibrateConfig(data=data, images=40), folder / "scales").output
    done = quantize(exported.output, QuantizeConfig(scales=table.path, effort="quick"), folder / "int8")
    said = {
        "difference": exported.report.results["max_relative_difference"],
        "int8_layers": done.report.results["quantized_layers"],
        "findings": len(problems(lint(done.output.proto))),
    }
    return said | ({"engine_bytes": _engine_bytes(done.output, folder)} if engines else {})


def _engine_bytes(model: OnnxModel, folder: Path) -> int:
    config = CompileConfig(runtime="tensorrt-rtx", targets=("sm86",))
    return compile_engine(model, config, folder / "engine").output.size_bytes


def _photos(folder: Path, side: int) -> str:
    """As many classes of made-up images as the networks tell apart."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        for name in range(CLASSES):
            place = folder / split / str(name)
            place.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (side, side, 3)) + 13 * name
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return f"folder:{folder}"


def _skips_in(module: nn.Module) -> int | None:
    """The library's own count of blocks with a skip, where its blocks say so; None where they do not."""
    count = 0
    for one in module.modules():
        says = [bool(getattr(one, name)) for name in _SAYS_SO if isinstance(getattr(one, name, None), bool)]
        count += type(one).__name__ in _ALWAYS.split() or any(says[:1])
    return count or None


if __name__ == "__main__":
    sys.exit(main())
