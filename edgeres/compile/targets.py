"""What TensorRT-RTX builds engines for."""

from __future__ import annotations

from edgeres.core.errors import InputError, did_you_mean
from edgeres.runtime.gpu import JETSON_TARGETS, RTX_TARGETS


def check_rtx_targets(targets: tuple[str, ...]) -> None:
    """Raises InputError for an architecture TensorRT-RTX does not build for."""
    if not targets:
        raise InputError(f"no target given; known: {', '.join(RTX_TARGETS)}")
    for target in targets:
        if target in JETSON_TARGETS:
            raise InputError(
                f"target {target} is {JETSON_TARGETS[target]}, which TensorRT-RTX does not know; engines for"
                " a Jetson are built on the board: edgeres compile --runtime tensorrt"
            )
        if target not in RTX_TARGETS:
            guess = did_you_mean(target, RTX_TARGETS)
            raise InputError(f"unknown target {target!r}{guess} (known: {', '.join(RTX_TARGETS)})")
