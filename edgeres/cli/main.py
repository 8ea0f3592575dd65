"""The entry point: a lazy group, so that `edgeres --help` imports no command, and errors as one line with a code."""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from edgeres.cli.terminal import harmless
from edgeres.core.processes import ProcessLost, count, follow, is_main, lead, let_go
from edgeres.core.safe_text import one_line

STAGE_COMMANDS = {
    "train": "Train a ResNet (or a control) from scratch.",
    "import": "Bring in a checkpoint trained elsewhere.",
    "lesion": "Delete each module in turn and measure.",
    "prune": "Drop whole residual modules.",
    "recover": "Train a pruned network back, without labels.",
    "export": "Checkpoint to ONNX, batch norm folded.",
    "calibrate": "Images to INT8 scales.",
    "quantize": "ONNX and scales to an INT8 Q/DQ graph.",
    "qat": "Train a float ONNX graph under quantization, to INT8.",
    "compile": "ONNX to a TensorRT engine.",
}
COMMANDS = {
    "study": ("edgeres.cli.study:study", "Why modules can be dropped: lesion, reorder, paths, depth, ..."),
    "optimize": ("edgeres.cli.run:optimize", "From a network and a budget to three networks."),
    "run": ("edgeres.cli.run:run", "Run a recipe: the whole road in one command."),
    "eval": ("edgeres.cli.stages:evaluate", "Accuracy of a model."),
    "agree": ("edgeres.cli.compare:agree_command", "How well two models agree, module by module."),
    "bench": ("edgeres.cli.stages:bench", "Latency of models, interleaved."),
    "report": ("edgeres.cli.report:report", "One table and one page for a run."),
    "gate": ("edgeres.cli.report:gate_command", "Whether a run keeps rules: loss, latency, size, ..."),
    "compare": ("edgeres.cli.compare:compare", "Two runs, or which of several models is faster."),
    "rerun": ("edgeres.cli.run:rerun_command", "Run a run again: do the numbers agree?"),
    "show": ("edgeres.cli.show:show", "What a file or an architecture is."),
    "ls": ("edgeres.cli.show:ls", "List models, recipes, runs, ..."),
    "lint": ("edgeres.cli.lint:lint", "Check and repair a Q/DQ file for TensorRT."),
    "layers": ("edgeres.cli.layers:layers", "Which layers of an engine run in INT8."),
    "board": ("edgeres.cli.board:board", "Boards over ssh: add, list, check."),
    "doctor": ("edgeres.cli.board:doctor", "What this machine can and cannot do."),
    "help": ("edgeres.cli.help:help_command", "The manual: edgeres help TOPIC."),
}
CHAPTERS = {
    "models": ("train", "import", "export", "show", "ls"),
    "optimizing": ("optimize",),
    "choosing": ("prune",),
    "recovering": ("recover",),
    "quantizing": ("calibrate", "quantize", "qat", "agree"),
    "lint": ("lint",),
    "engines": ("compile", "layers"),
    "boards": ("board", "doctor"),
    "bench": ("bench", "compare"),
    "report": ("eval", "report", "gate"),
    "recipes": ("run", "rerun"),
    "studies": ("study", "lesion"),
}
_CHAPTER_OF = {name: chapter for chapter, names in CHAPTERS.items() for name in names}
INTERRUPTED, TERMINATED = 130, 143  # by SIGINT and SIGTERM
_GOES_ON = {
    *("train", "recover", "run", "rerun", "optimize", "prune", "qat"),
    *("study depth", "study ordering", "study connect", "study gradients"),
}
_DECIDE_MEMORY = ("--batch", "--cache-mib", "--images", "--image-size", "--width", "--threads", "--workspace-mib")
_LONG_NAME = 100
_EMPTY = re.compile(r"(?:(--[\w-]+)=)?\s*")
_NOT_UTF8 = range(0xD800, 0xE000)  # how Python keeps such bytes
_NO_ACCESS = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}  # the user's to mend, no bug


_TEXTS = {**STAGE_COMMANDS, **{name: text for name, (_, text) in COMMANDS.items()}}


