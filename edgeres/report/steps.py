"""What a stage did to the model, in a few words for the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edgeres.core.stage import StageReport


def step_text(report: StageReport) -> str:
    """For example `dropped layer2.1, layer3.4`; an empty string for a stage nothing is known of."""
    describe = _STEPS.get(report.stage)
    return describe(report) if describe else ""


def _import(report: StageReport) -> str:
    file = report.config.get("file")
    return f"{report.config.get('arch') or 'weights'}{_after(' from ', Path(str(file)).name if file else None)}"


def _train(report: StageReport) -> str:
    config = report.config
    return f"{config.get('arch', 'network')}{_after(' on ', config.get('data'))}{_epochs(report)}"


def _prune(report: StageReport) -> str:
    chosen = report.results.get("chosen")
    names = chosen if isinstance(chosen, list) else report.dropped
    methods = report.config.get("recover")
    back = _after(", trained back by ", ", ".join(map(str, methods)) if isinstance(methods, list) else None)
    return f"dropped {', '.join(str(name) for name in names)}{back}" if names else "dropped nothing"


def _recover(report: StageReport) -> str:
    epochs, methods = report.results.get("epochs"), report.results.get("methods")
    how = ", ".join(map(str, methods)) if isinstance(methods, list) else None
    return f"trained what is left{_after(' by ', how)}{_after(', ', f'{epochs:.3g} epochs' if epochs else None)}"


def _export(report: StageReport) -> str:
    batch = report.results.get("batch")
    return f"ONNX{_after(' opset ', report.results.get('opset'))}, batch {batch or 'open'}"


def _quantize(report: StageReport) -> str:
    return f"INT8 Q/DQ{_after(', calibrated by ', report.config.get('method'))}"


def _compile(report: StageReport) -> str:
    targets = report.results.get("targets") or report.config.get("targets")
    names = ", ".join(str(target) for target in targets) if isinstance(targets, (list, tuple)) else targets
    return f"engine{_after(' for ', names)}"


def _epochs(report: StageReport) -> str:
    epochs = report.config.get("epochs")
    return f", {epochs} epoch{'' if epochs == 1 else 's'}" if epochs is not None else ""


def _after(word: str, value: object) -> str:
    return f"{word}{value}" if value else ""


_STEPS: dict[str, Callable[[StageReport], str]] = {
    "import": _import,
    "train": _train,
    "prune": _prune,
    "recover": _recover,
    "export": _export,
    "quantize": _quantize,
    "compile": _compile,
}
