"""Networks, ONNX Runtime's quantized files of them and the table for `lint_figures.py`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeres.core.artifacts import OnnxModel
from edgeres.core.config import Record
from edgeres.core.errors import InputError
from edgeres.core.metrics import Interval
from edgeres.data import dataset_for
from edgeres.quantize.repair.check import texture

_SIDE = 224
_STATISTICS_BATCH = 16
_OPSET = 17
_HEAD = (
    "file",
    "TensorRT-RTX",
    "findings",
    "after repair",
    "top-1 %",
    "repaired",
    "change, points",
    "SQNR to float, dB",
    "repaired",
    "one against the other, dB",
)
Images = NDArray[np.float32]


@dataclass(frozen=True)
class Network:
    """A float ONNX file, images to calibrate on and to judge on, float32 (N, C, H, W), and labels if it was trained."""

    path: Path
    calibration: Images
    judged: Images
    labels: NDArray[np.int64] | None = None


class Case(Record):
    """One file of ONNX Runtime before and after repair.

    `findings` counts by severity and rule, `left` those of the repaired file. The `_db` are signal to noise ratios of
    the logits: of the repaired file against the unrepaired, and of both against float.
    """

    network: str
    preset: str
    calibration: str
    per_channel: bool
    images: int
    n: int
    findings: dict[str, int]
    builds: bool
    left: int
    repaired_builds: bool
    built_by: str | None
    onnxruntime: str
    sqnr_db: float
    before_db: float
    after_db: float
    same_top1: float
    before_same_top1: float
    after_same_top1: float
    float_top1: float | None = None
    before_top1: float | None = None
    after_top1: float | None = None
    change_points: Interval | None = None

    @property
    def key(self) -> tuple[str, str, str, bool]:
        """What it is a case of."""
        return self.network, self.preset, self.calibration, self.per_channel


class Results(Record):
    """Content of lint.json."""

    cases: tuple[Case, ...]


def network_from(name: str, options: argparse.Namespace) -> Network:
    """The float file `name` with images of --data, or torchvision's architecture with random weights and textures."""
    path = Path(name)
    if path.suffix != ".onnx":
        return _random_network(name, options)
    if options.data is None:
        raise InputError(f"{name}: a trained network is judged on images; name them with --data")
    spec = OnnxModel(path).spec
    dataset = dataset_for(spec, options.data)
    train, val = (
        split.sample(min(count, len(split)), 0)
        for split, count in ((dataset.train, options.images), (dataset.val, options.val))
    )
    calibration, _ = next(iter(train.batches(spec, len(train))))
    judged, labels = next(iter(val.batches(spec, len(val))))
    return Network(path, calibration, judged, np.asarray(labels))


def _random_network(arch: str, options: argparse.Namespace) -> Network:
    import torch
    import torchvision

    torch.manual_seed(0)
    images = texture((2 * options.textures, 3, _SIDE, _SIDE))
    network = getattr(torchvision.models, arch)(weights=None).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(torch.from_numpy(images[:_STATISTICS_BATCH]))
    options.work.mkdir(parents=True, exist_ok=True)
    path = Path(options.work, f"{arch}.onnx")
    example = torch.zeros(1, 3, _SIDE, _SIDE)
    torch.onnx.export(network.eval(), (example,), str(path), opset_version=_OPSET, dynamo=False, input_names=["x"])
    return Network(path, images[: options.textures], images[options.textures :])


def file_of(network: Network, preset: str, calibration: str, *, per_channel: bool, work: Path) -> Path:
    """The file `quantize_static` makes of `network`."""
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    presets: dict[str, dict[str, Any]] = {
        "default": {},
        "tensorrt": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    }
    channels = "channels" if per_channel else "tensor"
    path = work / f"{network.path.stem}-{preset}-{calibration}-{channels}.onnx"
    work.mkdir(parents=True, exist_ok=True)
    quantize_static(
        str(network.path),
        str(path),
        _reader(network),
        calibrate_method=methods[calibration],
        per_channel=per_channel,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options=presets[preset],
    )
    return path


def _reader(network: Network) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    name = onnx.load(network.path).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, Images]] = iter([{name: image[None]} for image in network.calibration])

        def get_next(self) -> dict[str, Images] | None:
            return next(self._feeds, None)

    return Reader()


def render(results: Results) -> str:
    """Markdown: one row a file, the conditions below; files that are those of minmax have no row of their own."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    same = {case.key for case in results.cases if _is_minmax(case, results)}
    lines += ["| " + " | ".join(_cells(case)) + " |" for case in results.cases if case.key not in same]
    about = _conditions(results)
    if same:
        about += (
            f" {len(same)} files by entropy are those of minmax: at its defaults ONNX Runtime's entropy clips nothing."
        )
    return "\n".join([*lines, "", about])


def _is_minmax(case: Case, results: Results) -> bool:
    """Whether every figure of an entropy file is that of the minmax file."""
    twin = case.model_copy(update={"calibration": "minmax"})
    return case.calibration == "entropy" and twin in results.cases


def _cells(case: Case) -> list[str]:
    channels = "per channel" if case.per_channel else "per tensor"
    findings = ", ".join(f"{count} {name.partition(' ')[2]}" for name, count in sorted(case.findings.items()))
    left = f"{'clean' if not case.left else f'{case.left} left'}, {'builds' if case.repaired_builds else 'refused'}"
    before, after = ("random" if top1 is None else f"{100 * top1:.2f}" for top1 in (case.before_top1, case.after_top1))
    change = case.change_points
    half = 0 if change is None else (change.high - change.low) / 2
    return [
        f"{case.network}, {case.preset}, {case.calibration}, {channels}",
        "builds" if case.builds else "refuses",
        findings,
        left,
        before,
        after,
        "" if change is None else f"{change.value:+.2f} ± {half:.2f}".replace("-", "−"),
        *(f"{value:.1f}".replace("-", "−") for value in (case.before_db, case.after_db, case.sqnr_db)),
    ]


def _conditions(results: Results) -> str:
    cases = results.cases
    trained = {case.network: case for case in cases if case.float_top1 is not None}
    random = {case.network: case for case in cases if case.float_top1 is None}
    judged = "; ".join(
        f"{name}: float {100 * (case.float_top1 or 0):.2f} %, {case.images} training images, n = {case.n:,} of val"
        for name, case in trained.items()
    )
    textures = "".join(
        f"; {name}: random weights, {case.images} textures of {_SIDE} pixels to calibrate, {case.n} others to judge"
        for name, case in random.items()
    )
    versions = ", ".join(sorted({f"ONNX Runtime {case.onnxruntime}" for case in cases}))
    builders = ", ".join(sorted({case.built_by for case in cases if case.built_by}))
    return (
        f"{judged}{textures}. Changes are paired. Files of {versions}, computed literally; built by {builders}:"
        " `python tools/lint_figures.py`."
    )
