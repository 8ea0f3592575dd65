"""A float file to be sent to boards."""

import pytest


@pytest.fixture(scope="session")
def float_onnx(hosts, tmp_path_factory):
    return hosts.onnx_file(tmp_path_factory.mktemp("onnx"))
