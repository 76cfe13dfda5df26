"""The process of one contender: loads, then answers requests, a line of JSON each, until its standard input ends.

    python tests/benchmarks/worker.py NAME FOLDER THREADS

Requests: {"do": "load"}, {"do": "logits", "pixels": FILE, "to": FILE}, {"do": "run", "pixels": FILE, "warm": true},
{"do": "memory", "pixels": FILE, "passes": 3}. The answer is a line of JSON; "error" in it says what went wrong.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]  # these files, the tests' helpers, numpy_vit


def main(name: str, folder: str, threads: str) -> None:
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])  # before anyone counts processors
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped process would outlive its parent for ever
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    served = Served(name, Path(folder), int(threads))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(served, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
        print(json.dumps(answer), file=answers, flush=True)


class Served:
    """A contender, and what it was last fed with."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        self.name, self.folder, self.threads = name, folder, threads
        self.fed: tuple[str, Any] = ("", None)

    def load(self) -> dict[str, Any]:
        from contenders import CONTENDERS

        self.model = CONTENDERS[self.name].load(self.folder, self.threads)
        return {"version": self.model.version}

    def feed(self, pixels: str) -> Any:
        import numpy as np

        if self.fed[0] != pixels:
            self.fed = ("", None)  # the old one makes room first
            self.fed = (pixels, self.model.feed(np.load(pixels)))
        return self.fed[1]

    def logits(self, pixels: str, to: str) -> dict[str, Any]:
        """The untimed first run, in which much is compiled; its logits go into a file."""
        import numpy as np

        found = self.model.logits(self.model.run(self.feed(pixels)))
        if found is not None:
            np.save(to, found)
        return {"logits": found is not None}

    def run(self, pixels: str, warm: bool) -> dict[str, Any]:
        """One timed run; before it an untimed one, since the caches are full of what others did, and threads sleep."""
        fed, run = self.feed(pixels), self.model.run
        if warm:
            run(fed)
        return {"seconds": timed(lambda: run(fed))}

    def memory(self, pixels: str, passes: int) -> dict[str, Any]:
        """Bytes in use with weights and input, and the most above that in the first passes, lazy loading included."""
        from numpy_vit.cli.benchmarking import memory_in_use, pass_memory

        fed, run = self.feed(pixels), self.model.run
        self.model.touch()
        base = memory_in_use()
        assert base is not None

        def several() -> None:
            for _ in range(passes):
                run(fed)

        return {"base": base, "above": pass_memory(several, base)}


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*sys.argv[1:])
