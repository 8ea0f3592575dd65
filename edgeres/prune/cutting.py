"""A network without some of its modules as a file, and trained back if asked for."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.prune.config import ChoiceConfig


@dataclass(frozen=True)
class Cut:
    """`output` is what the stage hands on; `recovery` what training back reported, empty if there was none."""

    output: Checkpoint
    recovery: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def cut(source: Checkpoint, dropped: Sequence[str], path: Path, *, stage: str = "prune") -> Checkpoint:
    """Writes `source` without `dropped` to `path`: the keys of these modules are gone, nothing else changes."""
    from edgeres.models.weights import load_weights, save_checkpoint, weights_without

    spec = source.spec.without(tuple(dropped))
    weights = weights_without(load_weights(source), spec)
    return save_checkpoint(weights, spec, path, stage=stage, parent=source.sha256)


def cut_and_recovered(source: Checkpoint, dropped: Sequence[str], config: ChoiceConfig, path: Path) -> Cut:
    """`cut`, and with `config.recover` the network trained back by its parent, at `path`.

    Interrupted, the same call goes on from what lies in the folder beside `path`, which is removed at the end.
    """
    if not config.recover:
        return Cut(cut(source, dropped, path))
    from edgeres.models.weights import save_checkpoint
    from edgeres.prune.recover import clear, recovered
    from edgeres.prune.start import START_NAME

    folder = path.with_name(f".{path.stem}-recover")
    bare = cut(source, dropped, folder / "dropped.safetensors")
    try:
        done = recovered(bare, source, config.recovery(), folder)
    except InputError:
        if not (folder / START_NAME).exists():
            shutil.rmtree(folder)
        raise
    output = save_checkpoint(done.weights, bare.spec, path, stage="prune", parent=source.sha256)
    clear(folder)
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()
    return Cut(output, done.results, tuple(done.notes), tuple(done.warnings))
