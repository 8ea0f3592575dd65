"""A further Ctrl-C while Python ends is exit code 130 too, and no death by signal."""

import subprocess
import sys

import pytest

LATE = """
class Late:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGINT):
        kill(own, number)
late = Late()
"""
AT_EXIT = "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT) or [None for _ in range(9)])"


@pytest.mark.parametrize("again", [LATE, AT_EXIT], ids=["modules", "atexit"])
def test_a_further_interrupt_at_the_end_changes_no_exit_code(again):
    code = f"import atexit, os, signal\nfrom edgeres.cli import main\n{again}\nmain._run = lambda: 130\nmain.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")
