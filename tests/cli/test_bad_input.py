"""Twenty and more mistakes, each answered in one line with the documented exit code and no traceback."""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeres.cli.main import COMMANDS
from edgeres.pipeline.recipe import AFTERWARDS, MEASURES
from edgeres.pipeline.stages import STAGES


@pytest.fixture
def edgeres(aloud):
    return aloud


@pytest.fixture
def checkpoint(checkpoint_of, spec_of):
    return checkpoint_of(spec_of("resnet8")).path


@pytest.fixture
def photos(tmp_path):
    """Two classes of two 8x8 grey images in train and val."""
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(2):
                Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


CASES = {
    "unknown command": (["prun"], 2, "did you mean prune"),
    "unknown option": (["train", "resnet20", "--epoch", "3"], 2, "--epochs"),
    "not a number": (["train", "resnet20", "--data", "digits", "--epochs", "many"], 2, "'many'"),
    "zero epochs": (["train", "resnet20", "--data", "digits", "--epochs", "0"], 2, "epochs"),
    "unknown architecture": (["train", "resnt20", "--data", "digits"], 2, "did you mean resnet20"),
    "impossible depth": (["train", "resnet21", "--data", "digits"], 2, "6n + 2"),
    "unknown data": (["train", "resnet8", "--data", "digit"], 2, "did you mean digits"),
    "no such folder": (["train", "resnet8", "--data", "folder:nowhere"], 2, "nowhere"),
    "no such function": (["train", "resnet8", "--data", "nowhere.module:f"], 2, "nowhere"),
    "no current run": (["prune", "--drop", "1"], 2, "no current run"),
    "no such run": (["report", "nothing"], 2, "nothing"),
    "a choice that is near one": (["ls", "model"], 2, "'devices'; did you mean models?"),
    "a number with a unit": (["gate", "r", "--min-speedup", "1.5x"], 2, "'1.5x' is not a valid float; leave out the x"),
    "no such file": (["eval", "none.safetensors", "--data", "digits"], 2, "does not exist"),
    "a folder as a file": (
        ["eval", "/tmp", "--data", "digits"],
        2,
        "/tmp is a folder, no model; if it is a run, name",
    ),
    "a run that is no option": (
        ["report", "--run", "x"],
        2,
        "edgeres report takes the run without --run: edgeres report",
    ),
    "a board to compare on": (
        ["compare", "a.onnx", "b.onnx", "--on", "desk"],
        2,
        "no --on; what a board does: edgeres help",
    ),
    "a run to judge": (["gate", "--run", "x", "--max-size", "1MB"], 2, "edgeres gate takes the run without --run"),
    "foreign file": (["eval", "none.pth", "--data", "digits"], 2, "edgeres import"),
    "no such recipe": (["run", "dmo"], 2, "did you mean demo"),
    "no such recipe file": (["run", "my.toml"], 2, "my.toml"),
    "override of no stage": (["run", "demo", "--set", "prun.drop=4"], 2, "no stage 'prun'; did you mean prune?"),
    "override without value": (["run", "demo", "--set", "prune.drop"], 2, "STAGE.OPTION=VALUE"),
    "override of no option": (["run", "demo", "--set", "prune.dropp=4"], 2, "did you mean drop"),
    "an override given twice": (["run", "demo", "--set", "prune.drop=4", "--set", "prune.drop=5"], 2, "given twice"),
    "a value given twice": (["gate", "--max-size", "200kB", "--max-size", "1GB"], 2, "--max-size is given twice"),
    "a short one given twice": (["prune", "-o", "a.safetensors", "-o", "b.safetensors"], 2, "is given twice; leave"),
    "yes and no": (["quantize", "--stem", "--no-stem"], 2, "--stem/--no-stem is given twice; leave one out"),
    "a value twice for a study": (["study", "lesion", "--seed", "1", "--seed=2"], 2, "--seed is given twice"),
    "from no stage": (["run", "demo", "--from", "brune"], 2, "no such stage; did you mean prune? (it has"),
    "recipe without its file": (["run", "int8", "--dry-run"], 2, "file is needed"),
    "unknown listing": (["ls", "modles"], 2, "modles"),
    "import without a file": (["import", "none.pt", "--arch", "resnet20"], 2, "does not exist"),
    "import an image": (["import", "photo.jpg"], 2, "the first ff d8 ff e0); a network comes as weights"),
    "optimize a script": (["optimize", "train.py", "--data", "digits"], 2, "function; did you mean train:FUNCTION?"),
    "prune a script": (["prune", "train.py", "--drop", "1"], 2, "bring the network in first: edgeres import train.py"),
    "prune a function": (["prune", "train:net", "--drop", "1"], 2, "network in first: edgeres import train:net"),
    "a list with one twice": (["study", "depth", "--depths", "8,20,8"], 2, "--depths: names 8 twice"),
    "a list in parts": (["study", "depth", "--depths", "8,20", "--depths", "8"], 2, "--depths: names 8 twice"),
    "a small image": (["train", "--image-size", "1"], 2, "--image-size 1: images of fewer than 4 pixels a side"),
    "show nothing": (["show", "resnet21"], 2, "6n + 2"),
}


