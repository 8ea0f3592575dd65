"""What one build gave, whether its manifest is complete, and the tables for `engine_figures.py`."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from edgeres.core.artifacts import Engine, OnnxModel
from edgeres.core.config import Record
from edgeres.core.files import sha256_of
from edgeres.report.wording import size
from edgeres.runtime.manifest import RTX_TARGETS, EngineManifest, manifest_of, plan_header

NO_GPU = "needs a GPU"
TOGETHER = ("sm86", "sm89", "sm120")  # the default of edgeres compile, which recipes take
PLACES = (*((target,) for target in RTX_TARGETS), TOGETHER)
Key = tuple[str, str, str, tuple[str, ...]]


class Source(Record):
    """A model to build: `weights` are trained or random, `input_shape` is (C, H, W), `onnx` the sha256 of each file."""

    arch: str
    dropped: tuple[str, ...]
    input_shape: tuple[int, int, int]
    weights: str
    onnx: dict[str, str]


class Build(Record):
    """One `edgeres compile`: `sentence` is why it was refused, `lacks` what its manifest lacks or has wrong.

    `build_s` is the builder's own time, `wall_s` the command's. `layers`: the inspector's headline, or what it needs.
    `warnings` are the builder's.
    """

    model: str
    precision: str
    batch: str
    targets: tuple[str, ...]
    command: str
    exit_code: int
    sentence: str | None = None
    size_bytes: int | None = None
    build_s: float | None = None
    wall_s: float
    lacks: tuple[str, ...] = ()
    layers: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """What it is a build of."""
        return self.model, self.precision, self.batch, self.targets

    @property
    def word(self) -> str:
        """Its cell in the table."""
        if self.exit_code:
            return "refused"
        return "ok" if not self.lacks else f"ok, manifest lacks {', '.join(self.lacks)}"


class Refusal(Record):
    """What the command line says of a plan that cannot run on a machine; `host` says in words which, real or not."""

    case: str
    host: str
    command: str
    exit_code: int
    sentence: str


class Results(Record):
    """Content of engines.json."""

    machine: str
    builder: str
    edgeres: str
    sources: dict[str, Source] = Field(default_factory=dict)
    builds: tuple[Build, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def lacks(plan: Path, onnx: Path, targets: tuple[str, ...], precision: str) -> tuple[str, ...]:
    """Which facts the manifest of `plan` lacks or has wrong; raises InputError if it has none or another plan's."""
    engine, source = Engine(plan), OnnxModel(onnx)
    manifest, written = manifest_of(engine), json.loads(engine.manifest_path.read_text(encoding="utf-8"))
    header, spec = plan_header(plan), source.spec
    images = source.batch if source.batch is not None else -1
    facts = {
        "inputs": manifest.inputs == {"images": (images, *spec.input_shape)},
        "outputs": manifest.outputs == {"logits": (images, spec.num_classes)},
        "types": manifest.dtypes == dict.fromkeys((*manifest.inputs, *manifest.outputs), "FLOAT"),
        "batches": manifest.batch == ((1, 8, 32) if source.batch is None else (source.batch,) * 3),
        "architectures": manifest.targets == targets,
        "version": (manifest.runtime, manifest.runtime_version) == (header.runtime, header.version),
        "CUDA": bool(manifest.cuda) and bool(manifest.system),
        "flags": manifest.strongly_typed is True and "flags" in written and "tf32" in manifest.options,
        "precision": manifest.precision == precision,
        "ONNX": (manifest.onnx_name, manifest.onnx_sha256) == (onnx.name, sha256_of(onnx)),
        "plan": manifest.plan_sha256 == sha256_of(plan),
        "lineage": _descends(manifest, source),
        "build seconds": manifest.build_s > 0,
        "layers": "layers" in written and (manifest.layers is None) == (manifest.gpu is None),
    }
    return tuple(name for name, holds in facts.items() if not holds)


def _descends(manifest: EngineManifest, source: OnnxModel) -> bool:
    """Whether the card names the stage, its parent (which names its own) and the network that was built."""
    card = manifest.card
    told = card.stage == "compile" and card.parent == source.sha256 and bool(card.edgeres)
    return told and source.card.parent is not None and card.spec == source.spec


