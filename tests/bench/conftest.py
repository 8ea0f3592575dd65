"""A board over real ssh."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def hosts():
    spec = importlib.util.spec_from_file_location("hosts", Path(__file__).with_name("hosts.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def host(hosts, tmp_path, monkeypatch):
    with hosts.serving(tmp_path, monkeypatch) as one:
        yield one


@pytest.fixture(scope="session")
def float_onnx(hosts, tmp_path_factory):
    return hosts.onnx_file(tmp_path_factory.mktemp("onnx"))
