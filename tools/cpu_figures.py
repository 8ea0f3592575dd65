"""INT8 on a CPU: an `ort-cpu` file against the float file and NNCF's, all fused by one ONNX Runtime.

    python -m venv nncf && nncf/bin/pip install nncf==3.4 onnx
    python tools/cpu_figures.py model.onnx --data folder:cifar10-jpeg --nncf-python nncf/bin/python

Every file comes from the same float graph and the same training images. Top-1 is on val, as the fused kernels compute
it, with the 95 % interval of the paired difference to float; so are the share of equal first guesses and the signal to
noise ratio of the logits. Latency is at batch 1, interleaved in one session; only ratios are kept. Ours stands with 8
and with 7 bits (`reduce_range`): x86 CPUs without VNNI or AMX need 7. `--without-vnni` hides both from ONNX Runtime
(see without_vnni.py), so that such a CPU is seen wherever one has gcc. Writes --out.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from pydantic import Field
from without_vnni import HIDDEN, environment_without_vnni, is_hidden

from edgeres.bench.stage import BenchConfig, measure
from edgeres.core.artifacts import CARD_KEY, OnnxModel
from edgeres.core.config import Config, Record, config_from
from edgeres.core.environment import cpu_flags, environment
from edgeres.core.errors import EdgeresError, StageError
from edgeres.core.files import write_text, written
from edgeres.core.metrics import Z_95, Interval, Latency, decibels, threads_text
from edgeres.core.progress import track
from edgeres.core.records.scales import ScaleTable, scale_table_from
from edgeres.core.statistics import ratio_interval
from edgeres.data import Split, dataset_for
from edgeres.quantize.calibrate import calibrate
from edgeres.quantize.config import CalibrateConfig
from edgeres.quantize.cpu import has_wide_sums
from edgeres.quantize.decision import Decision
from edgeres.quantize.placement import Options
from edgeres.quantize.profiles import quantized
from edgeres.runtime import runner_for
from edgeres.runtime.runner import Logits, RunnerOptions, infer_all

FLOAT, NNCF = "float", "NNCF"
OURS = {"off": "ort-cpu, 8-bit weights", "on": "ort-cpu, 7-bit weights"}
_HEAD = ("file", "top-1 %", "against float", "same first guess %", "SQNR dB", "latency / float", "latency / NNCF")
_SMALLEST_RATIO_DIGITS = 3
_OF_TAILS = "so p95 and p99 are those of disturbed calls"  # the table shows medians


class Settings(Config):
    """What the figures depend on."""

    data: str = Field(description="folder:PATH, digits, ...")
    images: int = Field(default=512, gt=0, description="of train, for calibration")
    method: str = Field(default="mse", description="calibrator of our bounds")
    val: int = Field(default=5000, gt=0, description="of val, the first ones after a stratified draw")
    threads: int = Field(default=1, gt=0, description="CPU threads")
    rounds: int = Field(default=60, gt=0, description="turns of every file")
    seconds: float = Field(default=12.0, gt=0, description="time for every file")


class Row(Record):
    """One file."""

    name: str
    top1: float
    change_points: Interval
    agreement: float
    sqnr_db: float | None
    to_float: Interval
    to_nncf: Interval


class Results(Record):
    """Content of cpu.json."""

    settings: Settings
    model: str
    n: int
    cpu: str
    without_vnni: bool = False
    reduce_range_auto: bool
    runtime: str
    nncf: str
    busy_cores: float | None
    warnings: tuple[str, ...]
    rows: tuple[Row, ...]


def main() -> int:
    """Returns the exit code."""
    options = vars(_parser().parse_args())
    source, nncf, work, out = (options.pop(name) for name in ("model", "nncf_python", "work", "out"))
    without_vnni = options.pop("without_vnni")
    try:
        if without_vnni and not is_hidden():
            os.execve(sys.executable, [sys.executable, *sys.argv], environment_without_vnni(work))
        settings = config_from(Settings, {key: value for key, value in options.items() if value is not None}, "options")
        results = results_of(OnnxModel(source), nncf, work, settings)
    except EdgeresError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    write_text(out, results.model_dump_json(indent=1) + "\n")
    print("\n".join(render(results)))
    return 0


def render(results: Results) -> list[str]:
    """Markdown, the conditions below."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in results.rows]
    settings = results.settings
    needs = "needs 7 bits" if results.reduce_range_auto else "is right with 8 bits"
    hidden = ", VNNI and AMX hidden from ONNX Runtime" if results.without_vnni else ""
    conditions = (
        f"{results.model}, {settings.images} training images, n = {results.n:,}; {results.runtime}, batch 1,"
        f" {threads_text(settings.threads)}, {results.cpu}{hidden} ({needs}); NNCF {results.nncf}."
    )
    of_medians = [warning for warning in results.warnings if _OF_TAILS not in warning]
    return [*lines, "", conditions, *(f"Warning: {warning}." for warning in of_medians)]


def _cells(row: Row) -> list[str]:
    change = row.change_points
    half = (change.high - change.low) / 2
    is_float = row.sqnr_db is None
    return [
        row.name,
        f"{100 * row.top1:.2f}",
        "" if is_float else f"{change.value:+.2f} ± {half:.2f}".replace("-", "−"),
        "" if is_float else f"{100 * row.agreement:.2f}",
        "" if row.sqnr_db is None else f"{row.sqnr_db:.1f}",
        "1" if is_float else _ratio(row.to_float),
        "1" if row.name == NNCF else _ratio(row.to_nncf),
    ]


