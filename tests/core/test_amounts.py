"""Amounts as people write them."""

import re
from pathlib import Path

import pytest

import edgeres
from edgeres.core.amounts import counted

# in a message, a number and what may be one of it; a few nouns stand for all, these numbers are never one
AS_MANY = (
    r"(?<!PAPER_MODULES)(?<!\.kind)(?<!figures)(\}|%d) (residual )?(modules|threads|epochs|seeds|sessions|warnings)\b"
)


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1 epoch"), (2, "2 epochs"), (0, "0 epochs"), (1.0, "1 epoch"), (0.5, "0.5 epochs")]
)
def test_one_is_no_plural(number, text):
    assert counted(number, "epoch") == text


def test_no_message_says_1_modules():
    files = [path for kind in ("*.py", "*.j2") for path in Path(edgeres.__file__).parent.rglob(kind)]
    found = [match[0] for path in files for match in re.finditer(AS_MANY, path.read_text(encoding="utf-8"))]
    assert found == []
