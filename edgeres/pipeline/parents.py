"""What a stage takes from the run or from what its source was made from.

So a pruned checkpoint finds its teacher, the network it was cut from, and a quantization its scale table.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

from edgeres.core.artifacts import Model
from edgeres.core.config import Config
from edgeres.core.errors import InputError
from edgeres.core.lineage import parents_of
from edgeres.core.plain import short
from edgeres.core.stage import REPORT_SUFFIX
from edgeres.pipeline.stages import STAGES, Made


def teacher_of(source: Model) -> Path:
    """The network that `source` was cut from; raises InputError if it is whole, or that is gone or told by none."""
    source.spec.check_cut(source.path)
    looked = [source.path]
    for parent in parents_of(source.path, source.sha256):
        if parent.stage == "prune" and parent.is_here:
            return parent.path
        if parent.stage == "prune":
            raise InputError(
                f"the teacher {parent.path} (sha256 {short(parent.sha256)}...), which {source.path} was cut from, is"
                " gone or has changed; name where it is now: --teacher FILE"
            )
        looked.append(parent.path)
    raise InputError(
        f"say which network {source.path} was cut from: --teacher FILE (looked for a report of the pruning in its run"
        f" and in {', '.join(f'{path}{REPORT_SUFFIX}' for path in dict.fromkeys(looked))})"
    )


def filled(stage: str, config: Config, source: Model | None, made: Sequence[Made]) -> Config:
    """`config` with the fields the stage takes from what was `made` before: scales of `source`, its teacher, ..."""
    if source is None:
        return config
    found: dict[str, Path | None] = {}
    for name in (name for name in STAGES[stage].fills if getattr(config, name) is None):
        if name == "scales":
            found[name] = _newest("calibrate", {source.sha256}, made)
        elif name == "latency":
            line = {source.sha256, *(parent.sha256 for parent in parents_of(source.path, source.sha256))}
            found[name] = _newest("latency", line, made)
        else:
            with nullcontext() if getattr(config, "imitates", False) else suppress(InputError):
                found[name] = teacher_of(source)
    return config.model_copy(update=found)


def _newest(stage: str, sources: set[str], made: Sequence[Made]) -> Path | None:
    """What the stage made last of one of `sources`, told by their sha256."""
    for folder, report in reversed(made):
        if folder.stage == stage and report.output and report.source and report.source.sha256 in sources:
            return folder.path / Path(report.output.path).name
    return None
