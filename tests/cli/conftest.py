"""The command line, called in this process."""

from __future__ import annotations

import sys

import pytest

from edgeres.cli.main import _run


@pytest.fixture
def edgeres(monkeypatch, capfd):
    """`edgeres(...)` in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgeres", "-q", *map(str, arguments)])
        code = _run()
        out, err = capfd.readouterr()
        return code, out, err

    return run
