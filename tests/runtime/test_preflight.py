"""Engines on machines they were and were not built for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgeres.core.errors import DeviceError, InputError
from edgeres.runtime.cuda import Gpu
from edgeres.runtime.manifest import EngineManifest, Host, check_runnable, this_host

ORIN = Host("linux aarch64", Gpu("sm87", "Orin", "12.6"), {"tensorrt": "10.3.0"})
PC = Host("linux x86_64", Gpu("sm89", "RTX 4090", "13.0"), {"tensorrt": "10.3.0.26", "tensorrt-rtx": "1.7.1.116"})
VERSIONS = {"tensorrt": (10, 3, 0, 26), "tensorrt-rtx": (1, 7, 1, 116)}


@pytest.fixture
def engine_of(tmp_path, manifest_values):
    """`engine_of("tensorrt", targets=("sm86",))`: a plan that is all header, with a manifest unless told otherwise."""

    def make(
        runtime: str = "tensorrt", *, version: tuple[int, ...] = (), manifest: bool = True, **values: object
    ) -> Path:
        version = version or VERSIONS[runtime]
        path = tmp_path / "model.plan"
        magic = b"ftrt" if runtime == "tensorrt" else b"vtrt"
        path.write_bytes(magic + bytes(20) + bytes(version) + bytes(36))
        if manifest:
            changes = {
                "runtime": runtime,
                "runtime_version": ".".join(map(str, version)),
                "targets": ("sm89",),
                "system": "linux x86_64",
                "gpu": "RTX 4090",
                "onnx_name": "net.int8.onnx",
                "plan_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            text = EngineManifest(**manifest_values | changes | values).model_dump_json()
            path.with_name("model.plan.json").write_text(text)
        return path

    return make


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_built_here_runs_here(runtime, engine_of):
    assert check_runnable(engine_of(runtime), PC) == ()


def test_a_version_with_fewer_numbers_is_the_same_version(engine_of):
    path = engine_of(version=(10, 3, 0, 30), targets=("sm87",), system="linux aarch64", gpu="Orin")
    assert check_runnable(path, ORIN) == ()


def test_an_rtx_engine_runs_under_another_operating_system(engine_of):
    assert check_runnable(engine_of("tensorrt-rtx"), Host("windows amd64", PC.gpu, PC.versions)) == ()


def refusal(path: Path, host: Host, runtime: str | None = None) -> str:
    with pytest.raises(DeviceError) as caught:
        check_runnable(path, host, runtime)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path} ")


COMPILE = "edgeres compile net.int8.onnx"
HERE = f"build one here: {COMPILE} --runtime tensorrt"


@pytest.mark.parametrize(
    ("values", "host", "reason", "way_out"),
    [
        (
            {"targets": ("sm86", "sm120"), "runtime": "tensorrt-rtx"},
            PC,
            "was built for sm86, sm120 by TensorRT-RTX and cannot run on sm89 (RTX 4090)",
            f"build one for here: {COMPILE} --targets sm89",
        ),
        ({"targets": ("sm86",)}, PC, "was built for sm86 by TensorRT and cannot run on sm89 (RTX 4090)", HERE),
        ({"version": (10, 13, 3, 9)}, PC, "was built with TensorRT 10.13.3.9 and cannot run with 10.3.0.26", HERE),
        ({}, ORIN, "was built on linux x86_64 and cannot run on linux aarch64", HERE),
        (
            {"runtime": "tensorrt-rtx"},
            ORIN,
            "is an engine of TensorRT-RTX, which is not installed here (TensorRT 10.3.0 cannot run it)",
            HERE,
        ),
        (
            {"runtime": "tensorrt-rtx"},
            Host("linux x86_64", PC.gpu, {"tensorrt": "10.3.0.26"}),
            "is an engine of TensorRT-RTX, which is not installed here (TensorRT 10.3.0.26 cannot run it)",
            HERE,
        ),
        (
            {},
            Host("linux x86_64", PC.gpu, {"tensorrt-rtx": "1.7.1.116"}),
            "is an engine of TensorRT, which is not installed here (TensorRT-RTX 1.7.1.116 cannot run it)",
            f"build one for here: {COMPILE} --targets sm89",
        ),
        (
            {},
            Host("linux x86_64", None, {"tensorrt": "10.3.0.26"}),
            "needs an NVIDIA GPU (sm89), and there is none here",
            (
                "run it where its GPU is; its accuracy can be judged here on its graph: edgeres eval net.int8.onnx"
                " --data DATA"
            ),
        ),
        (
            {"options": {"builder": "trtexec"}, "gpu": "Jetson Orin NX"},
            Host("linux x86_64", None, {}),
            "is an engine of TensorRT, which is not installed here (no other runtime either)",
            "a board built it (Jetson Orin NX) and runs it: edgeres bench {plan} --on NAME",
        ),
    ],
)
def test_an_engine_that_cannot_run_is_refused_with_the_way_out(values, host, reason, way_out, engine_of):
    engine = engine_of(**values)
    assert refusal(engine, host) == f"{reason}; {way_out.format(plan=engine)}"


@pytest.mark.parametrize(
    ("own", "asked", "message"),
    [
        ("tensorrt-rtx", "tensorrt", "is an engine of TensorRT-RTX, which TensorRT cannot run; build one here"),
        ("tensorrt", "tensorrt-rtx", "is an engine of TensorRT, which TensorRT-RTX cannot run; build one for here"),
    ],
)
def test_a_plan_given_to_the_other_runtime_is_refused(own, asked, message, engine_of):
    assert refusal(engine_of(own), PC, asked).startswith(message)


@pytest.mark.parametrize(
    ("built", "here", "runs"),
    [
        ((10, 3, 0, 26), "10.13.3.9", True),
        ((8, 6, 1, 6), "10.3.0", True),
        ((10, 3, 0, 26), "11.4.0.106", True),
        ((8, 6, 1, 6), "11.4.0.106", False),
        ((10, 13, 3, 9), "10.3.0", False),
    ],
)
def test_version_compatible_engines_run_on_later_versions(built, here, runs, engine_of):
    host = Host(PC.system, PC.gpu, {"tensorrt": here})
    path = engine_of(version=built, version_compatible=True)
    if runs:
        assert check_runnable(path, host) == ()
    else:
        assert "cannot run with" in refusal(path, host)
    assert "cannot run with" in refusal(engine_of(version=built), host)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("sm120", None),
        ("sm75", "cannot run on sm75"),
        ("sm87", "compatible with GPUs of a PC, not with sm87 (Jetson Orin)"),
    ],
)
def test_hardware_compatible_engines_run_from_ampere_on_and_on_no_jetson(target, message, engine_of):
    path = engine_of(targets=("sm86",), hardware_compatible="AMPERE_PLUS", gpu="RTX 3090")
    host = Host(PC.system, Gpu(target, "another", "13.0"), PC.versions)
    if message is None:
        assert "may be slower" in check_runnable(path, host)[0]
    else:
        assert message in refusal(path, host)


def test_another_gpu_of_the_architecture_is_a_remark(engine_of):
    assert check_runnable(engine_of(gpu="L4"), PC) == (
        "built on L4, run on RTX 4090: may be slower than one built here",
    )


def test_a_foreign_plan_is_judged_by_its_header(engine_of):
    assert "no manifest" in check_runnable(engine_of(manifest=False), PC)[0]
    assert "cannot run with 10.3.0.26" in refusal(engine_of(manifest=False, version=(8, 6, 1, 6)), PC)
    assert "edgeres compile MODEL.onnx" in refusal(engine_of("tensorrt-rtx", manifest=False), ORIN)


def test_a_manifest_of_another_plan_is_bad_input(engine_of):
    path = engine_of(plan_sha256="0" * 64)
    with pytest.raises(InputError, match="describes another plan"):
        check_runnable(path, PC)


def test_this_host_is_described_without_importing_a_runtime():
    host = this_host()
    assert host.system.startswith("linux ")
    assert set(host.versions) <= {"tensorrt", "tensorrt-rtx"}
