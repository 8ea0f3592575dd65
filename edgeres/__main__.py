"""The first thing that runs: a Ctrl-C while packages are imported ends edgeres in one line, too."""

import os
import signal
import time
from typing import NoReturn

_SAID = b"edgeres: interrupted; nothing was begun\n"
_INTERRUPTED = 130


def main() -> None:
    """Runs the command line and exits."""
    began_s = time.perf_counter()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
    from edgeres.cli.main import main as run

    run(began_s)


def _end(number: int, frame: object) -> NoReturn:
    os.write(2, _SAID)
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
