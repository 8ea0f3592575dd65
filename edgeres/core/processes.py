"""What the processes that torchrun started do together: the first executes the command, the others follow it.

A function made `together` is called by the first and, with the same arguments, by all others, which have waited.
Within it each process does its `own` part of the work and all are told of all parts (`shared`), so that what is put
together in the order of one process has that one's bits. Outside there is one process, as there is without torchrun.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from edgeres.core.errors import StageError

if TYPE_CHECKING:
    from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")
_NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK")  # of what torchrun tells a process
_LONGEST_WAIT = timedelta(days=7)  # the others wait for all that the first does by itself
_waiting: dict[str, str] = {}  # what torchrun told the first process, as long as the others wait


class ProcessLost(StageError, RuntimeError):
    """Another process has ended."""


def count() -> int:
    """How many processes are at work on this."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the first, which writes the files."""
    return _place() == 0


def own(pieces: Sequence[T], work: Sequence[float] = ()) -> list[T]:
    """This process's pieces, next to each other, with its share of all `work`, which is the same for each unless told.

    Those of all processes, in their order, are all pieces in order.
    """
    work = work or [1] * len(pieces)
    places = (int((end - took / 2) * count() / sum(work)) for end, took in zip(accumulate(work), work, strict=True))
    return [piece for piece, place in zip(pieces, places, strict=True) if place == _place()]


def shared(do: Callable[[], T]) -> list[T]:
    """What `do` gives in each process, in their order, told to all; the error of one is raised in all."""
    return _told(do) if count() > 1 else [do()]


def agreed(choose: Callable[[], T]) -> T:
    """What `choose` gives in the first process, which does it by itself, told to all; its error is raised in all."""

    def by_the_first() -> list[T]:
        with _told_by_torchrun({"WORLD_SIZE": "1"}):
            return [choose()]

    return shared(by_the_first if is_main() else list)[0][0]


def wait_for_all() -> None:
    """Returns once every process has come here."""
    shared(lambda: None)


def summed(ours: Tensor) -> Tensor:
    """What all processes have, added up: the same in all of them."""
    if count() == 1:
        return ours
    from torch import distributed

    join()
    total = ours.clone()
    distributed.all_reduce(total)
    return total


def together(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, done by all processes at once, each its part; the first gets what its own call gives.

    The others find it by its name and get copies of the arguments.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not _waiting or "WORLD_SIZE" in os.environ:  # all are here already
            return function(*args, **kwargs)
        with _told_by_torchrun(_waiting):
            _exchanged((function.__module__, function.__qualname__, args, kwargs))
            return _done(lambda: function(*args, **kwargs))

    return call


def lead() -> None:
    """From now on the other processes wait for what is done `together`, until `let_go`."""
    if count() > 1:
        _waiting.update(_taken())


def let_go() -> None:
    """Ends the other processes, those that are there."""
    if _waiting:
        with _told_by_torchrun(_waiting), contextlib.suppress(ProcessLost):
            _exchanged(None)


def follow() -> None:
    """Does this process's part of all that the first does together with it, saying nothing, until that lets it go."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # to the end
    while (job := _exchanged(None)[0]) is not None:
        with contextlib.suppress(Exception):  # it has been raised in the first, which says so
            _done(functools.partial(_called, *job))


def join() -> None:
    """Joins the group of all processes, which talk by gloo, and by NCCL about what is on GPUs."""
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        gpu = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        talks_by = distributed.Backend.default_device_backend_map
        backends = "cpu:gloo" if gpu is None else f"cpu:gloo,{gpu.type}:{talks_by[gpu.type]}"
        distributed.init_process_group(backends, timeout=_LONGEST_WAIT)
        atexit.register(distributed.destroy_process_group)  # gloo's threads would abort a process that is taken down


def _place() -> int:
    return int(os.environ.get("RANK", "0"))


def _called(module: str, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    return operator.attrgetter(name)(importlib.import_module(module))(*args, **kwargs)


def _done(do: Callable[[], T]) -> T:
    """What `do` gives here, once all are through."""
    found: list[T] = []
    _told(lambda: found.append(do()), is_end=True)
    return found[0]


def _told(do: Callable[[], T], *, is_end: bool = False) -> list[T]:
    value: T | None = None
    error: Exception | None = None
    try:
        value = do()
    except Exception as err:  # whatever it is, the others must not wait for this process
        error = err
    told = _exchanged((is_end, error, value))
    while is_end and not all(is_through for is_through, _, _ in told):  # one was told of an error before its end
        told = _exchanged((is_end, error, value))
    if error := error or next((one for _, one, _ in told if one is not None), None):
        raise error
    return [one for _, _, one in told]


def _exchanged(mine: Any) -> list[Any]:
    """What each process has, in their order."""
    from torch import distributed

    try:
        join()
        found = [None] * count()
        distributed.all_gather_object(found, mine)
    except RuntimeError as err:
        raise ProcessLost("another process that torchrun started has ended; torchrun says how") from err
    return found


@contextlib.contextmanager
def _told_by_torchrun(told: Mapping[str, str]) -> Iterator[None]:
    """Inside, this is what torchrun said."""
    before = _taken()
    os.environ.update(told)
    try:
        yield
    finally:
        _taken()
        os.environ.update(before)


def _taken() -> dict[str, str]:
    return {name: os.environ.pop(name) for name in _NAMES if name in os.environ}
