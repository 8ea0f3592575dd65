"""`python3 agent.pyz detect | build | measure`: the answer is one JSON object on the last line of stdout."""

import argparse
import json
import sys

from . import detect, measure, process, trtexec

_FAILED = 4  # exit code of edgeres for "this machine cannot do it"


def main(argv: "list[str] | None" = None) -> "int":
    """Does one job; returns the exit code. A failure is {"error": one line}."""
    options = _parser().parse_args(argv)
    process.exit_on_signals()
    if options.leash:
        process.hold_leash(options.remove)
    try:
        answer = {"detect": _detect, "build": _build, "measure": _measure}[options.job](options)
    except (measure.Refused, trtexec.DamagedOutput, OSError) as err:
        answer = {"error": " ".join(str(err).split())}
    finally:
        process.wait_if_lost()
        process.kill_all()
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return _FAILED if "error" in answer else 0


def _detect(options: "argparse.Namespace") -> "dict[str, object]":
    return detect.board()


def _build(options: "argparse.Namespace") -> "dict[str, object]":
    return measure.build(options.onnx, options.engine, options.precision, options.timeout_s, options.trtexec)


def _measure(options: "argparse.Namespace") -> "dict[str, object]":
    plan = measure.Plan(
        options.engine,
        options.batch,
        options.warmup_s,
        options.duration_s,
        options.idle_s,
        options.folder,
        options.trtexec,
    )
    return measure.measure(plan)


def _parser() -> "argparse.ArgumentParser":
    parser = argparse.ArgumentParser(prog="agent", description="Builds and measures an engine on this board.")
    parser.add_argument("--leash", action="store_true", help="end everything when stdin ends")
    parser.add_argument("--remove", help="with --leash: the run's folder, removed when the connection is lost")
    jobs = parser.add_subparsers(dest="job", metavar="JOB")
    jobs.required = True
    jobs.add_parser("detect", help="what board this is")
    builder = jobs.add_parser("build", help="ONNX to engine")
    builder.add_argument("--onnx", required=True)
    builder.add_argument("--precision", choices=sorted(trtexec.PRECISIONS), default="int8")
    builder.add_argument("--timeout-s", type=float, default=3600.0)
    timer = jobs.add_parser("measure", help="latency and energy of an engine")
    timer.add_argument("--batch", type=int, default=1)
    timer.add_argument("--warmup-s", type=int, default=1)
    timer.add_argument("--duration-s", type=int, default=10)
    timer.add_argument("--idle-s", type=float, default=5.0)
    timer.add_argument("--folder", default=".")
    for one in (builder, timer):
        one.add_argument("--engine", required=True)
        one.add_argument("--trtexec", action="append", default=[], metavar="OPTION", help="one more option of trtexec")
    return parser


if __name__ == "__main__":
    sys.exit(main())
