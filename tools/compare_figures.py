"""How often `edgeres compare` is right: a model against itself, against one module less, and with a CPU hog.

    python tools/compare_figures.py --work FOLDER [--trials 20] [--arch resnet56] [--module layer2.4] [--any-load]

self     a file against itself: "faster" or "slower" is false
module   against the file without `--module`: "faster" is right
hog      as `module`, with a busy process started in the middle: "invalid" is right, and so is an interval that holds
         the speed seen without the hog (the median of `module`)

Weights are random, a latency depends on shapes alone. The three kinds take turns, so that none has the quiet hour for
itself. Writes tools/results/compare.json after every trial and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgeres.bench.versus import Versus, VersusConfig, versus
from edgeres.core.artifacts import Checkpoint, OnnxModel
from edgeres.core.files import write_text
from edgeres.export.stage import ExportConfig, export
from edgeres.models import network_from, spec_from_arch
from edgeres.models.weights import save_checkpoint

RESULTS = Path(__file__).parent / "results" / "compare.json"
KINDS = ("self", "module", "hog")
_COMMAND = "`python tools/compare_figures.py --work FOLDER`"
_HOG = "while True: pass"
_WORDS = ("faster", "slower", "not distinguishable", "open", "invalid")
_TITLES = tuple("undecided" if word == "open" else word for word in _WORDS)


def main() -> None:
    """Runs the trials that are missing and prints what all of them say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the two ONNX files")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--arch", default="resnet56")
    parser.add_argument("--module", default="layer2.4")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--any-load", action="store_true", help="pass verdicts on a busy machine too")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    whole, shorter = exported(options, ()), exported(options, (options.module,))
    values = {name: getattr(options, name) for name in ("sessions", "seconds", "threads", "any_load")}
    found = begun(options.out, {"arch": options.arch, "module": options.module, **values})
    for trial in range(options.trials):
        for kind in options.kinds:
            if len(found["trials"][kind]) <= trial:
                config = VersusConfig.model_validate({**values, "seed": 1000 * KINDS.index(kind) + 10 * trial})
                other = whole if kind == "self" else shorter
                row = trial_of(kind, [whole, other], config)
                found["trials"][kind].append(row)
                found["machine"] = row.pop("machine")
                write_text(options.out, json.dumps(found, indent=1) + "\n")
                print(f"{kind} {trial + 1}: {row['sentence']}", flush=True)
    print(render(found))


def exported(options: argparse.Namespace, dropped: tuple[str, ...]) -> OnnxModel:
    """The architecture without `dropped` as an ONNX file."""
    folder: Path = options.work / ("without-" + "-".join(dropped) if dropped else "whole")
    if (folder / "model.onnx").is_file():
        return OnnxModel(folder / "model.onnx")
    folder.mkdir(parents=True, exist_ok=True)
    spec = spec_from_arch(options.arch, num_classes=10).without(dropped)
    source: Checkpoint = save_checkpoint(
        network_from(spec).state_dict(), spec, folder / "model.safetensors", stage="random"
    )
    return export(source, ExportConfig(), folder).output


def begun(path: Path, conditions: dict[str, Any]) -> dict[str, Any]:
    """Trials made before under the same conditions, or none."""
    if path.is_file():
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if before["conditions"] == conditions:
            return before
    return {"conditions": conditions, "machine": "", "trials": {kind: [] for kind in KINDS}}


def trial_of(kind: str, models: list[OnnxModel], config: VersusConfig) -> dict[str, Any]:
    """One comparison: verdict, speed, interval and how busy the machine was."""
    start = time.perf_counter()
    expected_s = config.sessions * len(models) * config.seconds
    with hog_after(expected_s / 2 if kind == "hog" else None):
        found: Versus = versus(models, config)
    verdict = found.verdicts[0]
    return {
        "word": verdict.word,
        "sentence": verdict.sentence,
        "speed": verdict.speed.model_dump(),
        "busy_cores": found.busy_cores,
        "p50_ms": found.models[0].p50_ms.value,
        "seconds": round(time.perf_counter() - start, 1),
        "machine": found.environment.machine,
    }


@contextmanager
def hog_after(delay_s: float | None) -> Iterator[None]:
    """Keeps one core busy from `delay_s` seconds on until the block is left."""
    hogs: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        hogs.append(subprocess.Popen([sys.executable, "-c", _HOG]))

    timer = threading.Timer(delay_s, start) if delay_s is not None else None
    if timer:
        timer.start()
    try:
        yield
    finally:
        if timer:
            timer.cancel()
            timer.join()
        for hog in hogs:
            hog.kill()
            hog.wait()


def render(found: dict[str, Any]) -> str:
    """What all trials say, in Markdown."""
    conditions, trials = found["conditions"], found["trials"]
    lines = [f"| {' | '.join(('against', 'trials', *_TITLES, 'speed (median)'))} |", "| --- " * 8 + "|"]
    lines += [_row(what, trials[kind]) for kind, what in _whats(conditions["module"]).items() if trials[kind]]
    where = f"{conditions['arch']}, random weights, ONNX Runtime, batch 1, {found['machine']}"
    lines += ["", f"{where}; {_how(conditions)}: {_COMMAND}."]
    if trials["hog"] and trials["module"]:
        undisturbed = statistics.median(row["speed"]["value"] for row in trials["module"])
        right = sum(
            row["word"] == "invalid" or row["speed"]["low"] <= undisturbed <= row["speed"]["high"]
            for row in trials["hog"]
        )
        lines[-1] += (
            f" With the busy process {right} of {len(trials['hog'])} were invalid or their interval holds the"
            f" undisturbed {undisturbed:.3f}x."
        )
    return "\n".join(lines)


def _whats(module: str) -> dict[str, str]:
    less = f"one module less ({module})"
    return {"self": "itself", "module": less, "hog": f"{less}, a busy process started half way"}


def _how(conditions: dict[str, Any]) -> str:
    busy = ", verdicts on a busy machine too" if conditions["any_load"] else ""
    return f"{conditions['sessions']} sessions of {conditions['seconds']:g} s a model, the kinds took turns{busy}"


def _row(what: str, rows: list[dict[str, Any]]) -> str:
    words = [row["word"] for row in rows]
    speed = statistics.median(row["speed"]["value"] for row in rows)
    return f"| {what} | {len(rows)} | {' | '.join(str(words.count(word)) for word in _WORDS)} | {speed:.3f}x |"


if __name__ == "__main__":
    main()