def _ratio(ratio: Interval) -> str:
    digits = _SMALLEST_RATIO_DIGITS
    return f"{ratio.value:.{digits}f} ({ratio.low:.{digits}f} to {ratio.high:.{digits}f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="float ONNX file of edgeres export, batch 1")
    parser.add_argument("--nncf-python", type=Path, required=True, help="interpreter that has NNCF")
    parser.add_argument("--work", type=Path, default=Path("runs/cpu"), help="folder for the files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cpu.json")
    parser.add_argument("--without-vnni", action="store_true", help="as on an x86 CPU without VNNI and AMX")
    for name, field in Settings.model_fields.items():
        required = field.is_required()
        parser.add_argument(f"--{name}", required=required, help=f"{field.description}".replace("%", "%%"))
    return parser


def results_of(source: OnnxModel, nncf_python: Path, work: Path, settings: Settings) -> Results:
    """Quantizes, evaluates and times."""
    dataset = dataset_for(source.spec, settings.data)
    calibration = calibrate(source, _calibrate_config(settings), work / "scales").output
    table = scale_table_from(calibration.path)
    files = {FLOAT: source}
    files |= {name: _ours(source, table, settings, choice, work) for choice, name in OURS.items()}
    images = dataset.train.sample(min(settings.images, len(dataset.train)), 0)
    files[NNCF], version = _nncf(source, images, nncf_python, work)
    val = dataset.val.sample(min(settings.val, len(dataset.val)), 0)
    logits = {name: _logits(file, val, settings) for name, file in files.items()}
    bench = BenchConfig(threads=settings.threads, rounds=settings.rounds, seconds=settings.seconds, include_qdq=True)
    session = measure(list(files.values()), bench)
    latencies = dict(zip(files, session.latencies, strict=True))
    flags = set(cpu_flags()) - (HIDDEN if is_hidden() else set())
    return Results(
        settings=settings,
        model=source.spec.variant,
        n=len(val),
        cpu=environment().cpu,
        without_vnni=is_hidden(),
        reduce_range_auto=not has_wide_sums(flags, platform.machine()),
        runtime=latencies[FLOAT].runtime,
        nncf=version,
        busy_cores=session.around.busy_cores,
        warnings=session.warnings,
        rows=tuple(_row(name, logits, val.labels, latencies) for name in files),
    )


def _calibrate_config(settings: Settings) -> CalibrateConfig:
    return CalibrateConfig(data=settings.data, images=settings.images, methods=(settings.method,))


def _ours(source: OnnxModel, table: ScaleTable, settings: Settings, choice: Any, work: Path) -> OnnxModel:
    amax = {name: scale.amax[settings.method] for name, scale in table.tensors.items()}
    extremes = {name: (scale.minimum, scale.maximum) for name, scale in table.tensors.items()}
    model = quantized(source.proto, "ort-cpu", Decision(amax, extremes=extremes), Options(reduce_range=choice))
    return _stored(model, work / f"ort-cpu-reduced-{choice}.onnx")


def _nncf(source: OnnxModel, images: Split, python: Path, work: Path) -> tuple[OnnxModel, str]:
    """NNCF's file with our card in it, and NNCF's version."""
    inputs, made = work / "images.npy", work / "nncf-raw.onnx"
    batches = [batch for batch, _ in images.batches(source.spec, len(images))]
    with written(inputs) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(batches))
    script = Path(__file__).with_name("cpu_figures_nncf.py")
    command = [str(python), str(script), str(source.path), str(inputs), str(made)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise StageError(f"cpu: NNCF failed: {(ran.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    model = onnx.load(made)
    if not any(entry.key == CARD_KEY for entry in model.metadata_props):
        model.metadata_props.add(key=CARD_KEY, value=source.card.model_dump_json())
    return _stored(model, work / "nncf.onnx"), ran.stdout.strip().splitlines()[-1]


def _stored(model: onnx.ModelProto, path: Path) -> OnnxModel:
    with written(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return OnnxModel(path)


def _logits(model: OnnxModel, images: Split, settings: Settings) -> Logits:
    """As the fused kernels compute them."""
    found = []
    with runner_for(model, RunnerOptions(threads=settings.threads, literal_qdq=False)) as runner:
        for batch, _ in track(images.batches(model.spec, 250), f"eval {model.path.name}", -(-len(images) // 250)):
            found.append(infer_all(runner, batch))
    return np.concatenate(found)


def _row(name: str, logits: dict[str, Logits], labels: NDArray[Any], latencies: dict[str, Latency]) -> Row:
    ours, reference = logits[name], logits[FLOAT]
    right, before = ours.argmax(1) == labels, reference.argmax(1) == labels
    return Row(
        name=name,
        top1=float(right.mean()),
        change_points=_paired(right.astype(float) - before),
        agreement=float((ours.argmax(1) == reference.argmax(1)).mean()),
        sqnr_db=None if name == FLOAT else _sqnr_db(reference, ours),
        to_float=ratio_interval(latencies[FLOAT], latencies[name]),
        to_nncf=ratio_interval(latencies[NNCF], latencies[name]),
    )


def _paired(differences: NDArray[Any]) -> Interval:
    """Mean in points and its 95 % interval."""
    mean, half = 100 * float(differences.mean()), 100 * Z_95 * float(differences.std()) / len(differences) ** 0.5
    return Interval(value=mean, low=mean - half, high=mean + half)


def _sqnr_db(signal: Logits, other: Logits) -> float:
    noise = np.square(signal.astype(np.float64) - other).sum()
    return decibels(float(np.square(signal, dtype=np.float64).sum()), float(noise))


if __name__ == "__main__":
    sys.exit(main())
