"""A network without some of its modules as a file, and trained back if asked for."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeres.core.artifacts import Checkpoint
from edgeres.core.errors import InputError
from edgeres.prune.config import ChoiceConfig


@dataclass(frozen=True)
class Cut:
    """`output` is what the stage hands on; the rest is what there is to say of how it was made."""

    output: Checkpoint
    results: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def cut_and_recovered(source: Checkpoint, dropped: tuple[str, ...], config: ChoiceConfig, path: Path) -> Cut:
    """`source` without `dropped`, and with `config.recover` the network trained back by its parent, at `path`.

    Interrupted, the same call goes on from what lies in the folder beside `path`, which is removed at the end.
    """
    from edgeres.models.weights import checkpoint_without, save_checkpoint

    if not config.recover:
        return Cut(checkpoint_without(source, dropped, path))
    from edgeres.prune.recover.stage import recovered

    folder = path.with_name(f".{path.stem}-recover")
    bare = checkpoint_without(source, dropped, folder / "dropped.safetensors")
    try:
        done = recovered(bare, source, config.recovery(), folder)
    except InputError:
        if list(folder.iterdir()) == [bare.path]:  # nothing to go on from
            shutil.rmtree(folder)
        raise
    output = save_checkpoint(done.weights, bare.spec, path, stage="prune", parent=source.sha256)
    shutil.rmtree(folder)
    said = (
        f"trained back by {', '.join(config.recover)}: {done.results['images']} train images, {done.results['steps']}"
        f" steps, {done.results['duration_s']:.0f} s"
    )
    return Cut(output, {"recovery": done.results}, (said, *done.notes), tuple(done.warnings))
