"""The figure of "VGG collapses when a layer goes, a residual network does not": trains both, lesions both.

    python tools/collapse_figure.py --data folder:cifar10-jpeg --epochs 2
    python tools/collapse_figure.py --data digits --arch resnet56 --epochs 15 --out somewhere/else

Both networks see the same images for the same number of epochs with the same options and seed; nothing is chosen on
val. Writes OUT/collapse.svg and OUT/collapse.json (tools/results by default); trained networks are kept in --work and
used again. `edgeres study lesion RESNET --control VGG` draws the same figure.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import edgeres
from edgeres.core.artifacts import Checkpoint
from edgeres.core.config import record_from_json
from edgeres.core.files import write_text
from edgeres.core.stage import REPORT_NAME, StageReport, write_report
from edgeres.study.config import LesionConfig
from edgeres.study.lesion import lesion
from edgeres.study.lesion_table import LesionTable
from edgeres.train.config import TrainConfig
from edgeres.train.stage import MODEL_NAME, train

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Returns the exit code."""
    options = _options()
    residual, control = (_trained(arch, options) for arch in (options.arch, options.control))
    config = LesionConfig(
        data=options.data, images=options.images, draws=options.draws, seed=options.seed, control=control.path
    )
    folder = options.work / "lesion"
    table = record_from_json(LesionTable, lesion(residual, config, folder).output.path)
    write_text(options.out / "collapse.svg", (folder / "lesions.svg").read_text(encoding="utf-8"))
    write_text(options.out / "collapse.json", json.dumps(_facts(table, options), indent=1) + "\n")
    for claim in table.claims:
        print(f"{claim.claim}: {claim.verdict}; {claim.because}")
    print(options.out / "collapse.svg")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--arch", default="resnet56")
    parser.add_argument("--control", default="vgg11")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--images", type=int, default=None, help="of val; default: all")
    parser.add_argument("--draws", type=int, default=8, help="random sets for each number of modules")
    parser.add_argument("--work", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _trained(arch: str, options: argparse.Namespace) -> Checkpoint:
    """The finished network of an earlier call with the same options, or a new one."""
    config = TrainConfig(
        arch=arch,
        data=options.data,
        epochs=options.epochs,
        lr=options.lr,
        seed=options.seed,
        threads=options.threads,
    )
    folder = options.work / arch
    report = folder / REPORT_NAME
    if report.is_file() and record_from_json(StageReport, report).config == config.model_dump(mode="json"):
        return Checkpoint(folder / MODEL_NAME)
    print(f"training {arch} for {options.epochs} epochs on {options.data}", file=sys.stderr)
    result = train(None, config, folder)
    write_report(result.report, report)
    return result.output


def _facts(table: LesionTable, options: argparse.Namespace) -> dict[str, Any]:
    """What the figure shows and where it comes from."""
    return {
        "edgeres": edgeres.__version__,
        "training": {name: getattr(options, name) for name in ("data", "arch", "control", "epochs", "lr", "seed")},
        "lesions": table.model_dump(mode="json", exclude={"sets"}),
    }


if __name__ == "__main__":
    sys.exit(main())
