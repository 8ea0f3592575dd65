"""What lint finds in ONNX Runtime's Q/DQ files, and what its repairs keep.

    edgeres import resnet20_cifar10jpeg.pt --arch resnet20 -o r20.safetensors
    edgeres export r20.safetensors --dynamic -o r20.onnx
    python tools/lint_figures.py r20.onnx --data folder:cifar10-jpeg
    python tools/lint_figures.py resnet18 resnet50

`quantize_static` makes twelve files of each network: two presets (its defaults; symmetric int8 and float biases, as
its documentation has it for TensorRT), three ways to calibrate, one scale for all channels of a weight or one for each.
Every file is linted, repaired and built by TensorRT-RTX for SM 86, 89 and 120 before and after. A trained network is
judged on val, both files as ONNX Runtime computes their Q/DQ literally; an architecture of torchvision has random
weights and sees random textures at 224 pixels: no accuracy, only the signal to noise ratio of its logits. Adds to --out
and leaves out what stands there.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from lint_cases import Case, Network, Results, file_of, network_from, render

from edgeres.compile.isolated import tried
from edgeres.core.artifacts import OnnxModel
from edgeres.core.config import record_from_json
from edgeres.core.errors import EdgeresError
from edgeres.core.files import write_text
from edgeres.core.metrics import Interval, paired_difference
from edgeres.quantize.lint.call import LintConfig, lint_call
from edgeres.quantize.repair.check import image_input_of, outputs_of, sqnr_db

CALIBRATIONS, PRESETS, PER_CHANNEL = ("minmax", "entropy", "percentile"), ("default", "tensorrt"), (False, True)
_ANY_DB = -1000.0  # what the repair reaches is to be seen, not to be refused


def main() -> int:
    """Returns the exit code."""
    options = _parser().parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    try:
        for name in options.networks:
            _add_network(name, options)
    except EdgeresError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    print(render(_known(options.out)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", help="float ONNX files of edgeres export, or resnet18, resnet50")
    parser.add_argument("--data", help="folder:PATH; needed for files")
    parser.add_argument("--images", type=int, default=128, help="of train, for calibration")
    parser.add_argument("--textures", type=int, default=16, help="for calibrating and judging random weights")
    parser.add_argument("--val", type=int, default=5000, help="of val")
    parser.add_argument("--only", nargs="*", choices=CALIBRATIONS, default=CALIBRATIONS)
    parser.add_argument("--work", type=Path, default=Path("runs/lint"), help="folder for the files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lint.json")
    return parser


def _known(out: Path) -> Results:
    return record_from_json(Results, out) if out.is_file() else Results(cases=())


def _add_network(name: str, options: argparse.Namespace) -> None:
    """Every case of one network, each written as soon as it is known."""
    network = None
    for calibration, preset, per_channel in itertools.product(options.only, PRESETS, PER_CHANNEL):
        known = _known(options.out)
        key = (Path(name).stem, preset, calibration, per_channel)
        if any(case.key == key for case in known.cases):
            continue
        network = network or network_from(name, options)
        case = _case(network, key, options.work)
        print(case.model_dump_json(), flush=True)
        write_text(options.out, Results(cases=(*known.cases, case)).model_dump_json(indent=1) + "\n")


def _case(network: Network, key: tuple[str, str, str, bool], work: Path) -> Case:
    name, preset, calibration, per_channel = key
    before = file_of(network, preset, calibration, per_channel=per_channel, work=work)
    report = lint_call(before, LintConfig(fix=True, images=8, tolerance_db=_ANY_DB), tried)
    assert report.repaired is not None
    after = Path(report.repaired.path)
    return Case(
        network=name,
        preset=preset,
        calibration=calibration,
        per_channel=per_channel,
        images=len(network.calibration),
        n=len(network.judged),
        findings=dict(Counter(f"{one.severity} {one.rule}" for one in report.source.findings)),
        builds=report.source.build_error is None,
        left=len(report.repaired.findings),
        repaired_builds=report.repaired.build_error is None,
        built_by=report.repaired.built_by,
        onnxruntime=_version("onnxruntime"),
        **_figures(network, before, after),
    )


def _figures(network: Network, before: Path, after: Path) -> dict[str, Any]:
    """SQNR against each other and against float; with labels top-1 and the paired change."""
    given = image_input_of(OnnxModel(network.path).proto, str(network.path)).showing(network.judged)
    found = [outputs_of(path, given)[0] for path in (network.path, before, after)]
    float_, old, new = found
    guesses = [one.reshape(len(one), -1).argmax(1) for one in found]
    figures: dict[str, Any] = {
        "sqnr_db": sqnr_db(old, new),
        "before_db": sqnr_db(float_, old),
        "after_db": sqnr_db(float_, new),
        "same_top1": float((guesses[1] == guesses[2]).mean()),
        "before_same_top1": float((guesses[0] == guesses[1]).mean()),
        "after_same_top1": float((guesses[0] == guesses[2]).mean()),
    }
    if network.labels is None:
        return figures
    right = [guess == network.labels for guess in guesses]
    for name, one in zip(("float_top1", "before_top1", "after_top1"), right, strict=True):
        figures[name] = float(one.mean())
    return figures | {"change_points": _points(right[1], right[2])}


def _points(before: Any, after: Any) -> Interval:
    change, half = (100 * value for value in paired_difference(before.tolist(), after.tolist()))
    return Interval(value=change, low=change - half, high=change + half)


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)


if __name__ == "__main__":
    sys.exit(main())
