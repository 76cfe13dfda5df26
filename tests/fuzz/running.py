"""Inputs given to a target within limits, and what was found."""

import contextlib
import dataclasses
import functools
import gc
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from numpy_vit import InputError, InvariantError, ShapeError, cli
from numpy_vit.convert import convert

from .targets import TARGETS, Materials, quiet

SECONDS = 5.0
MEMORY = 1 << 30  # bytes above what the process has when it begins
DECLARED = (InputError, ShapeError, InvariantError)


class TooLong(BaseException):
    """Not an Exception, which a reader might take for a damaged file."""


@dataclasses.dataclass
class Tally:
    """What became of a target's inputs."""

    target: str
    inputs: int = 0
    read: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    findings: list[tuple[int, str]] = dataclasses.field(default_factory=list)  # input, what happened


def one_input(target, materials, seed, number):
    """Make an input and have it read -> "read", "refused", or what is wrong. Input and target follow from seed and number."""
    rng = random.Random(f"{seed}/{target}/{number}")
    rng.number = number
    run = TARGETS[target](materials, rng)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with quiet(), warnings.catch_warnings(action="ignore"):
            run()
        return "read"
    except DECLARED as error:
        text = str(error)
        if not text.isprintable() or len(text) > 1200:
            return f"message of {len(text)} characters: {text[:100]!r}"
        return "refused"
    except TooLong:
        return f"more than {SECONDS:g} s at {where(sys.exc_info()[2])}"
    except BaseException as error:
        return f"{type(error).__name__} at {where(error.__traceback__)}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def where(trace):
    """The last line of ours in a traceback."""
    frames = [frame for frame in traceback.extract_tb(trace) if "numpy_vit" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


def many_inputs(target, seed, numbers, say=None):
    """A target's inputs in this process; `say` is told each number before it is tried."""

    def too_long(*_):
        raise TooLong

    tally = Tally(target)
    materials = materials_of_this_process()
    before = signal.signal(signal.SIGALRM, too_long)
    try:
        with tempfile.TemporaryDirectory(dir=materials.folder) as folder:
            materials.work = Path(folder) / "work"
            for number in numbers:
                if say:
                    say(number)
                start = time.perf_counter()
                result = one_input(target, materials, seed, number)
                took = time.perf_counter() - start
                tally.inputs, tally.seconds, tally.slowest = tally.inputs + 1, tally.seconds + took, max(tally.slowest, took)
                tally.read += result == "read"
                if result not in ("read", "refused"):
                    tally.findings.append((number, result))
    finally:
        signal.signal(signal.SIGALRM, before)
    return tally


@functools.cache
def materials_of_this_process():
    """The valid inputs, made once; children find them there, and with them what the readers keep after their first use.

    They lie in memory where the system has a place for that: most of the time would be spent on files otherwise.
    """
    place = tempfile.TemporaryDirectory(prefix="numpy-vit-fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    with warnings.catch_warnings(action="ignore"), quiet():
        materials = Materials(Path(place.name))
    materials.place = place  # removed with it, when this process ends
    return materials


def warmed():
    """Read what is valid once, and keep the parser of the command line, so that no child has to begin with that."""
    materials = materials_of_this_process()
    with warnings.catch_warnings(action="ignore"), quiet():
        for folder in materials.folders:
            with contextlib.suppress(*DECLARED):  # some must be told more
                convert(folder)
    cli.parser = functools.cache(cli.parser)
    gc.collect()
    gc.freeze()  # children need not go through it again and again


def limited():
    """Let this process have a gigabyte more than it has."""
    with contextlib.suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def in_a_child(target, seed, numbers, deadline):
    """The same in a process of its own: a signal, or a hang that no alarm ends, is a finding, and the rest is gone on with."""
    numbers = list(numbers)
    total = Tally(target)
    while numbers:
        tally, last = forked(target, seed, numbers, deadline)
        if tally is not None:
            merge(total, tally)
            break
        total.inputs += 1
        total.findings.append((last, "the process was killed, by a signal or for a hang"))
        numbers = [number for number in numbers if number > last]
    return total


def merge(total, tally):
    total.inputs, total.read = total.inputs + tally.inputs, total.read + tally.read
    total.seconds, total.slowest = total.seconds + tally.seconds, max(total.slowest, tally.slowest)
    total.findings += tally.findings


def forked(target, seed, numbers, deadline):
    """(what a child found, None), or (None, the input at which it ended)."""
    import multiprocessing

    fork = multiprocessing.get_context("fork")
    receive, send = fork.Pipe(duplex=False)

    def work():
        limited()
        send.send(many_inputs(target, seed, numbers, send.send))

    child = fork.Process(target=work)
    child.start()
    send.close()
    last = numbers[0]
    try:
        while receive.poll(deadline):
            told = receive.recv()
            if isinstance(told, Tally):
                child.join()
                return told, None
            last = told
    except EOFError:
        pass
    child.join(SECONDS)
    if child.exitcode and child.exitcode > 0:  # no signal: what makes the inputs has failed, and would again
        raise RuntimeError(f"the fuzzer itself failed at {target}, input {last}: see above")
    child.kill()
    child.join()
    return None, last
