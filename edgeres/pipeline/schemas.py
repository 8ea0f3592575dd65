"""Every JSON that edgeres writes, by name: which record it holds and where it is found."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel

from edgeres.core.config import json_schema_of
from edgeres.core.names import lookup, resolve


class Schema(NamedTuple):
    """`record` as "module:class"; `found` says in which file, or what prints it."""

    record: str
    found: str

    def kind(self) -> type[BaseModel]:
        """The class of the content."""
        kind: type[BaseModel] = resolve(self.record)
        return kind


SCHEMAS = {
    "stage-report": Schema("edgeres.core.stage:StageReport", "NN-STAGE/report.json, eval.json, FILE.report.json"),
    "run-report": Schema("edgeres.report.summary:RunSummary", "runs/NAME/report.json"),
    "card": Schema("edgeres.core.spec:Card", "metadata of .safetensors and .onnx files, key edgeres"),
    "manifest": Schema("edgeres.runtime.manifest:EngineManifest", "FILE.plan.json"),
    "scales": Schema("edgeres.core.records.scales:ScaleTable", "scales.json of calibrate"),
    "lesions": Schema("edgeres.study.lesion_table:LesionTable", "lesions.json of lesion"),
    "latencies": Schema("edgeres.core.records.latency:LatencyTable", "latency.json of bench --per-module"),
    "study": Schema("edgeres.study.result:Study", "study.json of study"),
    "sweep": Schema("edgeres.core.records.sweep:Sweep", "sweep.json of prune --sweep"),
    "frontier": Schema("edgeres.core.records.frontier:Frontier", "frontier.json of optimize"),
    "gate": Schema("edgeres.report.gate:GateReport", "gate --json"),
    "changes": Schema("edgeres.report.changes:RunChanges", "compare RUN RUN --json"),
    "versus": Schema("edgeres.bench.versus:Versus", "compare MODEL MODEL --json"),
    "rerun": Schema("edgeres.pipeline.rerun:Rerun", "rerun --json"),
    "lint": Schema("edgeres.quantize.lint.call:LintReport", "lint --json"),
    "agreement": Schema("edgeres.evaluate.agreement:Agreement", "agree --json, agree.json"),
    "layers": Schema("edgeres.compile.layer_report:LayerReport", "layers --json"),
    "diagnosis": Schema("edgeres.core.environment:Diagnosis", "doctor --json"),
    "board": Schema("edgeres.bench.board_answers:BoardFound", "board check --json"),
    "board-diagnosis": Schema("edgeres.bench.board_facts:BoardDiagnosis", "doctor --on NAME --json"),
}

_BY_KIND = ("scales", "lesions", "latencies", "study", "sweep", "frontier")
_BY_FIELDS = {
    "stage-report": {"stage", "config", "environment"},
    "run-report": {"run", "rows", "headline"},
    "manifest": {"card", "plan_sha256"},
}


def schema_named(name: str) -> dict[str, Any]:
    """The JSON Schema called `name`; raises InputError if there is none."""
    return json_schema_of(lookup(SCHEMAS, name, "schema").kind(), name)


def schema_in(content: Any) -> str | None:
    """The schema of parsed JSON, told by its `kind` or its fields; None if it is none of those in files."""
    if not isinstance(content, dict):
        return None
    if (kind := content.get("kind")) is not None:
        return kind if isinstance(kind, str) and kind in _BY_KIND else None
    return next((name for name, fields in _BY_FIELDS.items() if fields <= content.keys()), None)
