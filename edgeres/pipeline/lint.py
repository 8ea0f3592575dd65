"""`edgeres lint`: the rules, the repair and its numeric check, and a real build where TensorRT-RTX is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from edgeres.core.artifacts import OnnxModel
from edgeres.core.config import Config, Record, record_from_json
from edgeres.core.errors import InputError, StageError, require
from edgeres.core.files import write_text, written
from edgeres.core.names import lookup
from edgeres.quantize.lint.finding import Finding, problems
from edgeres.quantize.repair.check import DEEP_DB, TOLERANCE_DB, Agreement, agreement, needed_db

_BINDING = "tensorrt_rtx"
_TARGET = "sm86"
_OF_REPAIR = ("out", "data", "like", "images", "tolerance_db")
_BATCHES = (1, 8, 32)  # smallest, usual, largest of a dynamic graph, as `edgeres compile` has them


class LintConfig(Config):
    """What is checked besides the rules, and whether a repaired file is written."""

    fix: bool = Field(False, description="write a repaired file; the source is never touched")
    out: Path | None = Field(None, description="the repaired file; default: NAME.fixed.onnx beside the source")
    jetpack: str | None = Field(None, description="JetPack release it is for: 4.6, 5.1, 6.0, 6.2 or 7")
    build: bool = Field(True, description="parse and build with TensorRT-RTX where it is installed")
    data: str | None = Field(
        None, description="images for the numeric check (their train split); default: random textures"
    )
    like: Path | None = Field(None, description="model whose preprocessing the images get; default: the file's own")
    images: int = Field(32, gt=0, description="images of the numeric check")
    tolerance_db: float | None = Field(
        None,
        description=f"least SQNR of repaired against original outputs; default: {TOLERANCE_DB:g}, or {DEEP_DB:g} where"
        " both are as far from the float graph",
    )

    def check(self) -> None:
        """The release is known; options of the repair come with it."""
        from edgeres.quantize.lint.targets import JETPACKS

        if self.jetpack is not None:
            lookup(JETPACKS, self.jetpack, "JetPack release")
        given = [name for name in _OF_REPAIR if name in self.model_fields_set]
        if not self.fix and given:
            raise InputError(f"--{given[0].replace('_', '-')} belongs to a repair; add --fix")
        if self.out is not None and self.out.suffix != ".onnx":
            raise InputError(f"--out {self.out}: lint writes an .onnx file; name it so")
        if self.like and self.data is None:
            raise InputError("--like says how the images of --data are preprocessed; name them, or leave it out")


class Verdict(Record):
    """Of one file: findings, and what TensorRT-RTX said (`built_by` is None if it was not asked)."""

    path: str
    findings: tuple[Finding, ...]
    built_by: str | None = None
    build_error: str | None = None

    @property
    def is_clean(self) -> bool:
        """No errors, nothing slow, and it builds."""
        return not problems(self.findings) and self.build_error is None


class LintReport(Record):
    """`repaired` is None where nothing was written.

    `sqnr_db`: its outputs against the original's on `images`, at least `needed_db`; `top1_agreement` if they are real.
    """

    schema_version: int = 1
    quantized: bool
    source: Verdict
    repaired: Verdict | None = None
    notes: tuple[str, ...] = ()
    sqnr_db: float | None = None
    needed_db: float | None = None
    top1_agreement: float | None = None
    images: str | None = None

    @property
    def is_clean(self) -> bool:
        """Whether the file that counts, the repaired one if there is one, is clean."""
        return (self.repaired or self.source).is_clean


def lint_call(path: Path, config: LintConfig) -> LintReport:
    """Checks `path`, and with `config.fix` writes a repaired file.

    Raises:
        InputError: not a valid ONNX file, one without Q/DQ pairs (unless only its opset is to be checked against
            `config.jetpack`), or one that cannot be rewritten.
        StageError: the repaired graph computes something else; nothing is written.
    """
    from edgeres.quantize.lint import is_quantized

    config.check()
    model = checked_model(path)
    if not (quantized := is_quantized(model)) and (config.jetpack is None or config.fix):
        raise InputError(
            f"{path} has no Q/DQ pairs, it is a float file: there is nothing to lint; quantize it first, or check its"
            " opset with --jetpack"
        )
    report = LintReport(quantized=quantized, source=_verdict(path, model, config))
    if not config.fix or not any(finding.fixable for finding in report.source.findings):
        return report
    out = config.out or path.with_name(f"{path.stem}.fixed.onnx")
    if out.resolve() == path.resolve():
        raise InputError(f"{out} is the source; name another file with --out")
    return _repaired(path, out, model, config, report)


def checked_model(path: Path) -> Any:
    """The parsed model; raises InputError if it is no valid ONNX file."""
    checker = require("onnx", "onnx").checker
    model = OnnxModel(path).proto
    try:
        checker.check_model(str(path))
    except Exception as err:
        raise InputError(f"{path} is not a valid ONNX model: {' '.join(str(err).split())[:300]}") from err
    return model


def _repaired(path: Path, out: Path, model: Any, config: LintConfig, report: LintReport) -> LintReport:
    from edgeres.quantize.lint import lint
    from edgeres.quantize.repair import repair

    result = repair(model)
    if len(problems(lint(result.model))) >= len(problems(lint(model))):
        return report
    with written(out) as temporary:
        temporary.write_bytes(_serialized(result.model, path))
        checked_model(temporary)
        images, what = _images(path, config)
        agreed = agreement(path, temporary, images)
        needed = _needed_db(path, temporary, model, images, config)
        _refuse_worse(path, agreed, what, needed, is_real=config.data is not None)
    verdict = _verdict(out, result.model, config)
    update = {"repaired": verdict, "notes": result.notes, "images": f"{agreed.n} {what}", "needed_db": needed}
    top1 = agreed.top1 if config.data else None
    return report.model_copy(update={**update, "sqnr_db": agreed.sqnr_db, "top1_agreement": top1})


def _serialized(model: Any, path: Path) -> bytes:
    try:
        content: bytes = model.SerializeToString(deterministic=True)
    except ValueError as err:
        raise InputError(
            f"{path} is larger than an ONNX file without external data can be; it is not repaired"
        ) from err
    return content


def _needed_db(path: Path, repaired: Path, model: Any, images: Any, config: LintConfig) -> float:
    from edgeres.quantize.repair import without_pairs

    if config.tolerance_db is not None:
        return config.tolerance_db
    with tempfile.TemporaryDirectory(prefix="edgeres-") as folder:
        floats = Path(folder, "float.onnx")
        floats.write_bytes(_serialized(without_pairs(model), path))
        return needed_db(path, floats, repaired, images)


def _refuse_worse(path: Path, agreed: Agreement, what: str, needed: float, *, is_real: bool) -> None:
    if agreed.sqnr_db >= needed:
        return
    advice = (
        "calibrate and quantize the float model again: edgeres calibrate, edgeres quantize"
        if is_real
        else "random images may lie outside the ranges it was calibrated for: check it on real ones with --data"
    )
    raise StageError(
        f"lint: the repaired {path} computes something else: its outputs agree with the original's to"
        f" {agreed.sqnr_db:.1f} dB on {agreed.n} {what}, at least {needed:g} dB are needed; nothing was written;"
        f" {advice}"
    )


def _images(path: Path, config: LintConfig) -> tuple[Any, str]:
    """(images or their number, in words)."""
    if config.data is None:
        return config.images, "random images"
    from edgeres.core.artifacts import model_from
    from edgeres.data import dataset_for

    spec = (model_from(config.like) if config.like else OnnxModel(path)).spec
    dataset = dataset_for(spec, config.data)
    split = dataset.train.sample(min(config.images, len(dataset.train)), 0)
    images, _ = next(iter(split.batches(spec, len(split))))
    return images, f"images of {dataset.name} train"


def _verdict(path: Path, model: Any, config: LintConfig) -> Verdict:
    from edgeres.quantize.lint import lint

    verdict = Verdict(path=str(path), findings=lint(model, target=config.jetpack))
    if not config.build or importlib.util.find_spec(_BINDING) is None:
        return verdict
    version, error = _build(path)
    return verdict.model_copy(update={"built_by": version, "build_error": error})


def _build(path: Path) -> tuple[str, str | None]:
    """(who built, what was refused) of a build for one architecture, in a process that may crash."""
    from edgeres.compile.builder import BuildJob
    from edgeres.compile.worker import WorkerResult

    with tempfile.TemporaryDirectory(prefix="edgeres-") as folder:
        job_path, result_path = Path(folder, "job.json"), Path(folder, "result.json")
        job = BuildJob(
            module=_BINDING,
            onnx_path=str(path.resolve()),
            plan_path=str(Path(folder, "model.plan")),
            quantized=True,
            targets=(_TARGET,),
            batch=_BATCHES,
        )
        write_text(job_path, job.model_dump_json())
        command = [sys.executable, "-m", "edgeres.compile.worker", str(job_path), str(result_path)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        who = f"{_BINDING} for {_TARGET}"
        if done.returncode:
            return who, f"its process ended with code {done.returncode}"
        result = record_from_json(WorkerResult, result_path)
    if result.built is None:
        return who, "; ".join(filter(None, (result.error, *result.messages[:1])))
    return f"{_BINDING} {result.built.version} for {_TARGET}", None