@pytest.mark.parametrize(("arguments", "code", "message"), CASES.values(), ids=CASES)
def test_a_mistake_is_one_line_and_a_code(edgeres, tmp_path, arguments, code, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    (tmp_path / "train.py").write_text("raise RuntimeError\n")
    assert_refused(edgeres(*arguments), code, message)


def assert_refused(outcome, code, message):
    found, out, err = outcome
    assert found == code, err
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("edgeres: ")
    assert out == ""


def test_a_checkpoint_of_something_else(edgeres, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(struct.pack("<Q", 2) + b"{}")
    assert_refused(edgeres("show", path), 2, "not written by edgeres")


def test_a_damaged_checkpoint(edgeres, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert_refused(edgeres("eval", checkpoint, "--data", "digits"), 2, "damaged")


def test_an_onnx_file_that_is_none(edgeres, tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"not onnx")
    assert_refused(edgeres("show", path), 2, "not a readable ONNX file")


def test_the_wrong_kind_of_file(edgeres, checkpoint):
    assert_refused(edgeres("quantize", checkpoint), 2, "needs a float32 .onnx file")


def test_other_classes_than_the_model_has(edgeres, checkpoint, photos):
    assert_refused(edgeres("eval", checkpoint, "--data", f"folder:{photos}"), 2, "2 classes")


def test_a_corrupt_image(edgeres, photos):
    bad = photos / "train" / "cat" / "0.png"
    bad.write_bytes(b"\x89PNG")
    outcome = edgeres("train", "resnet8", "--data", f"folder:{photos}", "--batch", 2, "--epochs", 1)
    assert_refused(outcome, 2, str(bad))


def test_an_empty_class(edgeres, photos):
    for path in (photos / "train" / "cat").iterdir():
        path.unlink()
    assert_refused(edgeres("train", "resnet8", "--data", f"folder:{photos}"), 2, "cat")


def test_a_class_of_val_that_train_lacks(edgeres, photos):
    (photos / "val" / "cow").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(photos / "val" / "cow" / "0.png")
    assert_refused(edgeres("train", "resnet8", "--data", f"folder:{photos}"), 2, "cow")


def test_more_drops_than_modules(edgeres, checkpoint):
    outcome = edgeres("prune", checkpoint, "--drop", 9, "--data", "digits", "-o", "x.safetensors")
    assert_refused(outcome, 2, "cannot drop 9")
    assert not Path("x.safetensors").exists()


def test_an_unknown_module(edgeres, checkpoint):
    outcome = edgeres("prune", checkpoint, "--modules", "layer1.00", "-o", "x.safetensors")
    assert_refused(outcome, 2, "did you mean layer1.0")


def test_the_wrong_suffix_for_the_output(edgeres, checkpoint):
    outcome = edgeres("prune", checkpoint, "--modules", "layer1.0", "-o", "x.onnx")
    assert_refused(outcome, 2, "writes a .safetensors file")


def test_an_output_below_a_file(edgeres, checkpoint, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = edgeres("prune", checkpoint, "--modules", "layer1.0", "-o", tmp_path / "file" / "x.safetensors")
    assert_refused(outcome, 2, "cannot write")


def test_recovering_what_is_whole(edgeres, checkpoint):
    outcome = edgeres("recover", checkpoint, "--data", "digits", "-o", "x.safetensors")
    assert_refused(outcome, 2, "nothing was dropped from")


def test_recovering_without_a_teacher(edgeres, checkpoint, tmp_path):
    pruned = tmp_path / "pruned.safetensors"
    assert edgeres("prune", checkpoint, "--modules", "layer1.0", "-o", pruned)[0] == 0
    checkpoint.unlink()
    outcome = edgeres("recover", pruned, "--data", "digits", "-o", "x.safetensors")
    assert_refused(outcome, 2, "--teacher")


def test_a_teacher_that_is_another_network(edgeres, checkpoint, checkpoint_of, spec_of):
    teacher = checkpoint_of(spec_of("resnet14"), "teacher.safetensors").path
    outcome = edgeres("recover", checkpoint, "--data", "digits", "--teacher", teacher, "-o", "x.safetensors")
    assert_refused(outcome, 2, "was cut from")


TRAINED = "name = 'x'\ndata = 'digits'\n[[stage]]\nuse = 'train'\narch = 'resnet8'\n"


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("name = 'x'\nstage = []\n", "has no [[stage]]"),
        ("name = 'x'\ndata = 'digits'\n[[stage]]\nuse = 'prune'\ndrop = 1\n", "put train or import before it"),
        (TRAINED + "[[stage]]\nuse = 'prune'\ndrop = 4\n", "cannot drop 4 of 3 modules"),
        (TRAINED + "[[stage]]\nuse = 'prune'\nmodules = ['layer1.00']\n", "stage 01-prune: resnet8 has no module"),
        (TRAINED + "[[stage]]\nuse = 'prune'\ndrop = 1\nkeep = ['layer9.0']\n", "has no module 'layer9.0'"),
        (TRAINED + "[[stage]]\nuse = 'sweep'\nsweep = '1..2'\nkeep = ['layer9.0']\n", "has no module 'layer9.0'"),
        ("on = 'desk'\n" + TRAINED, "recipe.toml: `on` stands in a stage (compile, bench, eval); to measure"),
        (TRAINED + "[[stage]]\nuse = 'bench'\non = 'desk'\n", "recipe.toml, stage 01-bench: no board 'desk'"),
        (
            TRAINED + "[[stage]]\nuse = 'prune'\ndrop = 1\nlatency = 'no.json'\n",
            "stage 01-prune: latency: no.json does",
        ),
        (
            TRAINED + "[[stage]]\nuse='export'\n[[stage]]\nuse='quantize'\nscales='.'\n",
            "stage 02-quantize: scales: . is a folder",
        ),
        (TRAINED + "[[stage]]\nuse = 'gate'\n", "no stage but a command, for after the run: edgeres gate"),
        (TRAINED + "[[stage]]\nuse = 'prune'\n", "exactly one of --drop K"),
        (TRAINED + "[[stage]]\nuse = 'recover'\n", "needs teacher; put prune before it"),
        (TRAINED + "[[stage]]\nuse = 'export'\n[[stage]]\nuse = 'quantize'\n", "put calibrate before it"),
        (TRAINED + "[[stage]]\nuse = 'export'\n[[stage]]\nuse = 'compile'\ntargets = ['sm87']\n", "sm87"),
        (TRAINED.replace("digits", "folder:nowhere"), "nowhere does not exist"),
        (TRAINED.replace("resnet8", "resnt20"), "did you mean resnet20"),
        ("name = 'x'\n[[stage]]\ndrop = 1\n", 'no use = "..."'),
        ("name = 'x'\n[[stage]]\nuse = 'trian'\n", "did you mean train"),
        ("name = 'x'\ndata = 'digits'\n[[stage]]\nuse = 'train'\nepoch = 1\n", "did you mean epochs"),
        ("name = 'x'\n[[stage]]\nuse = 'bench'\n", "comes before any stage"),
        ("name = '../x'\n[[stage]]\nuse = 'train'\n", "name"),
        ("name = \n", "line 1"),
    ],
)
def test_wrong_recipes_stop_before_anything_runs(edgeres, tmp_path, runs_folder, recipe, message):
    path = tmp_path / "recipe.toml"
    path.write_text(recipe)
    assert_refused(edgeres("run", path), 2, message)
    assert not runs_folder.exists()


def test_what_a_recipe_takes_is_listed_and_other_commands_are_none_of_it(edgeres):
    listed = {line.split()[0] for line in edgeres("ls", "stages")[1].splitlines()}
    assert listed == {*STAGES, *MEASURES}
    assert {*AFTERWARDS} <= COMMANDS.keys() - listed


@pytest.mark.parametrize(("before", "option"), [("", "modules"), ("", "keep"), ("layer3.0", "modules")])
def test_modules_of_a_checkpoint_are_known_before_a_run(edgeres, checkpoint, tmp_path, runs_folder, before, option):
    goal = {"modules": "", "keep": "drop = 1\n"}[option]
    prune = "[[stage]]\nuse = 'prune'\n"
    first = f"{prune}modules = '{before}'\n" if before else ""
    recipe = f"name = 'x'\ndata = 'digits'\n[[stage]]\nuse = 'import'\nfile = '{checkpoint}'\n{first}{prune}{goal}"
    (tmp_path / "r.toml").write_text(f"{recipe}{option} = 'layer2.0'\n")
    assert edgeres("run", tmp_path / "r.toml", "--dry-run")[0] == 0
    wrong, said = (before, "has been dropped already") if before else ("layer1.00", "did you mean layer1.0")
    (tmp_path / "r.toml").write_text(f"{recipe}{option} = '{wrong}'\n")
    assert_refused(edgeres("run", tmp_path / "r.toml", "--dry-run"), 2, said)
    assert not runs_folder.exists()


def test_a_missing_package_names_the_extra(tmp_path):
    code = "import sys; sys.modules['torch'] = None; from edgeres.cli.main import main; main()"
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04")
    command = [sys.executable, "-c", code, "import", "x.pt", "--arch", "resnet20"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3
    assert "pip install 'edgeres[train]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_refused_command_leaves_no_run_and_the_current_one_alone(edgeres, runs_folder, checkpoint, tmp_path):
    assert edgeres("import", checkpoint)[0] == 0
    before = sorted(path.name for path in runs_folder.iterdir())
    damaged = tmp_path / "trunc.safetensors"
    damaged.write_bytes(checkpoint.read_bytes()[:1000])
    assert_refused(edgeres("export", damaged), 2, "trunc.safetensors")
    assert edgeres("train", "resnet8", "--data", "digits", "--batch", 100000)[0] == 2
    assert edgeres("train", "nope", "--data", "digits")[0] == 2
    assert sorted(path.name for path in runs_folder.iterdir()) == before
    assert (runs_folder / "latest").resolve().name == checkpoint.stem


@pytest.mark.parametrize("name", ["../esc", "latest", "x y"])
def test_a_run_is_called_by_a_plain_name(edgeres, tmp_path, runs_folder, name):
    (tmp_path / "r.toml").write_text(TRAINED)
    assert_refused(edgeres("run", "r.toml", "--name", name), 2, "--name: name")
    assert not runs_folder.exists()


def test_a_runs_folder_that_is_a_file(edgeres, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EDGERES_RUNS", str(tmp_path / "file"))
    assert_refused(edgeres("import", checkpoint), 2, "cannot write")


def test_a_module_named_twice(edgeres, checkpoint):
    assert_refused(edgeres("prune", checkpoint, "--modules", "layer1.0,layer1.0"), 2, "twice")


def test_mean_and_std_of_pixels_up_to_255(edgeres, tmp_path):
    import torch

    from edgeres.models import network_from, spec_from_arch

    torch.save(network_from(spec_from_arch("resnet8", num_classes=3)).state_dict(), tmp_path / "m.pth")
    outcome = edgeres("import", "m.pth", "--arch", "resnet8", "--mean", "123,116,103", "--std", "58,57,57")
    assert_refused(outcome, 2, "divide by 255")


def test_a_damaged_stage_is_not_passed_over_in_silence(edgeres, runs_folder, checkpoint):
    assert edgeres("prune", checkpoint, "--modules", "layer1.0")[0] == 0
    (runs_folder / checkpoint.stem / "01-prune" / "report.json").write_text("{")
    code, _, err = edgeres("eval", "--data", "digits")
    assert code == 0
    assert "01-prune is passed over" in err


@pytest.mark.parametrize("arguments", [[], ["study"]])
def test_a_group_without_a_command_shows_its_help(edgeres, arguments):
    code, out, err = edgeres(*arguments)
    assert code in {0, 2}
    assert "\nCommands:\n" in out + err or "\nStudies:\n" in out + err
    assert not (out + err).startswith("edgeres: ")


def test_the_module_of_the_entry_point_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "edgeres.cli.main", "prun"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "did you mean prune" in done.stderr


def read_only(monkeypatch, code):
    def refuse(self, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written(edgeres, checkpoint, tmp_path, monkeypatch, code):
    out = tmp_path / "new" / "x.safetensors"
    read_only(monkeypatch, code)
    assert_refused(edgeres("prune", checkpoint, "--modules", "layer1.0"), 2, "EDGERES_RUNS")
    assert_refused(
        edgeres("prune", checkpoint, "--modules", "layer1.0", "-o", out), 2, f"--out {out}: {os.strerror(code)}"
    )
    assert_refused(edgeres("run", "demo"), 2, "runs/demo")


def test_a_place_that_cannot_be_written_is_no_bug(edgeres, checkpoint, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", "some/where")

    monkeypatch.setattr("edgeres.prune.stage.prune", refuse)
    outcome = edgeres("prune", checkpoint, "--modules", "layer1.0")
    assert outcome[0] == 2
    assert "some/where: Read-only file system" in outcome[2]
    assert "bug" not in outcome[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "--drop", "0"], "edgeres: prune: --drop: "),
        (["prune", "--max-loss", "0"], "edgeres: prune: --max-loss: "),
        (["eval"], "edgeres: eval: --data is needed"),
        (["bench", "--rounds", "0"], "edgeres: bench: --rounds: "),
    ],
)
def test_an_option_is_called_as_it_is_typed(edgeres, checkpoint, arguments, message):
    name, *options = arguments
    assert_refused(edgeres(name, checkpoint, *options), 2, message)


def test_part_of_val_says_that_it_is_not_kept(edgeres, checkpoint):
    assert edgeres("import", checkpoint)[0] == 0
    code, out, _ = edgeres("eval", "--data", "digits", "--images", 50)
    assert code == 0
    assert "not kept in the run" in out


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
WRITES = {
    "import": ["import", "MODEL"],
    "prune": ["prune", "MODEL", "--modules", "layer1.0", "-o", "p.safetensors"],
    "train": ["train", "resnet8", "--data", "digits", "--epochs", "1", "--batch", "512", "-o", "t.safetensors"],
    "export": ["export", "MODEL", "-o", "x.onnx"],
}


@pytest.mark.parametrize("arguments", WRITES.values(), ids=WRITES)
def test_a_full_disk_is_no_bug(edgeres, checkpoint, tmp_path, monkeypatch, arguments):
    """Weights, states and graphs are written as bytes, so that the system's own words arrive."""

    def full(self, content):
        raise FULL

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = edgeres(*(str(checkpoint) if word == "MODEL" else word for word in arguments))
    assert code == 2
    assert re.search(r"^edgeres: cannot write \S+: No space left on device$", err, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [checkpoint.name]


@pytest.mark.parametrize("raised", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_out_of_memory_names_what_to_lower(edgeres, checkpoint, monkeypatch, raised):
    def short(path):
        raise raised

    monkeypatch.setattr("edgeres.models.weights.load_file", short)
    code, _, err = edgeres("lesion", checkpoint, "--data", "digits", "-o", "l.json")
    assert code == 1
    assert err == "edgeres: out of memory; lower --batch or --images, or free some\n"


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", f"{LONG}.onnx", "--data", "digits"],
        ["report", LONG],
        ["prune", "MODEL", "--modules", "layer1.0", "-o", f"{LONG}.safetensors"],
        ["eval", "MODEL", "--data", f"folder:{LONG}"],
        ["run", "demo", "--name", LONG],
        ["import", "MODEL", "--run", LONG],
    ],
)
def test_a_name_that_is_too_long(edgeres, checkpoint, arguments):
    code, _, err = edgeres(*(str(checkpoint) if word == "MODEL" else word for word in arguments))
    assert code == 2
    assert "File name too long" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "x.pt", "--mean", ".1,.1,.1", "--std", ""], "--std is empty"),
        (["import", "x.pt", "--std="], "--std is empty"),
        (["import", "x.pt", "--key", " "], "--key is empty"),
        (["train", "resnet8", "--shortcut", ""], "--shortcut is empty"),
        (["run", "demo", "--data", "", "--dry-run"], "--data is empty"),
        (["run", "demo", "--from", "", "--dry-run"], "--from is empty"),
        (["eval", "", "--data", "digits"], "an argument is empty"),
        ([""], "an argument is empty"),
        (["eval", "x.onnx", "--data="], "--data is empty"),
        (["eval", "x.onnx", "--data", os.fsdecode(b"folder:caf\xe9")], r"folder:caf\udce9: the name is not UTF-8"),
        (["show", os.fsdecode(b"\xff\xfe.pt")], r"\udcff\udcfe.pt: the name is not UTF-8"),
    ],
)
def test_an_empty_value_or_a_name_in_other_bytes_is_refused(edgeres, arguments, said):
    assert_refused(edgeres(*arguments), 2, said)
