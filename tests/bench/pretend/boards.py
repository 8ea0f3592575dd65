"""What differs between the pretend boards: files, versions, power modes and the grammar of tegrastats.

Each is one board of that JetPack. Numbers are made up; names, versions and formats are those of the releases.
"""

BOARDS = {
    "4.6": {
        "model": "NVIDIA Jetson Nano Developer Kit",
        "compatible": ("nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,jetson-nano", "nvidia,tegra210"),
        "l4t": ("32", "7.1"),
        "cuda": "10.2",
        "tensorrt": [8, 2, 1, 8],
        "gpu_name": "NVIDIA Tegra X1",
        "capability": "5.3",
        "gpu": "57000000.gpu",
        "zones": ("CPU-therm", "GPU-therm"),
        "mhz": (921, 76, 921),
        "line": "nano_jp4",
        "watts": "POM_5V_IN 7312/",
        "clock": "97%@921",
        "modes": {"0": "MAXN", "1": "5W"},
        "now": 0,
        "reboots": [],
        "greeting": "NVPM WARN: fan mode is not set!\n",
        "packages": {"nvidia-jetpack": "4.6.1-b110", "libnvinfer-bin": "8.2.1-1+cuda10.2"},
        "events": "",
    },
    "5.1": {
        "model": "NVIDIA Jetson Xavier NX Developer Kit",
        "compatible": ("nvidia,p3509-0000+p3668-0000", "nvidia,p3668-0000", "nvidia,tegra194"),
        "l4t": ("35", "2.1"),
        "cuda": "11.4",
        "tensorrt": [8, 5, 2, 2],
        "gpu_name": "Xavier",
        "capability": "7.2",
        "gpu": "17000000.gv11b",
        "zones": ("CPU-therm", "GPU-therm"),
        "mhz": (1109, 114, 1109),
        "line": "xavier_nx_jp5",
        "watts": "VDD_IN 13820mW",
        "clock": "95%@1109",
        "modes": {"0": "MODE_15W_2CORE", "2": "MODE_15W_6CORE", "8": "MODE_20W_6CORE"},
        "now": 8,
        "reboots": [],
        "greeting": "",
        "packages": {"nvidia-jetpack": "5.1-b147", "libnvinfer-bin": "8.5.2-1+cuda11.4"},
        "events": "",
    },
    "6.2": {
        "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "compatible": ("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
        "l4t": ("36", "4.3"),
        "cuda": "12.6",
        "tensorrt": [10, 3, 0, 30],
        "gpu_name": "Orin",
        "capability": "8.7",
        "gpu": "17000000.gpu",
        "zones": ("cpu-thermal", "gpu-thermal", "tj-thermal"),
        "mhz": (624, 306, 1020),
        "line": "orin_nano_jp6",
        "watts": "VDD_IN 11479mW",
        "clock": "@[624]",
        "modes": {"0": "15W", "1": "25W", "2": "MAXN_SUPER", "3": "7W"},
        "now": 2,
        "reboots": [3],
        "greeting": "",
        "packages": {"nvidia-jetpack": "6.2+b77", "libnvinfer-bin": "10.3.0.30-1+cuda12.5"},
        "events": "sys/class/hwmon/hwmon2/oc1_event_cnt",
    },
    "7.2": {
        "model": "NVIDIA Jetson AGX Thor Developer Kit",
        "compatible": ("nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"),
        "l4t": ("39", "2.0"),
        "cuda": "13.2",
        "tensorrt": [10, 16, 2, 10],
        "gpu_name": "NVIDIA Thor",
        "capability": "11.0",
        "gpu": "gpu-gpc-0",
        "zones": ("cpu-thermal", "gpu-thermal", "tj-thermal"),
        "mhz": (1575, 315, 1575),
        "line": "thor_jp7",
        "watts": "VIN 84486mW",
        "clock": "@[1575,1575,1575]",
        "modes": {"0": "MAXN", "1": "120W"},
        "now": 0,
        "reboots": [],
        "greeting": "",
        "packages": {"nvidia-jetpack": "7.2-b1", "libnvinfer-bin": "10.16.2.10-1+cuda13.2"},
        "events": "sys/class/hwmon/hwmon2/oc1_event_cnt",
    },
}


def files_of(board: dict) -> dict[str, str]:
    """Path below the board's root -> text."""
    release, revision = board["l4t"]
    folder, gpu = f"usr/local/cuda-{board['cuda']}", f"sys/class/devfreq/{board['gpu']}"
    version = {
        "version.json": '{{"cuda": {{"name": "CUDA SDK", "version": "{}.11"}}}}'.format(board["cuda"]),
        "version.txt": f"CUDA Version {board['cuda']}.300\n",
    }
    kind = "version.txt" if board["cuda"].startswith("10.") else "version.json"
    now, low, high = (f"{mhz}750000\n" for mhz in board["mhz"])
    modes = "".join(f"< POWER_MODEL ID={number} NAME={name} >\n" for number, name in board["modes"].items())
    zones = [(f"sys/class/thermal/thermal_zone{place}", kind) for place, kind in enumerate(board["zones"])]
    return {
        **{f"{zone}/type": f"{kind}\n" for zone, kind in zones},
        **{f"{zone}/temp": f"{45000 + 1250 * place}\n" for place, (zone, _) in enumerate(zones)},
        "var/tmp/.keep": "",
        "proc/device-tree/model": board["model"] + "\0",
        "proc/device-tree/compatible": "".join(name + "\0" for name in board["compatible"]),
        "etc/nv_tegra_release": f"# R{release} (release), REVISION: {revision}, GCID: 1, BOARD: x, EABI: aarch64\n",
        "etc/nvpmodel.conf": modes,
        f"{folder}/{kind}": version[kind],
        f"{gpu}/cur_freq": now,
        f"{gpu}/min_freq": low,
        f"{gpu}/max_freq": high,
        "sys/class/hwmon/hwmon1/pwm1": "128\n",
        **({board["events"]: "3\n"} if board["events"] else {}),
    }
