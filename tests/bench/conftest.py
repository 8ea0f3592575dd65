"""A float file to be sent to boards, and what agents answer."""

import pytest

from edgeres.bench.board_answers import BoardFound, BuildDone, EvalDone, JobDone, MeasureDone

SHA256 = "0123456789abcdef" * 4
FOUND = {
    "model": "NVIDIA Jetson Orin Nano Developer Kit",
    "compatible": ["nvidia,p3768-0000+p3767-0005-super", "nvidia,tegra234"],
    "l4t": "36.4.3",
    "jetpack": "6.2",
    "packages": {"libnvinfer-bin": "10.3.0.30-1+cuda12.5"},
    "cuda": "12.6",
    "capability": "8.7",
    "power_mode": {"name": "MAXN_SUPER", "id": 2},
    "power_modes": {"15W": 0, "MAXN_SUPER": 2},
    "gpu_clock": {"mhz": 1020, "min_mhz": 306, "max_mhz": 1020, "is_locked": False},
    "fan": {"pwm": 80},
    "trtexec": "/usr/src/tensorrt/bin/trtexec",
    "tegrastats": "/usr/bin/tegrastats",
    "python": "3.10.12",
    "left": [],
}
WEIGHED = {
    "mj_per_image": 1.0,
    "mj_half_width": 0.4,
    "step_w": 0.001,
    "image_ms": 2.0,
    "idle_w": 1.0,
    "load_w": 2.0,
    "idle_samples": 20,
    "load_samples": 20,
    "source": "VDD_IN",
    "is_input": True,
    "is_partial": False,
}
HEAT = {
    "before_c": 40.5,
    "highest_c": 50,
    "after_c": 50,
    "temperature_source": "tegrastats",
    "gpu_mhz": {"lowest": 1020, "median": 1020, "highest": 1020},
    "samples": 100,
    "clock_source": "devfreq",
    "clock_unknown": None,
}
RESTORED = {"restored": ["a run that was killed had left the clocks locked: put back"]}
BUILT = {
    **RESTORED,
    "tensorrt": "10.3.0",
    "command": ["trtexec", "--onnx=m.onnx"],
    "facts": {"build_s": 3.5, "gpu": "Orin"},
    "warnings": ["w", "w"],
    "engine_sha256": SHA256,
    "engine_bytes": 1000,
    "is_strongly_typed": True,
}
MEASURED = {
    **RESTORED,
    "schema_version": 1,
    "board": {name: value for name, value in FOUND.items() if name != "left"},
    "clocks_locked": False,
    "tensorrt": "10.3.0",
    "gpu": "Orin",
    "command": ["trtexec", "--loadEngine=m.plan"],
    "batch": 1,
    "samples_ms": [1.25, 1.5],
    "p50_ms": 1.375,
    "p99_ms": 1.5,
    "images_per_s": 700.0,
    "energy": WEIGHED,
    "heat": HEAT,
    "damaged_samples": 0,
    "problems": [],
    "warnings": [],
    "profile": None,
    "layers": '{"Layers": []}',
}
JUDGED = {**RESTORED, "tensorrt": "10.3.0.30", "n": 2, "classes": 10, "logits_sha256": SHA256}


@pytest.fixture(scope="session")
def answers():
    """Record -> what an agent answers to that job."""
    return {BoardFound: FOUND, JobDone: RESTORED, BuildDone: BUILT, MeasureDone: MEASURED, EvalDone: JUDGED}


@pytest.fixture(scope="session")
def float_onnx(hosts, tmp_path_factory):
    return hosts.onnx_file(tmp_path_factory.mktemp("onnx"))
