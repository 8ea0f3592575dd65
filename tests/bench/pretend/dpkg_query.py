"""A fake dpkg-query: the packages that name a JetPack."""

# ruff: noqa: T201 - a program
import json
from pathlib import Path

for name, version in json.loads((Path(__file__).resolve().parents[1] / "fake.json").read_text())["packages"].items():
    print(name, version)
