"""`python3 agent.pyz detect|build|measure|eval|restore`: the answer is one JSON object on the last line of stdout.

It is what `edgeres --on NAME` runs on a board, and works the same when a user of the board runs it there. Each job
imports what it alone needs: from a zip every module is compiled anew, which a slow board feels.
"""

import argparse
import json
import sys
from typing import Any, Callable  # noqa: UP035 - Python 3.6

from . import detect, lock, process, settings, trtexec

_FAILED = 4  # exit code of edgeres for "this machine cannot do it"
_HOUR_S = 3600.0


def main(argv: "list[str] | None" = None) -> "int":
    """Does one job; returns the exit code. A failure is {"error": one line}."""
    options = _parser().parse_args(argv)
    process.exit_on_signals()
    if options.leash:
        process.hold_leash()
    try:
        answer = _answer(options)
    except (process.Refused, trtexec.DamagedOutput, OSError) as err:
        answer = {"error": " ".join(str(err).split())}
    finally:
        process.finish()
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return _FAILED if "error" in answer else 0


def _answer(options: "argparse.Namespace") -> "dict[str, object]":
    job = _JOBS[options.job]
    if options.job == "detect" or getattr(options, "here", False):
        return job(options)
    with lock.held():
        restored = settings.put_back_left()
        for line in restored:
            process.say(line)
        return {**job(options), "restored": restored}


def _build(options: "argparse.Namespace") -> "dict[str, object]":
    from . import measure

    return measure.build(options.onnx, options.engine, options.precision, options.timeout_s, options.extra)


def _measure(options: "argparse.Namespace") -> "dict[str, object]":
    from . import measure

    plan = measure.Plan(*(getattr(options, name) for name in measure.Plan._fields))
    with settings.held(options.lock_clocks, options.power_mode) as complaints:
        answer: dict[str, Any] = measure.measure(plan)
    return {**answer, "not_put_back": complaints, "warnings": answer["warnings"] + complaints}


def _eval(options: "argparse.Namespace") -> "dict[str, object]":
    from . import evaluate

    job = evaluate.Job(options.engine, options.images, options.batch, options.logits)
    return evaluate.evaluate(job) if options.here else evaluate.evaluate_apart(job, options.timeout_s)


_JOBS: "dict[str, Callable[[argparse.Namespace], dict[str, object]]]" = {
    "detect": lambda options: {**detect.board(), "left": settings.left()},
    "build": _build,
    "measure": _measure,
    "eval": _eval,
    "restore": lambda options: {},
}


def _parser() -> "argparse.ArgumentParser":
    parser = argparse.ArgumentParser(prog="agent", description=_DESCRIPTION)
    parser.add_argument("--leash", action="store_true", help="end everything when stdin ends")
    jobs = parser.add_subparsers(dest="job", metavar="JOB")
    jobs.required = True
    for job, text in _TEXTS.items():
        one = jobs.add_parser(job, help=text)
        for takers, option, meaning in _OPTIONS:
            if job in takers:
                one.add_argument(option, **meaning)
    return parser


def _left_out(name: "str", text: "str") -> "tuple[tuple[str, ...], str, dict[str, Any]]":
    return ("measure",), f"--no-{name}", {"dest": f"has_{name}", "action": "store_false", "help": text}


_TEXTS = {
    "detect": "what board this is",
    "build": "ONNX to engine",
    "measure": "latency and energy of an engine",
    "eval": "the logits of an engine for packed images",
    "restore": "power mode and clocks put back, which a run that was killed has left",
}
_PRECISION = "what TensorRT 8 may use (int8); from 10 on the types are the ONNX file's"
_TIMEOUT = "what hangs is ended after so long (3600)"
_FLAG = "store_true"
_OPTIONS = (
    (("build",), "--onnx", {"required": True, "metavar": "M.onnx", "help": "the network"}),
    (("build", "measure", "eval"), "--engine", {"required": True, "metavar": "E.plan", "help": "the engine"}),
    (("build",), "--precision", {"choices": sorted(trtexec.PRECISIONS), "default": "int8", "help": _PRECISION}),
    (("measure",), "--warmup-s", {"type": int, "default": 1, "help": "before each of the two runs (1)"}),
    (("measure",), "--duration-s", {"type": int, "default": 10, "help": "of each of the two runs (10)"}),
    (("measure",), "--idle-s", {"type": float, "default": 5.0, "help": "power at rest is measured so long (5)"}),
    _left_out("energy", "the latency alone: no rest and no second run"),
    _left_out("latency", "rest and energy alone: no first run"),
    _left_out("profile", "neither the layers nor their times"),
    (("measure",), "--folder", {"default": ".", "metavar": "DIR", "help": "where trtexec's files go (.)"}),
    (("measure",), "--lock-clocks", {"action": _FLAG, "help": "jetson_clocks, put back at the end; needs root"}),
    (("measure",), "--power-mode", {"metavar": "NAME|ID", "help": "nvpmodel -m, put back at the end; needs root"}),
    (("eval",), "--images", {"required": True, "metavar": "DIR", "help": "index.json and the parts it names"}),
    (("eval",), "--logits", {"required": True, "metavar": "OUT", "help": "float32 (N, K) goes here, little-endian"}),
    (("eval",), "--here", {"action": _FLAG, "help": "in this process: if TensorRT crashes, so does the agent"}),
    (("measure", "eval"), "--batch", {"type": int, "default": 1, "help": "images in a call; the engine takes it (1)"}),
    (("build", "measure"), "--trtexec", {"dest": "extra", "action": "append", "default": [], "metavar": "OPTION"}),
    (("build", "measure", "eval"), "--timeout-s", {"type": float, "default": _HOUR_S, "help": _TIMEOUT}),
)  # type: tuple[tuple[tuple[str, ...], str, dict[str, Any]], ...]
_DESCRIPTION = (
    "Builds, measures and evaluates a TensorRT engine on this board. The last line of stdout is the answer, one JSON"
    ' object; {"error": ...} and exit code 4 if it cannot be done.'
)

if __name__ == "__main__":
    sys.exit(main())
