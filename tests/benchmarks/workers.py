"""The parent's side of the contenders' processes: one computes at a time, all others are stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, environment

from numpy_vit import InputError


class Failed(Exception):
    """A contender that cannot be run; the message says why."""


class Worker:
    """A contender's process: `ask` wakes it, waits for its answer and stops it again.

    Stopped (SIGSTOP), because threads that wait for work spin, in every BLAS and OpenMP, and would take the processor from
    whoever is being timed.
    """

    def __init__(self, name: str, folder: Path, threads: int, python: str = sys.executable) -> None:
        self.name = name
        command = [python, "-W", "ignore", str(Path(__file__).parent / "worker.py"), name, str(folder), str(threads)]
        self.log = (folder / f"{name}.log").open("w+b")
        self.process = subprocess.Popen(
            command,
            env=environment(name, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,  # Ctrl-C is the parent's, and what the process starts is stopped with it
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises Failed where it is an error, or none comes."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self._signal(signal.SIGCONT)
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            self._signal(signal.SIGSTOP)
        except (BrokenPipeError, ProcessLookupError):
            line = ""
        if not line:
            raise Failed(f"{self.name}: its process ended ({self.process.wait()}): {self.log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']} ({self.log.name})")
        return answer

    def _signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


class Field:
    """All contenders of a comparison, by name; those that cannot be loaded are left out and said so."""

    def __init__(self, folder: Path, names: Sequence[str], threads: int, pythons: dict[str, str], progress: Any) -> None:
        self.folder, self.threads, self.pythons, self.progress = folder, threads, pythons, progress
        self.workers: dict[str, Worker] = {}
        self.versions: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        for name in names:
            progress.say(f"{folder.name}: loading {name}")
            self.add(name)

    def add(self, name: str) -> None:
        worker = Worker(name, self.folder, self.threads, self.pythons.get(name, sys.executable))
        self.workers[name] = worker
        try:
            self.versions[name] = worker.ask(do="load")["version"]
        except Failed as why:
            self.leave_out(name, why)

    def leave_out(self, name: str, why: Exception) -> None:
        self.progress.clear()
        print(f"left out: {why}", file=sys.stderr)
        self.left_out[name] = str(why)
        self.workers.pop(name).close()

    def the_one(self) -> Worker:
        """Of a field of one contender. Raises InputError where it could not be loaded."""
        for worker in self.workers.values():
            return worker
        raise InputError("; ".join(self.left_out.values()))

    def about(self) -> dict[str, Any]:
        return {name: {"version": v, "about": CONTENDERS[name].about} for name, v in self.versions.items()}

    def __enter__(self) -> "Field":
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self.workers.values():
            worker.close()
