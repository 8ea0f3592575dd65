"""The first thing that runs: a Ctrl-C or SIGTERM while packages are imported ends edgeres in one line, too."""

import os
import signal
import time
from typing import NoReturn

_SAID = b"edgeres: interrupted; nothing was begun\n"
_BY_SIGNAL = 128  # of an exit code


def main() -> None:
    """Runs the command line and exits."""
    began_s = time.perf_counter()
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is usual:
            signal.signal(number, _end)
    from edgeres.cli.main import main as run

    run(began_s)


def _end(number: int, frame: object) -> NoReturn:
    os.write(2, _SAID)
    os._exit(_BY_SIGNAL + number)


if __name__ == "__main__":
    main()
