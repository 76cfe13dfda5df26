"""The command line: `numpy-vit COMMAND ...`, one small module a command.

Exit status: 0 success, 1 a check that failed, 2 bad usage or bad input. Results go to stdout, everything else to stderr.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..errors import InputError, InvariantError, ShapeError
from . import attend, bench, convert, embed, evaluate, explain, golden, inspect, predict, trace
from .common import complain, share_threads

BAD_INPUT = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Bad input is one line on stderr; `--debug` shows the traceback."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(getattr(sys, name), "reconfigure"):  # what the terminal cannot show is spelled out
            getattr(sys, name).reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    arguments = parsed(argv)
    try:
        if "numpy" not in sys.modules:
            share_threads(arguments)
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        _quietly_drop_stdout()
        return getattr(arguments, "verdict", 0)
    except (Exception, KeyboardInterrupt) as error:
        if arguments.debug:
            import traceback

            traceback.print_exception(error)
        _quietly_drop_stdout()
        complain(reason(error))
        return BAD_INPUT


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. argparse takes positional ones in one place alone; KEY=VALUE may come after options too."""
    top = parser()
    arguments, others = top.parse_known_args(argv)
    name = getattr(arguments, "key_values", None)
    unknown = [text for text in others if name is None or text.startswith("-") or "=" not in text]
    if unknown:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if others:
        setattr(arguments, str(name), [*getattr(arguments, str(name)), *others])
    return arguments


def reason(error: BaseException) -> str:
    """What went wrong, in one sentence for the user."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; no file was left half-written"
    if isinstance(error, InputError | ShapeError | InvariantError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory: give fewer pictures at a time or a smaller image"
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror or error}"
    return f"unexpected {type(error).__name__}: {error} (a bug; --debug shows where)"


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the usage in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = Parser(
        prog="numpy-vit",
        description="The Vision Transformer in explicit NumPy: classify, embed, convert and inspect.",
        epilog="`numpy-vit predict` alone classifies the shipped samples with the shipped model.",
    )
    top.add_argument("--version", action="version", version=f"numpy-vit {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for module in (predict, embed, attend, explain, evaluate, convert, inspect, trace, golden, bench):
        command = module.add_parser(commands)
        if module is not golden:  # whose actions have it
            command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return top


def _terminate(*_: Any) -> NoReturn:
    """A polite kill unwinds like Ctrl-C, so that temporary files are removed."""
    sys.exit(128 + signal.SIGTERM)


def _quietly_drop_stdout() -> None:
    """What is still buffered for a stdout that cannot take it (a full disk) would raise again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
