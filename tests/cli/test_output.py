"""What a stage's figures are figures of, as the terminal says it."""

import sys

import pytest

from edgeres.cli.output import print_result
from edgeres.cli.terminal import say, say_row
from edgeres.core.config import Config
from edgeres.core.environment import Check, diagnosis
from edgeres.core.metrics import Accuracy, fixed, threads_text
from edgeres.core.stage import Recorder
from edgeres.study.lesion import LesionConfig, lesion


def printed(capsys, **results):
    print_result(Recorder("prune", Config(), None, results=results).finish(None), as_json=False)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_row_cuts_no_word_in_a_terminal_and_is_one_line_elsewhere(capsys, monkeypatch, is_terminal):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    say_row("thor  ", text := "Jetson Thor (T5000), sm110, JetPack 7.0 to 7.2", 6)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40 or not is_terminal
    assert " ".join(lines).split() == ["thor", *text.split()]
    assert len(lines) == (2 if is_terminal else 1)


@pytest.mark.parametrize(
    ("results", "line"),
    [
        ({"points": -71.33, "images_chosen_on": 1000}, "points lost: 71.33 of top-1 on 1,000 train images"),
        (
            {"points": -2.5, "points_are": "before recovery", "images_chosen_on": 60},
            "points lost before recovery: 2.5 of top-1 on 60 train images",
        ),
        (
            {"points": -3.035, "points_are": "after repairs", "measure": "cosine", "images_chosen_on": 150},
            "lost after repairs: 3.035 hundredths of cosine on 150 train images",
        ),
        (
            {"points": -3.0, "measure": "centred", "images_chosen_on": 150},
            "points lost: 3 of top-1 on 150 train images",
        ),
        ({"points": -2.5}, "points lost: 2.5"),
        ({"points": 0.0}, "points lost: 0"),
    ],
)
def test_points_say_of_what_on_which_images(capsys, results, line):
    assert printed(capsys, **results)[0] == line


def test_a_figure_has_one_kind_of_minus_in_a_terminal(capsys):
    say("\u22120.76 points [\u22121.00, +0.10]; a\u2212b")
    assert capsys.readouterr().out == "-0.76 points [-1.00, +0.10]; a\u2212b\n"


def test_a_lesion_says_what_modules_cost_before_what_that_says_to_a_claim(checkpoint_of, spec_of, tmp_path, capsys):
    config = LesionConfig(data="digits", images=40, draws=1, set_images=20)
    print_result(lesion(checkpoint_of(spec_of("resnet14")), config, tmp_path).report, as_json=False)
    begins = [line.partition(" ")[0] for line in capsys.readouterr().out.splitlines()]
    told = ["cheapest", "dearest"]  # once refitted, and as it is
    assert begins[:-1] == [*told, *told, "coupling", "claim:", "verdict:", "because:"]


def test_a_remedy_of_the_doctor_stands_on_a_line_of_its_own(edgeres, monkeypatch):
    check = Check(name="vision", status="missing", detail="no torchvision", remedy="pip install edgeres[zoo]")
    monkeypatch.setattr("edgeres.cli.board.diagnosis", lambda: diagnosis().model_copy(update={"checks": (check,)}))
    code, out, _ = edgeres("doctor")
    assert code == 0
    assert [line.strip() for line in out.splitlines()[-2:]] == [
        "missing  vision      no torchvision",
        "pip install edgeres[zoo]",
    ]


def test_what_a_label_or_a_note_says_is_not_said_again(capsys):
    said = {"score_name": "kl", "criterion": "kl", "first_step": 0, "stopped_early": False, "held_out_best": 0.3}
    assert printed(capsys, **said) == ["criterion: kl"]


def test_figures_are_called_in_words(capsys):
    costs = {
        "rest_ms": 1.25,
        "fit_error": 0.0003533,
        "networks": 0,
        "session": "1a35",
        "images_per_s": 8,
        "export_s": 0.5,
    }
    assert printed(capsys, **costs) == [
        "rest: 1.25 ms",
        "error of the fit, as a share of the latency: 0.0003533",
        "networks timed: 0",
        "images per s: 8",
        "export: 0.5 s",
    ]


@pytest.mark.parametrize(
    ("whose", "begins"), [(None, "top-1 90.00 %"), ("01-export/a.onnx", "01-export/a.onnx: top-1")]
)
def test_one_accuracy_of_several_says_of_which_file(capsys, whose, begins):
    accuracy = Accuracy(
        correct_top1=90, correct_top5=99, n=100, dataset="digits", split="val", runtime="torch", artifact="0" * 64
    )
    report = Recorder("eval", Config(), None, accuracy=[accuracy]).finish(None)
    print_result(report, as_json=False, whose=whose)
    assert capsys.readouterr().out.startswith(begins)


def test_one_thread_is_not_several():
    assert [threads_text(count) for count in (0, 1, 2)] == ["", "1 thread", "2 threads"]


def test_no_minus_stands_before_a_zero():
    assert [fixed(value, 1) for value in (-0.0, -0.04, -0.06, 0.04)] == ["0.0", "0.0", "-0.1", "0.0"]
