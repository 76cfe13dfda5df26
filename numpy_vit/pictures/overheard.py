"""What a library in C says on stderr, and to nobody else: libtiff goes on after some errors and only writes there."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator

END = b"\0"
MUCH = 1 << 16  # bytes that are kept; a damaged picture may be complained of once a row
COMPLAINT = re.compile(rb"[A-Za-z_][\w.]*: .+\.")  # libtiff's own form (tif_unix.c): the function, what is wrong, a full stop
ONE_AT_A_TIME = threading.Lock()  # a process has one stderr


@contextlib.contextmanager
def complaints() -> Iterator[list[str]]:
    """The lines in libtiff's form that are written to stderr within the block, in a list that is filled when it ends.

    What else arrives there meanwhile, from other threads, is passed on. Where there is no stderr, the list stays empty.
    """
    heard: list[str] = []
    with ONE_AT_A_TIME:
        try:
            kept = os.dup(2)
        except OSError:
            yield heard
            return
        said, read, write = bytearray(), *os.pipe()

        def listen() -> None:
            """To the end, so that no writer waits; a pipe holds little."""
            more = True
            while more:
                some, end, _ = os.read(read, MUCH).partition(END)
                said.extend(some[: MUCH - len(said)])
                more = not end

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            os.dup2(write, 2)
            yield heard
        finally:
            os.dup2(kept, 2)
            os.write(write, END)  # its last byte: a child process may hold the other end of the pipe open
            listener.join()
            for fd in (kept, read, write):
                os.close(fd)
            lines = said.split(b"\n")
            heard += [line.decode(errors="replace") for line in lines if COMPLAINT.fullmatch(line)]
            others = b"\n".join(line for line in lines if not COMPLAINT.fullmatch(line))
            if others:
                with contextlib.suppress(OSError):
                    os.write(2, others)


def _after_fork() -> None:
    """A child that another thread has made must not wait for a thread that it does not have."""
    global ONE_AT_A_TIME
    ONE_AT_A_TIME = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
