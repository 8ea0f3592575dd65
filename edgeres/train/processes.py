"""What training asks of a process: its device, and its part of every batch."""

from __future__ import annotations

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from edgeres.core import processes
from edgeres.core.errors import DeviceError, InputError
from edgeres.train.batches import Slice
from edgeres.train.config import LoopConfig, Precision

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


def _state() -> PartialState:
    """What Accelerate knows of the processes, found out again where others have come or gone since."""
    if processes.count() > 1:
        processes.join()
    if (PartialState._shared_state or {"num_processes": 1})["num_processes"] != processes.count():
        PartialState._shared_state, AcceleratorState._shared_state = {}, {}
    return PartialState(cpu=not torch.accelerator.is_available())
