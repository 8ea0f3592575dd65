"""The saved state of a training: tensors and plain values only, so that reading it back runs no code.

    state.pt   {"identity": {}, "step", "loss_sum", "rows", "network", "optimizer", "average", "scaler"}

`identity` is everything the result depends on. A state of another identity is put aside, never overwritten.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import torch

from edgeres.core.errors import InputError
from edgeres.core.files import write_bytes

STATE_NAME = "state.pt"
_OLD_NAME = "state.old.pt"
_log = logging.getLogger(__name__)

State = dict[str, Any]
Identity = dict[str, str]


def save_state(state: State, state_dir: Path) -> None:
    """Writes `state_dir`/state.pt, whole or not at all."""
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(state_dir / STATE_NAME, content.getvalue())


def load_state(state_dir: Path, identity: Identity) -> State | None:
    """The state to go on from; None if there is none or it is of another training (to be put aside).

    Raises InputError if it cannot be read.
    """
    path = state_dir / STATE_NAME
    if not path.exists():
        return None
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises RuntimeError, UnpicklingError, EOFError and others for damaged files
        raise InputError(f"{path} is damaged; remove it to start over") from err
    saved: Identity = state.get("identity", {})
    if saved == identity:
        return state
    keys = sorted(key for key in {*saved, *identity} if saved.get(key) != identity.get(key))
    difference = ", ".join(f"{key}: {saved.get(key)}, now {identity.get(key)}" for key in keys)
    _log.warning("%s is of another training (%s): starting over, keeping it as %s", path, difference, _OLD_NAME)
    return None


def put_aside(state_dir: Path) -> None:
    """Renames a state that must not be continued."""
    if (state_dir / STATE_NAME).exists():
        (state_dir / STATE_NAME).replace(state_dir / _OLD_NAME)


def clear_state(state_dir: Path) -> None:
    """Removes the state of a finished training."""
    (state_dir / STATE_NAME).unlink(missing_ok=True)
