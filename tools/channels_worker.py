"""Networks with other widths: thinned by Torch-Pruning, rebuilt, written as ONNX and timed.

`channels_figures.py` runs this file in an environment that has Torch-Pruning, and imports the rest in its own.

    python channels_worker.py whole.safetensors OUT --shortcut conv --variants inner-uniform-8,stages-global-8

A variant is scope-ranking-multiple. Scope `inner` thins what lies between the two convolutions of a module, `stages`
the width shared by all modules of a stage as well (the dependency graph does not follow option A's padding of
channels, so it needs --shortcut conv). Ranking `uniform` takes the same share of every group, `global` ranks the
channels of all groups together. Widths are multiples of the last number. Every ratio of the grid whose widths are new
is kept as OUT/VARIANT-PERCENT.safetensors: a state dict, rebuilt from its shapes by `network_of`.

Source: Fang et al. 2023, DepGraph, arXiv 2301.12900 (group L2 importance).
"""

from __future__ import annotations

import argparse
import copy
import io
import subprocess
import sys
import sysconfig
import venv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgeres.bench.measure import Turn
from edgeres.bench.session import measure_interleaved
from edgeres.bench.worker import Job
from edgeres.core.artifacts import CARD_KEY, Checkpoint
from edgeres.core.environment import environment
from edgeres.core.errors import StageError
from edgeres.core.files import written
from edgeres.core.metrics import Latency
from edgeres.core.spec import ModelSpec
from edgeres.graph.names import tidy
from edgeres.models import modules_of, network_from
from edgeres.models.family import ModuleInfo
from edgeres.models.network import Network, PadShortcut
from edgeres.models.own_networks import Residual
from edgeres.models.weights import fold_batch_norms, load_network

Weights = dict[str, Tensor]
_STEPS, _MOST = 16, 0.8  # ratios 0.05, 0.1, ... of the channels
_OPSET = 17
_LEFT = 0.1  # of a layer's channels stay whatever the ranking says, or a layer ends with one


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whole", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shortcut", choices=("conv", "pad"), required=True)
    parser.add_argument("--variants", required=True)
    options = parser.parse_args()
    checkpoint = Checkpoint(options.whole)
    network = load_network(checkpoint)
    if options.shortcut == "conv":
        with_convolutions(network, checkpoint.spec)
    for variant in options.variants.split(","):
        thin(copy.deepcopy(network), checkpoint.spec, variant, options.out)
    return 0


def thin(network: Network, spec: ModelSpec, variant: str, out: Path) -> None:
    """Prunes `network` step by step, the importance taken anew at each, and writes every set of widths met."""
    pruner = _pruner(network, spec, variant)
    seen = {widths_of(network)}
    for step in range(1, _STEPS + 1):
        pruner.step()
        if (widths := widths_of(network)) not in seen:
            seen.add(widths)
            percent = round(100 * _MOST * step / _STEPS)
            save_weights(network, out / f"{variant}-{percent:02d}.safetensors")


def _pruner(network: Network, spec: ModelSpec, variant: str) -> Any:
    import torch_pruning as tp  # type: ignore[import-not-found]  # in the worker's environment only

    scope, ranking, multiple = variant.split("-")
    return tp.pruner.BasePruner(
        network,
        torch.zeros(1, *spec.input_shape),
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=ranking == "global",
        pruning_ratio=_MOST,
        iterative_steps=_STEPS,
        max_pruning_ratio=1 - _LEFT,
        round_to=int(multiple),
        ignored_layers=_ignored(network, scope),
    )


def _ignored(network: Network, scope: str) -> list[nn.Module]:
    """Layers whose outputs keep their number: the classifier, and for `inner` all but the modules' first."""
    if scope == "stages":
        return [module for module in network.modules() if isinstance(module, nn.Linear)]
    inner = {unit.conv1 for _, unit in network.units() if hasattr(unit, "conv1")}
    return [
        module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in inner
    ]


def widths_of(network: Network) -> tuple[int, ...]:
    """Output channels of every convolution, in order."""
    return tuple(module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d))