def render(results: Results) -> str:
    """Markdown: one row for each model, precision and batch, a column for each architecture; then what was refused."""
    titles = ("model", "graph, batch", *(_heading(place) for place in PLACES), "plan", "build, s")
    lines = [_row(titles), "|" + " --- |" * len(titles)]
    rows = dict.fromkeys(build.key[:3] for build in results.builds)
    lines += [_row(_cells(row, results.builds)) for row in rows]
    lines += ["", _about(results), ""]
    if results.refusals:
        lines += [_row(("a plan", "given to", "edgeres says", "exit code")), "|" + " --- |" * 4]
        lines += [_row((one.case, one.host, one.sentence, str(one.exit_code))) for one in results.refusals]
        lines += ["", _pretence(results.refusals)]
    return "\n".join(lines).rstrip()


def _heading(place: tuple[str, ...]) -> str:
    names = " + ".join(target.removeprefix("sm") for target in place)
    return f"SM {names}"


def _cells(row: tuple[str, str, str], builds: Iterable[Build]) -> list[str]:
    found = {build.targets: build for build in builds if build.key[:3] == row}
    built = [build for build in found.values() if not build.exit_code]
    sizes = [build.size_bytes or 0 for build in built]
    seconds = [build.build_s or 0.0 for build in built]
    return [
        row[0],
        f"{row[1].upper().replace('+', ' + ')}, {row[2]}",
        *(found[place].word if place in found else "not built" for place in PLACES),
        " to ".join(dict.fromkeys((size(min(sizes)), size(max(sizes))))) if sizes else "",
        f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f}), n = {len(seconds)}"
        if seconds
        else "",
    ]


def _about(results: Results) -> str:
    built = [build for build in results.builds if not build.exit_code]
    complete = sum(not build.lacks for build in built)
    refused = [build for build in results.builds if build.exit_code]
    layers = Counter(build.layers for build in built)
    random = [name for name, source in results.sources.items() if source.weights == "random"]
    notes = f" {', '.join(random)} has random weights." if random else ""
    return (
        f"Rows: graph and images per call. n = {len(results.builds)} calls of `edgeres compile`, one per cell,"
        f" {results.builder}, {results.machine}, other work running: {len(built)} built, {complete} of them with a"
        f" complete manifest, {len(refused)} refused.{_reasons(refused)} Seconds: the builder's own, median and range"
        f" of a row's builds. Layer precision: {', '.join(f'{name}, {count} plans' for name, count in layers.items())}."
        f"{_warned(built)} None of these plans was run.{notes} `python tools/engine_figures.py`."
    )


def _warned(built: Iterable[Build]) -> str:
    """What the builder warns of, numbers left out, with the number of plans."""
    said = Counter(re.sub(r" \(\d+ times\)", "", text) for build in built for text in build.warnings)
    if not said:
        return ""
    return " Warnings: " + "; ".join(f'"{text.rstrip(".")}" of {count} plans' for text, count in said.items()) + "."


def _reasons(refused: Iterable[Build]) -> str:
    """Each sentence once, files' names left out; it ends in what to do, which is counted apart."""
    reasons: dict[str, Counter[str]] = {}
    for build in refused:
        onnx = build.command.split()[2]
        reason, _, way_out = (build.sentence or "").replace(onnx, "FILE").rpartition("; ")
        reasons.setdefault(reason, Counter())[way_out] += 1
    quoted = []
    for reason, ways in reasons.items():
        ends = ", ".join(f'"{way_out}" ({count})' for way_out, count in ways.items())
        quoted.append(f' Refused, {ways.total()} builds: "{reason}"; it ends with {ends}.')
    return "".join(quoted)


def _pretence(refusals: tuple[Refusal, ...]) -> str:
    real = sum("this machine" in one.host for one in refusals)
    return (
        f"`edgeres eval PLAN`, n = {len(refusals)} calls. {real} of these hosts is the machine that built, the"
        " others are pretend hosts: edgeres was told which GPU and which TensorRT it finds there; command line and"
        " refusal are real. The plans of TensorRT are pretend ones, made of a header and a manifest:"
        " `python tools/engine_preflight.py`."
    )


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