class TableGroup(click.Group):
    """Commands with their texts in a table: help imports none of them, and an unknown one gets a guess."""

    table: Mapping[str, str] = {}
    kind = "command"

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(self.table)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`."""
        with formatter.section("Studies" if self.kind == "study" else "Commands"):
            formatter.write_dl(list(self.table.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Adds a guess to an unknown command's message; refuses an option of one value that is given twice."""
        if args[0] not in self.table:
            from edgeres.core.errors import InputError, did_you_mean

            guess = did_you_mean(args[0], self.table)
            raise InputError(f"no {self.kind} {args[0]!r}{guess} (see: {ctx.command_path} --help)")
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            _check_once(click.Context(command, parent=ctx, info_name=name), rest)
        return name, command, rest


def _check_once(ctx: click.Context, words: Sequence[str]) -> None:
    """Raises InputError for an option that takes one value and is given twice: click keeps the last without a word."""
    try:
        *_, order = ctx.command.make_parser(ctx).parse_args([*words])
    except click.ClickException:
        return  # said where it is parsed for good
    given = [one for one in order if isinstance(one, click.Option) and not one.multiple]
    for one in given:
        if given.count(one) > 1 and (one.secondary_opts or not one.is_flag):
            from edgeres.core.errors import InputError

            raise InputError(f"{'/'.join((*one.opts, *one.secondary_opts))} is given twice; leave one out")


class LazyGroup(TableGroup):
    """Commands are imported when they are called."""

    table: Mapping[str, str] = {"run": _TEXTS["run"], **_TEXTS}

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command, imported now; its help ends with the page of the manual."""
        if name in STAGE_COMMANDS:
            from edgeres.cli.stages import stage_command

            command = stage_command(name, STAGE_COMMANDS[name])
        elif name in COMMANDS:
            module, _, attribute = COMMANDS[name][0].partition(":")
            command = getattr(importlib.import_module(module), attribute)
        else:
            return None
        if name in _CHAPTER_OF:
            command.epilog = f"Manual: edgeres help {_CHAPTER_OF[name]}"
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="More about what happens; tracebacks for bugs.")
@click.option("-q", "--quiet", is_flag=True, help="Warnings and errors only.")
@click.version_option(package_name="edgeres")
def cli(verbose: bool, quiet: bool) -> None:
    """From a ResNet to a measured INT8 TensorRT engine.

    Start with `edgeres run demo`, or with your own network: `edgeres import FILE`. The manual:
    `edgeres help`.
    """
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    _log_to_stderr(level)


def main(began_s: float | None = None) -> None:
    """Runs the command line and exits: 0, 1 failed, 2 bad input, 3 missing package, 4 device, 130 Ctrl-C, 143 SIGTERM.

    `began_s`: when the process did, on time.perf_counter.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # torchrun ends its processes by it
        signal.signal(signal.SIGTERM, signal.SIG_DFL if count() > 1 else _stop)
    interrupts: list[int] = []
    atexit.register(_end, interrupts)  # the first to be registered is done last
    code = _led(began_s) if is_main() else _followed()
    if code in {INTERRUPTED, TERMINATED}:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(code))  # a further one is no death by signal
        interrupts.append(code)
    sys.exit(code)


def _stop(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def _end(interrupts: list[int]) -> None:
    """No death by signal: Python kills itself where a Ctrl-C fell into text that was being executed, caught or not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if interrupts:
        os._exit(interrupts[0])


def _led(began_s: float | None) -> int:
    """Runs the command line, the other processes of torchrun at its call; what it leaves them doing torchrun ends."""
    lead()
    code = _run(began_s)
    if code not in {INTERRUPTED, TERMINATED}:
        let_go()
    return code


def _followed() -> int:
    with contextlib.suppress(KeyboardInterrupt, ProcessLost):  # the first process, or torchrun, says it
        follow()
        return 0
    return 1


@harmless()
def _run(began_s: float | None = None) -> int:
    try:
        _check_words(sys.argv[1:])
        cli.main(standalone_mode=False, prog_name="edgeres", obj=began_s)
        sys.stdout.flush()
    except click.exceptions.Exit as err:
        return err.exit_code
    except click.ClickException as err:
        return _say_for_click(err)
    except (click.Abort, KeyboardInterrupt) as err:
        return _say_interrupted(err)
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as err:
        return _told(err)
    return 0


def _words_of_command(arguments: Sequence[str]) -> set[str]:
    words = [word for word in arguments if not word.startswith("-")]
    return {*words[:1], " ".join(words[:2])}


def _check_words(words: Sequence[str]) -> None:
    """Raises InputError for an empty value, as an unset variable of the shell leaves, and for a name not in UTF-8."""
    from edgeres.core.errors import InputError

    for before, word in zip(("", *words), words, strict=False):
        if empty := _EMPTY.fullmatch(word):
            what = empty[1] or (before if before.startswith("-") else "an argument")
            raise InputError(f"{what} is empty (a variable that is not set?); give a value, or leave it out")
        if any(ord(letter) in _NOT_UTF8 for letter in word):
            raise InputError(f"{word}: the name is not UTF-8 and could not be recorded; rename it")


def _told(err: Exception) -> int:
    """Says what happened, by what the error came from: a file called damaged may be one that memory was short for."""
    from edgeres.core.errors import EdgeresError, StageError, chain_of, is_disk_full, is_out_of_memory

    causes = [cause for cause in chain_of(err) if not isinstance(cause, EdgeresError)]
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):  # in a package that was just being imported
        return _say_interrupted(err)
    if any(map(is_out_of_memory, causes)):
        return _say(f"out of memory; {_less_memory(sys.argv[1:])}", 1)
    if isinstance(err, EdgeresError):
        return _say(str(err), 2 if isinstance(err, StageError) and is_disk_full(err) else err.exit_code)
    if isinstance(err, OSError) and (err.filename or err.errno in _NO_ACCESS):
        name = str(err.filename or "a file")
        shown = name if len(name) <= _LONG_NAME else f"{name[: _LONG_NAME // 2]}...{name[-_LONG_NAME // 2 :]}"
        return _say(f"cannot use {shown}: {err.strerror}", 2)
    if logging.getLogger("edgeres").isEnabledFor(logging.DEBUG):
        raise err
    return _say(f"bug in edgeres, please report: {type(err).__name__}: {err} (traceback: edgeres -v ...)", 1)


def _less_memory(arguments: list[str]) -> str:
    """The options of the command that decide how much memory it takes."""
    words = [word for word in arguments if not word.startswith("-")]
    command = cli.get_command(click.Context(cli), words[0]) if words else None
    known = {option for parameter in command.params for option in parameter.opts} if command else set()
    lower = [option for option in _DECIDE_MEMORY if option in known]
    return f"lower {' or '.join(lower)}, or free some" if lower else "free some, or use a machine with more"


def _say_interrupted(err: BaseException) -> int:
    from edgeres.core.errors import chain_of

    is_asked = any(isinstance(one, KeyboardInterrupt) and one.args == (signal.SIGTERM,) for one in chain_of(err))
    return _say(_interrupted(sys.argv[1:]), TERMINATED if is_asked else INTERRUPTED)


def _interrupted(arguments: list[str]) -> str:
    """What the command that was interrupted does when it is given again."""
    is_on_a_board = any(argument == "--on" or argument.startswith("--on=") for argument in arguments)
    words = _words_of_command(arguments)
    is_table = "bench" in words and "--per-module" in arguments and is_on_a_board
    goes_on = is_table or words & _GOES_ON
    return f"interrupted; the same command {'goes on from what it kept' if goes_on else 'starts from the beginning'}"


def _say_for_click(err: click.ClickException) -> int:
    missing = err.option_name if isinstance(err, click.NoSuchOption) else ""
    context = err.ctx if isinstance(err, click.UsageError) else None
    if missing == "--on" and context:
        return _say(f"{context.command_path} has no --on; what a board does: edgeres help boards", 2)
    if missing in {"--run", "--in-run"} and context and any(one.name == "run" for one in context.command.params):
        command = context.command_path
        return _say(f"{command} takes the run without --run: {command} NAME", 2)
    if not err.message.startswith("Usage:"):
        said, meant = err.format_message().replace("\n", " "), _meant_by(err)
        return _say(said.rstrip(".") + meant if meant else said, 2)
    err.show()  # a group without a command (NoArgsIsHelpError of click 8.2): its message is the whole help
    return err.exit_code


def _meant_by(err: click.ClickException) -> str:
    """The choice that is nearest to what was typed, or that a number has no unit."""
    from edgeres.core.errors import did_you_mean

    kind = err.param.type if isinstance(err, click.BadParameter) and err.param else None
    seen = re.match(r"'([^']*)' is not ", err.message)
    if seen and isinstance(kind, click.Choice):
        return did_you_mean(seen[1], map(str, kind.choices))
    unit = re.fullmatch(r"[0-9.]+ *([%x])", seen[1]) if seen else None
    return f"; leave out the {unit[1]}" if unit else ""


def _say(message: str, code: int) -> int:
    click.echo(f"edgeres: {' '.join(message.split())}", err=True)
    return code


def _log_to_stderr(level: int) -> None:
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    root: Any = logging.getLogger("edgeres")
    root.handlers = [handler]
    root.setLevel(level)
    root.propagate = False


class _OneLine(logging.Formatter):
    """The message, which may hold a name of somebody else's, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


if __name__ == "__main__":
    main()
