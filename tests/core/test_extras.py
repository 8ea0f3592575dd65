from __future__ import annotations

import ast
from pathlib import Path

from edgeres.core.config import tomllib

ROOT = Path(__file__).parent.parent.parent


def test_what_a_missing_package_is_said_to_come_with_exists():
    """`require(package, extra)`: the extra that the error tells the user to install is one."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {
        call.args[1].value
        for path in (ROOT / "edgeres").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "require" and len(call.args) == 2
        if isinstance(call.args[1], ast.Constant)
    }
    assert {"train", "timm"} <= named <= extras.keys()
