import subprocess
import sys

import pytest
from click.testing import CliRunner

from edgeres.bench.devices import device_from, device_of, devices
from edgeres.cli.show import ls
from edgeres.core.errors import InputError
from edgeres.core.jetpacks import RELEASES

GOOD = 'title = "X"\nkind = "jetson"\ntarget = "sm87"\nmodels = ["X"]\nint8 = "none"\nsources = ["a page"]\n'


def test_the_catalogue_holds_every_device_of_the_plan():
    jetsons = {"nano", "tx2", "xavier-nx", "agx-xavier", "orin-nano-4gb", "orin-nano-8gb", "orin-nano-super", "thor"}
    jetsons |= {"orin-nx-8gb", "orin-nx-16gb", "agx-orin-32gb", "agx-orin-64gb"}
    assert {f"jetson-{name}" for name in jetsons} <= devices().keys()
    assert {"t4", "a2", "l4", "a10", "a100", "h100", "rtx-3090", "rtx-4090", "rtx-5090"} <= devices().keys()


def test_a_peak_says_what_it_counts():
    for device in devices().values():
        assert bool(device.int8_tops) == bool(device.int8_tops_is), device.name
        assert bool(device.fp16_tflops) == bool(device.fp16_tflops_is), device.name


def test_what_has_no_int8_claims_no_peak():
    for device in devices().values():
        if device.int8 == "none":
            assert device.int8_tops is None, device.name


def test_only_jetsons_have_a_soc_and_jetpacks():
    for device in devices().values():
        assert (device.kind == "jetson") == bool(device.soc and device.jetpack), device.name


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("NVIDIA Jetson Nano Developer Kit", "jetson-nano"),
        ("NVIDIA Orin Nano Developer Kit", "jetson-orin-nano-8gb"),
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "jetson-orin-nano-super"),
        ("NVIDIA Jetson Xavier NX Developer Kit", "jetson-xavier-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin-64gb"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "jetson-thor"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_a_machine_is_known_by_the_name_it_gives_itself(model, name):
    assert device_of(model).name == name


@pytest.mark.parametrize("model", ["Raspberry Pi 5", "NVIDIA T400", "RTX A2000", "NVIDIA A1000", "ThorServer"])
def test_an_unknown_machine_is_none(model):
    assert device_of(model) is None


def test_jetpacks_of_devices_are_those_of_the_one_table():
    known = {release.name for release in RELEASES}
    for device in devices().values():
        for jetpack in device.jetpack:
            assert any(f"{name}.".startswith(f"{jetpack}.") for name in known), (device.name, jetpack)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("sm87", "87"), "target: String should match"),
        (('["a page"]', "[]"), "sources is empty"),
        (('"jetson"', '"phone"'), "kind: "),
        (('"none"', '"none"\nint8_top = 3'), "unknown key 'int8_top'; did you mean"),
        (("title", "title ="), "not valid TOML"),
    ],
)
def test_a_damaged_device_file_is_named_with_its_key(tmp_path, change, message):
    path = tmp_path / "x.toml"
    path.write_text(GOOD)
    assert device_from(path).name == "x"
    path.write_text(GOOD.replace(*change, 1))
    with pytest.raises(InputError, match=message) as caught:
        device_from(path)
    assert "x.toml" in str(caught.value)


def test_ls_devices_lists_them():
    out = CliRunner().invoke(ls, ["devices"]).output
    assert "Jetson Orin Nano 8 GB, sm87, INT8 40 TOPS (sparse), 68 GB/s, JetPack 5.1 to 7.2" in out
    assert "Jetson Nano, sm53, no INT8, 25.6 GB/s, JetPack 4.6\n" in out


def test_the_catalogue_needs_no_torch():
    names = "('torch' in sys.modules, 'fabric' in sys.modules)"
    code = f"import sys, edgeres.bench.devices, edgeres.bench.boards; print(*{names})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
