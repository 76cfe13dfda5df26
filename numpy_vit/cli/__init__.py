"""The command line: `numpy-vit COMMAND ...`, one small module a command.

Exit status: 0 success, 1 a check that failed, 2 bad usage or bad input, 70 a mistake of this program's own, 130 interrupted.
Results go to stdout, everything else to stderr.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from .. import __version__
from ..errors import NumpyVitError, nearest, one_line
from . import attend, bench, convert, embed, evaluate, explain, golden, inspect, lens, predict, tokens, trace
from .common import BAD_INPUT, BUG, INTERRUPTED, OK, complain
from .sharing import share_threads


def main(argv: Sequence[str] | None = None, *, begin: Callable[[], None] | None = None) -> int:
    """Run one command and return its exit status.

    Bad input is one line on stderr; `--debug` shows the traceback. It may be called in any thread; signal handlers and
    streams are afterwards what they were.

    argv    the words of the command; those of this process where nothing is given
    begin   called when the command is understood and its work begins
    """
    with streams_that_take_everything(), terminated_politely():
        try:
            arguments = parsed(argv)
        except SystemExit as stop:  # argparse has said what is wrong, or printed the help that was asked for
            return int(stop.code or OK)
        try:
            if "numpy" not in sys.modules:
                share_threads(arguments)
            if begin is not None:
                begin()
            status = arguments.run(arguments)
            sys.stdout.flush()
            return status
        except BrokenPipeError:  # the reader, `head` say, has seen enough
            drop_what_stdout_cannot_take()
            return getattr(arguments, "verdict", OK)
        except (Exception, KeyboardInterrupt) as error:
            if arguments.debug:
                import traceback

                traceback.print_exception(error)
            drop_what_stdout_cannot_take()
            status, text = verdict(error)
            complain(text)
            return status


@contextlib.contextmanager
def streams_that_take_everything() -> Iterator[None]:
    """A closed stream is one to nowhere, and what the terminal cannot show is spelled out, as long as the block lasts."""
    with contextlib.ExitStack() as undo:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # closed by the caller
                setattr(sys, name, undo.enter_context(open(os.devnull, "w")))
                undo.callback(setattr, sys, name, None)
            elif hasattr(stream, "reconfigure"):
                undo.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="backslashreplace")
        yield


@contextlib.contextmanager
def terminated_politely() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that temporary files are removed, as long as the block lasts."""
    if threading.current_thread() is not threading.main_thread():  # which alone may say what a signal does
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: Any) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. argparse takes positional ones in one place alone; KEY=VALUE may come after options too."""
    arguments, others = parser().parse_known_args(argv)
    name = getattr(arguments, "key_values", None)
    unknown = [text for text in others if name is None or text.startswith("-") or "=" not in text]
    if unknown:
        known = arguments.parser._option_string_actions
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}{nearest(unknown[0], known)}")
    if others:
        setattr(arguments, str(name), [*getattr(arguments, str(name)), *others])
    return arguments


def verdict(error: BaseException) -> tuple[int, str]:
    """What went wrong: the exit status, and one sentence for the user."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; no file was left half-written"
    if isinstance(error, NumpyVitError):
        return BAD_INPUT, str(error)
    if isinstance(error, MemoryError):
        return BAD_INPUT, "out of memory: give fewer pictures at a time or a smaller image"
    if isinstance(error, OSError):
        return BAD_INPUT, f"{error.filename or 'output'}: {error.strerror or error}"
    return BUG, (
        f"a bug in numpy-vit {__version__}, not your mistake: {type(error).__name__}: {error}; "
        "please report it with your command and what that prints with --debug"
    )


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the usage in one line. Every command has --debug."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")
        self.set_defaults(parser=self)  # of several within each other, the innermost stays

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """The nearest of the choices is offered, which argparse does from Python 3.14 on, where asked to."""
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            message = f"'{value}' is not one of {', '.join(known)}{nearest(str(value), known)}"
            raise argparse.ArgumentError(action, message)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = Parser(
        prog="numpy-vit",
        description="The Vision Transformer in explicit NumPy: classify, embed, convert and inspect.",
        epilog="`numpy-vit predict` alone classifies the shipped samples with the shipped model.",
    )
    top.add_argument("--version", action="version", version=f"numpy-vit {__version__}")
    top.set_defaults(debug=False)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for module in (predict, embed, attend, lens, explain, evaluate, convert, inspect, trace, tokens, golden, bench):
        module.add_parser(commands).set_defaults(run=module.run)
    return top


def drop_what_stdout_cannot_take() -> None:
    """What is still buffered for a stdout that cannot take it (a full disk) would raise again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        number = sys.stdout.fileno()
        kept, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        sys.stdout.flush()
        os.dup2(kept, number)
        os.close(kept)
        os.close(nowhere)
