"""What the commands share: finding pictures, reading them in batches, running a model on them, what they say on the way."""

import os
import shutil
import sys
import time
from pathlib import Path

from ..errors import InputError, one_line
from ..errors import printable as printable

BATCH = 16
# Exit statuses; the last two are sysexits.h's EX_SOFTWARE, and a shell's 128 + SIGINT.
OK, FAILED, BAD_INPUT, BUG, INTERRUPTED = 0, 1, 2, 70, 130


def complain(text: str) -> None:
    """One line on stderr that is an error, whatever is in the text."""
    print(f"numpy-vit: error: {one_line(text)}", file=sys.stderr)


def note(*texts: str) -> None:
    """Lines on stderr that are no errors."""
    for text in texts:
        print(f"numpy-vit: note: {one_line(text)}", file=sys.stderr)


def refuse(*rules: tuple[object, str]) -> None:
    """Raise InputError with the reason of the first rule that is broken. An option that would be ignored is an error."""
    for broken, why in rules:
        if broken:
            raise InputError(why)


def check_output(output: str, *suffixes: str) -> None:
    """Refuse a target that cannot be written before the work, not after it."""
    path, folder = Path(output), Path(output).parent
    special = path.exists() and not path.is_file()  # a device or a pipe is written to, not replaced
    refuse(
        (suffixes and not output.lower().endswith(suffixes), f"{output}: the name must end in {', '.join(suffixes)}"),
        (path.is_dir(), f"{output}: cannot be written (it is a folder; give a file name)"),
        (not folder.is_dir(), f"{output}: cannot be written (there is no folder {folder})"),
        (not (special or os.access(folder, os.W_OK)), f"{output}: cannot be written (Permission denied)"),
    )


def terminal_width() -> int:
    """The terminal's width; in a pipe, as wide as the table wants (COLUMNS overrides both)."""
    wide = 10_000 if not sys.stdout.isatty() else 80
    return max(20, shutil.get_terminal_size((wide, 24)).columns)


def wants_colour() -> bool:
    """Colours only on a terminal that has them and a user who has not said no (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Progress:
    """A line on stderr, kept up to date on a terminal; silent in a pipe."""

    def __init__(self, total: int, done: int = 0) -> None:
        self.total = total
        self.begun = done  # by an earlier run
        self.start = time.monotonic()
        self.on = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.show(done)

    def show(self, done: int) -> None:
        """How many pictures are done, how fast, and how long the others will take."""
        if self.total <= BATCH:
            return
        text = f"{done}/{self.total} pictures"
        if done > self.begun:
            rate = (done - self.begun) / max(time.monotonic() - self.start, 1e-9)
            text += f", {speed(rate)}, {duration((self.total - done) / rate)} left"
        self._write(text)

    def say(self, what: str) -> None:
        """What is being done now."""
        self._write(f"{what} ...")

    def clear(self) -> None:
        self._write("")

    def _write(self, text: str) -> None:
        if self.on:  # a line that is too long would be broken in two, and only the second be overwritten
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)


def speed(rate: float) -> str:
    """ "0.31 pictures/s", "42 pictures/s"."""
    return f"{rate:.0f} pictures/s" if rate >= 10 else f"{rate:.2g} pictures/s"


def duration(seconds: float) -> str:
    """ "42 s", "12 min", "3 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def summary(count: int, seconds: float, unreadable: int) -> str:
    """What a run did, in half a sentence: "40 pictures in 1.2 s, 33 pictures/s, 1 unreadable"."""
    text = f"{count} pictures in {seconds:.1f} s, {speed(count / max(seconds, 1e-9))}"
    return f"{text}, {unreadable} unreadable" if unreadable else text
