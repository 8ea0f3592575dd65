"""The command line, called in this process."""

from __future__ import annotations

import sys
from functools import partial

import pytest

from edgeres.cli.main import _run


@pytest.fixture
def aloud(monkeypatch, capfd):
    """`edgeres(...)` in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgeres", *map(str, arguments)])
        code = _run()
        out, err = capfd.readouterr()
        assert "\\u000a " not in out + err, "a newline and an indent of ours, taken for somebody else's"
        return code, out, err

    return run


@pytest.fixture
def edgeres(aloud):
    """The same with -q."""
    return partial(aloud, "-q")
