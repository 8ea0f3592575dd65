"""What a stage takes from the run or from what its source was made from.

So a pruned checkpoint finds its teacher, the network it was cut from, and a quantization its scale table.
"""

from __future__ import annotations

import logging
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

log = logging.getLogger(__name__)


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
    """`config` with the fields the stage takes from what was `made` before: scales of `source`, its teacher, ...

    Says which newer table it passes over, that was made for another network.
    """
    if source is None:
        return config
    found: dict[str, Path | None] = {}
    for name in (name for name in STAGES[stage].fills if getattr(config, name) is None):
        if name == "scales":
            found[name] = _newest("calibrate", {source.sha256}, made, stage)
        elif name == "latency":
            line = {source.sha256, *(parent.sha256 for parent in parents_of(source.path, source.sha256))}
            found[name] = _newest("latency", line, made, stage)
        else:
            with nullcontext() if getattr(config, "imitates", False) else suppress(InputError):
                found[name] = teacher_of(source)
    return config.model_copy(update=found)


def _newest(maker: str, sources: set[str], made: Sequence[Made], stage: str) -> Path | None:
    """What `maker` made last of one of `sources`, told by their sha256; says which newer one `stage` leaves out."""
    tables = [
        (folder.path / Path(report.output.path).name, report.source)
        for folder, report in reversed(made)
        if folder.stage == maker and report.output and report.source
    ]
    found = next((path for path, source in tables if source.sha256 in sources), None)
    if found is not None and found != tables[0][0]:
        log.info("%s: leaves out %s, made for %s", stage, tables[0][0], tables[0][1].path)
    return found
