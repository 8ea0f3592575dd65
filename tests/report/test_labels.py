"""Accuracies of networks that name their classes in different orders are held against each other nowhere."""

import json

import numpy as np
import pytest

from edgeres.report.folder import run_folder_from
from edgeres.report.gate import GateConfig, gate
from edgeres.report.networks import networks_in, points_between
from edgeres.report.rows import rows_from

N = 5000
ORDER = np.roll(np.arange(10), 3)


def relabelled(folder, change):
    """What was evaluated there, with the labels that `change` makes of them."""
    table = np.load(folder / "eval.npy")
    table[:, 1] = change(table[:, 1])
    np.save(folder / "eval.npy", table)
    right = int((table[:, 0] == table[:, 1]).sum())
    report = json.loads((folder / "eval.json").read_text())
    report["accuracy"][0] |= {"correct_top1": right, "correct_top5": N}
    (folder / "eval.json").write_text(json.dumps(report))


def in_other_order(run, *, change=ORDER.__getitem__, top1=0.91):
    """A network judged with its classes in another order, or of other images."""
    folder, first = run.model("import", "model.safetensors", 3000, config={"file": "net.pt", "labels": None})
    run.evaluated(folder, first, top1)
    relabelled(folder, change)
    return first


def int8_of(run, source):
    _, whole = run.model("export", "model.onnx", 2000, source=source)
    folder, last = run.model("quantize", "model.onnx", 600, source=whole, precision="int8")
    run.evaluated(folder, last, 0.909)
    return folder


def loss_of(run):
    (outcome,) = gate(run.path, GateConfig(max_loss=1)).outcomes
    return outcome


ROADS = {
    "a file of the run": lambda first: {"config": {"file": "a.safetensors", "labels": "l.txt"}, "parent": first.sha256},
    "the same file": lambda _: {"config": {"file": "net.pt", "labels": "l.txt"}},
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_held_against_is_the_network_under_the_same_class_names(fake_run, road, when):
    first = in_other_order(fake_run)
    named = {"size_bytes": 3001, **ROADS[road](first)}
    if when == "before":
        folder, again = fake_run.model("import", "model.safetensors", **named)
        fake_run.evaluated(folder, again, 0.91)
        int8_of(fake_run, again)
    else:
        int8_of(fake_run, first)
        folder, again = fake_run.model("import", "model.safetensors", **named)
        fake_run.evaluated(folder, again, 0.91)
    headline, name = rows_from(fake_run.path).headline, folder.name
    assert "\u22120.10 points of top-1 (int8) [" in headline
    assert f"against {name})." in headline
    assert (loss_of(fake_run).passed, f"against {name}, n = 5,000" in loss_of(fake_run).text) == (True, True)


def test_classes_in_another_order_are_no_gain_and_the_advice_names_them_anew(fake_run):
    int8_of(fake_run, in_other_order(fake_run))
    headline = rows_from(fake_run.path).headline
    assert "points" not in headline
    assert headline.endswith(
        "Their accuracies are not compared, their labels differ: their classes stand in another order, or the images"
        " of cifar10 changed between."
    )
    assert loss_of(fake_run).text == (
        "not measured: judged with their classes in another order: edgeres import runs/fake/00-import/model.safetensors"
        " --run fake --labels FILE and edgeres eval --run fake"
    )


def test_where_the_later_one_has_the_wrong_order_what_it_came_from_is_named_anew(fake_run):
    folder, first = fake_run.model("import", "model.safetensors", 3000)
    fake_run.evaluated(folder, first, 0.91)
    _, other = fake_run.model("import", "other.safetensors", 3100, config={"file": "other.pt"})
    relabelled(int8_of(fake_run, other), ORDER.__getitem__)
    assert loss_of(fake_run).text.endswith(
        ": edgeres import runs/fake/01-import/other.safetensors --run fake --labels FILE, make 03-quantize from that"
        " and edgeres eval --run fake"
    )


def test_a_network_under_two_orders_alone_has_no_second(fake_run):
    first = in_other_order(fake_run)
    made = fake_run.model("import", "model.safetensors", 3001, **ROADS["a file of the run"](first))
    fake_run.evaluated(*made, 0.91)
    text = loss_of(fake_run).text
    assert "another order: there is no second network to hold against it: edgeres prune runs/fake/01-import/" in text
    assert "points" not in rows_from(fake_run.path).headline


def test_other_images_are_judged_anew_on_both_sides(fake_run):
    int8_of(fake_run, in_other_order(fake_run, change=lambda labels: labels[::-1]))
    text = loss_of(fake_run).text
    assert text.startswith("not measured: judged on different images: their labels differ: edgeres eval runs/fake/00-")
    assert text.count("--replace") == text.count("edgeres eval") == 2
    before, *_, after = networks_in(run_folder_from(fake_run.path))
    assert points_between(before, after) is None
    (fake_run.path / "00-import/eval.npy").unlink()
    before, *_, after = networks_in(run_folder_from(fake_run.path))
    assert points_between(before, after).low is None


def test_the_time_of_the_first_network_under_other_names_is_no_change_of_speed(fake_run):
    first = in_other_order(fake_run)
    folder, again = fake_run.model("import", "model.safetensors", 3001, **ROADS["a file of the run"](first))
    fake_run.evaluated(folder, again, 0.91)
    int8_of(fake_run, again)
    fake_run.stage("bench", latency=(fake_run.latency(first, 10.0), fake_run.latency(again, 12.0)))
    headline = rows_from(fake_run.path).headline
    assert "slower" not in headline
    assert headline.endswith("(03-quantize against 01-import).")