def with_convolutions(network: Network, spec: ModelSpec) -> Network:
    """Replaces option A's padding by the 1x1 convolution that does the same, bit for bit, in place."""
    infos = {info.name: info for info in modules_of(spec)}
    for name, unit in network.units():
        if isinstance(unit, Residual) and isinstance(unit.downsample, PadShortcut):
            unit.downsample = _convolution_of(unit.downsample, infos[name])
    return network


def _convolution_of(pad: PadShortcut, info: ModuleInfo) -> nn.Conv2d:
    convolution = nn.Conv2d(info.in_channels, info.out_channels, 1, pad.stride, bias=False)
    nn.init.zeros_(convolution.weight)
    with torch.no_grad():
        for channel in range(info.in_channels):
            convolution.weight[pad.before + channel, channel] = 1
    return convolution


def network_of(weights: Weights, spec: ModelSpec) -> Network:
    """The network of `spec` with the widths of `weights`, and with their convolutions as option A's shortcuts."""
    network = network_from(spec)
    if any(f"{name}.downsample.weight" in weights for name, _ in network.units()):
        with_convolutions(network, spec)
    for name, module in list(network.named_modules()):
        if f"{name}.weight" in weights and weights[f"{name}.weight"].shape != module.weight.shape:
            network.set_submodule(name, _resized(module, weights[f"{name}.weight"]))
    network.load_state_dict(weights)
    return network.eval()


def _resized(module: nn.Module, weight: Tensor) -> nn.Module:
    """A layer like `module` for the shape of `weight`."""
    if isinstance(module, nn.Conv2d):
        size: Any = module.kernel_size
        return nn.Conv2d(weight.shape[1], len(weight), size, module.stride, module.padding, bias=False)  # type: ignore[arg-type]
    if isinstance(module, nn.BatchNorm2d):
        return nn.BatchNorm2d(len(weight))
    if isinstance(module, nn.Linear):
        return nn.Linear(weight.shape[1], len(weight))
    raise StageError(f"channels: a {type(module).__name__} cannot change its width")


def save_weights(network: nn.Module, path: Path) -> None:
    """The state dict as safetensors."""
    tensors = {key: tensor.detach().contiguous() for key, tensor in network.state_dict().items()}
    with written(path) as temporary:
        save_file(tensors, temporary)


def write_onnx(network: Network, whole: Checkpoint, path: Path) -> Path:
    """Batch 1, batch norms folded, as `edgeres export` writes it; the card, read for the input, is `whole`'s."""
    import onnx

    network = copy.deepcopy(network)
    fold_batch_norms(network)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the TorchScript exporter, as in edgeres.export
        torch.onnx.export(
            network,
            (torch.zeros(1, *whole.spec.input_shape),),
            buffer,  # type: ignore[arg-type]  # a file object is taken, the annotation forgets it
            dynamo=False,
            opset_version=_OPSET,
            input_names=["images"],
            output_names=["logits"],
        )
    model = tidy(onnx.load_from_string(buffer.getvalue()))
    model.metadata_props.add(key=CARD_KEY, value=whole.card.model_dump_json())
    with written(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return path


def latencies_of(paths: Sequence[Path], turn: Turn, *, rounds: int, threads: int) -> list[Latency]:
    """Batch-1 latencies of ONNX files, interleaved in one session."""
    jobs = [Job(path=path, batch=1, threads=threads) for path in paths]
    session, measured = measure_interleaved(jobs, turn, rounds=rounds, seed=0)
    return [
        Latency(
            samples_ms=one.samples_ms,
            rounds=tuple(len(samples) for samples in one.rounds),
            batch=1,
            runtime=one.ready.runtime,
            threads=threads,
            session=session,
            artifact=one.job.path.stem,
            warmup=one.ready.warmup,
            machine=environment().machine,
        )
        for one in measured
    ]


def python_with(requirement: str, folder: Path) -> Path:
    """The interpreter of a throw-away environment that has `requirement` on top of the present one's packages."""
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"making an environment with {requirement}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True)
        installed = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        (installed / "present.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", requirement]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise StageError(f"channels: cannot install {requirement}: {ran.stderr.strip().splitlines()[-1]}")
        (folder / "ready").touch()
    return python


if __name__ == "__main__":
    sys.exit(main())
