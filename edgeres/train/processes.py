"""Which processes train together: none but this one, or those torchrun started."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, reduce
from torch import Tensor

from edgeres.core.errors import DeviceError, EdgeresError, InputError
from edgeres.train.batches import Slice
from edgeres.train.config import LoopConfig, Precision

T = TypeVar("T")
_PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}


def accelerator_for(precision: Precision) -> Accelerator:
    """This process's device, CUDA first, and its group; raises DeviceError for fp16 or bf16 without a GPU."""
    device = _state().device.type
    if precision == "auto":
        has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "fp32" if device != "cuda" else "bf16" if has_bf16 else "fp16"
    elif precision != "fp32" and device == "cpu":
        raise DeviceError(f"--precision {precision} needs a GPU and there is none here; use fp32 or auto")
    return Accelerator(mixed_precision=_PRECISIONS[precision], cpu=device == "cpu")


def slice_for(config: LoopConfig, accelerator: Accelerator, *, is_shared: bool = True) -> Slice:
    """This process's part of the global batch, all or none unless it `is_shared`; raises InputError if it is uneven."""
    if not is_shared:
        return Slice(0, config.batch * accelerator.is_main_process, accelerator.device)
    each, rest = divmod(config.batch, accelerator.num_processes)
    if rest:
        raise InputError(
            f"a batch of {config.batch} does not divide by {accelerator.num_processes} processes; change it"
        )
    start = each * accelerator.process_index
    return Slice(start, start + each, accelerator.device)


def agreed(choose: Callable[[], T]) -> T:
    """What `choose` returns in the main process, told to all; its EdgeresError is raised in all."""
    box: list[Any] = [None, None]
    if _state().is_main_process:
        try:
            box = [choose(), None]
        except EdgeresError as err:
            box = [None, err]
    chosen, error = broadcast_object_list(box)
    if error is not None:
        raise error
    found: T = chosen
    return found


def own_of(count: int) -> range:
    """Which of `count` pieces of work are this process's; all of them if there are fewer than processes."""
    state = _state()
    return range(state.process_index, count, state.num_processes) if count >= state.num_processes else range(count)


def summed(ours: Tensor) -> Tensor:
    """What all processes have, added up: the same in all of them."""
    total: Tensor = reduce(ours, "sum")
    return total


def wait_for_all() -> None:
    """Returns once every process has come here."""
    _state().wait_for_everyone()


def is_main() -> bool:
    """Whether this process writes the files."""
    return bool(_state().is_main_process)


def _state() -> PartialState:
    """Joins the process group at the first call: NCCL on GPUs, gloo on CPUs if Accelerate is told so."""
    _leave_at_exit()
    return PartialState(cpu=not torch.accelerator.is_available())


@cache
def _leave_at_exit() -> None:
    """Leaves the group before the interpreter is taken down: gloo's threads abort a process that still holds them."""

    def leave() -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    atexit.register(leave)
