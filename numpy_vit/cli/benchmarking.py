"""How long the forward pass takes on this machine, and how near that is to its matrix products alone.

Definitions. A round runs the model once and its bare matrix products once, one after the other, so that what else the
machine does meets both; a ratio is the median of the rounds' ratios, not the ratio of two medians. Bare products: those the
tracer saw, in their order and of the same shapes, on contiguous operands with the result's memory at hand, every weight
matrix an array of its own as in the model. GFLOP/s counts the matrix products' multiply-accumulates, two FLOPs each.
Memory: the most the process had in use during the pass, above what it had with weights and pixels in memory.
"""

import collections
import dataclasses
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..arithmetic.parallel import THREADS
from ..arithmetic.primitives import simd_features
from ..arithmetic.threads import BLAS, THREADS_VARIABLE, usable_cpus
from ..models.seeded import uniform
from ..parameters import folded
from ..tracing.tracer import Trace
from ..vit import ViT

Array = Any
VARIABLES = (THREADS_VARIABLE, "OMP_NUM_THREADS", *BLAS, "OPENBLAS_CORETYPE")  # the last chooses its kernels
SECONDS, FEWEST, MOST = 10.0, 3, 20  # how long one batch size is measured, in how many rounds


def python_threads() -> int:
    """How many threads of its own a forward pass divides its matrix products between; 1 where that is left to the BLAS."""
    return THREADS.free(products=True)


# The matrix products alone


class BareProducts:
    """The matrix products of a traced forward pass and nothing else: calling it runs them all once.

    Each of `threads` Python threads computes its share of every product and waits for no other.
    """

    def __init__(self, traced: Trace, threads: int = 1) -> None:
        generator, dtype = np.random.default_rng(0), np.dtype(traced.dtype)
        shared: dict[tuple[str, tuple[int, ...]], Array] = {}  # activations are used again and again, as a cache sees them

        def numbers(shape: tuple[int, ...]) -> Array:
            return generator.random(shape, np.float32).astype(dtype, copy=False)

        def operand(role: str, shape: tuple[int, ...]) -> Array:
            if (role, shape) not in shared:
                shared[role, shape] = numbers(shape)
            return shared[role, shape]

        self.shares: list[list[tuple[Array, Array, Array]]] = [[] for _ in range(threads)]
        self.macs = 0
        for left, right in traced.products:
            a_shape, b_shape = one_stack(left, right)
            weight = len(b_shape) == 2
            a, b = operand("left", a_shape), numbers(b_shape) if weight else operand("right", b_shape)
            out = operand("result", (*a_shape[:-1], b_shape[-1]))
            self.macs += out.size * a_shape[-1]
            for share, part in zip(self.shares, divided(a, b, out, threads), strict=True):
                share.append(part)
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __call__(self) -> None:
        if self.pool is None:
            run_products(self.shares[0])
        else:
            list(self.pool.map(run_products, self.shares))


def run_products(share: Sequence[tuple[Array, Array, Array]]) -> None:
    """Every product of a thread's share, in order."""
    for a, b, out in share:
        np.matmul(a, b, out=out)


def one_stack(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes with the leading axes made one: (B, N, D) @ (D, M) is (B*N, D) @ (D, M), heads are B*H matrices."""
    if len(b) == 2:
        return (math.prod(a[:-1]), a[-1]), b
    count = math.prod(np.broadcast_shapes(a[:-2], b[:-2]))
    return (count, *a[-2:]), (count, *b[-2:])


def divided(a: Array, b: Array, out: Array, parts: int) -> list[tuple[Array, Array, Array]]:
    """A product as `parts` products, all views: a stack by matrices, one matrix along the longer side of the result."""
    if out.ndim == 3:
        cut = [np.array_split(x, parts) for x in (a, b, out)]
    elif len(a) >= b.shape[1]:
        cut = [np.array_split(a, parts), [b] * parts, np.array_split(out, parts)]
    else:
        cut = [[a] * parts, np.array_split(b, parts, axis=1), np.array_split(out, parts, axis=1)]
    return list(zip(*cut, strict=True))


# Measuring


@dataclasses.dataclass
class Measurement:
    """What was measured of one model at one batch size, round by round, in seconds."""

    traced: Trace
    model: list[float] = dataclasses.field(default_factory=list)
    products: list[float] = dataclasses.field(default_factory=list)
    listening: list[float] = dataclasses.field(default_factory=list)  # the pass with a listener that looks at the clock
    steps: list[dict[str, float]] = dataclasses.field(default_factory=list)  # that pass's time by step
    memory: int | None = None  # bytes

    @property
    def batch(self) -> int:
        return self.traced.sizes["B"]

    def as_dict(self) -> dict[str, Any]:
        """Everything, quartiles and ratio included, as plain data."""
        middle = statistics.median(self.model)
        return {
            "batch": self.batch,
            "macs": self.traced.macs,
            "rounds": len(self.products),
            "seconds": quartiles(self.model),
            "pictures_per_second": self.batch / middle,
            "gflops": self.traced.flops / middle / 1e9,
            "products_seconds": quartiles(self.products),
            "ratio_to_products": quartiles(ratios(self.model, self.products)),
            "memory": self.memory,
            "listening_seconds": quartiles(self.listening) if self.listening else None,
            "steps": by_step(self.steps, self.traced),
            "all_seconds": {"model": self.model, "products": self.products, "listening": self.listening},
        }


def ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Round by round, a / b; a round that was interrupted before b counts for nothing."""
    return [x / y for x, y in zip(a, b, strict=False)]


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles; of fewer than four values minimum and maximum in place of the quartiles."""
    low, high = min(values), max(values)
    if len(values) > 3:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "low": low, "high": high}


def measure(
    model: ViT,
    measurement: Measurement,
    bare: BareProducts,
    rounds: int | None = None,
    steps: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Run `rounds` rounds and put their times into `measurement`, whose lists are right also after an interruption.

    rounds   None: as many as fit in SECONDS, but FEWEST to MOST
    steps    let a third run tell where the time goes
    say      called with what is being done
    """
    pixels = seeded_pixels(model, measurement.batch)
    say(f"batch {measurement.batch}: warming up")
    model(pixels)
    bare()
    start, n = time.perf_counter(), 0
    while n < (rounds or wanted_rounds(n, time.perf_counter() - start)):
        n += 1
        say(f"batch {measurement.batch}: round {n}")
        seconds = timed(lambda: model(pixels)), timed(bare)
        clock = StepClock()
        listening = timed(lambda: model(pixels, record=clock)) if steps else None  # noqa: B023 (called at once)
        measurement.model.append(seconds[0])
        measurement.products.append(seconds[1])
        if listening is not None:
            measurement.listening.append(listening)
            measurement.steps.append(clock.seconds)


def wanted_rounds(done: int, seconds: float) -> int:
    """How many rounds in all, when some are done and took so long."""
    if done < FEWEST:
        return FEWEST
    return min(MOST, int(done * SECONDS / seconds))


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def seeded_pixels(model: ViT, batch: int) -> Array:
    """The same pixels on every machine. -> (B, C, Y, X) in the model's dtype."""
    return uniform(0, "pixels", (batch, model.config.channels, *model.config.image), model.dtype)


class StepClock:
    """A listener: the time from one step's announcement to the next is that step's; blocks are summed up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.last = time.perf_counter()

    def __call__(self, name: str, array: Array, dims: str) -> None:
        now = time.perf_counter()
        self.seconds[folded(name)] += now - self.last
        self.last = time.perf_counter()


def by_step(runs: Sequence[dict[str, float]], traced: Trace) -> list[dict[str, Any]]:
    """Each step's median time, its share of their sum, and its multiply-accumulates, in the order of execution."""
    if not runs:
        return []
    macs = dict.fromkeys(runs[0], 0)
    for row in traced:
        macs[folded(row.name)] += row.macs
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    total = sum(medians.values())
    return [
        {"step": name, "seconds": seconds, "share": seconds / total, "macs": macs[name]} for name, seconds in medians.items()
    ]


# Memory


def pass_memory(run: Callable[[], Any], base: int) -> int | None:
    """Call `run`; how many bytes the process had in use at most, above `base`. None where the system does not tell.

    Only a fresh process gives a true answer: memory that was freed before may be used again without being seen.
    """
    resets = reset_peak()
    run()
    peak = peak_memory()
    return None if peak is None or (not resets and peak <= base) else max(0, peak - base)


def reset_peak() -> bool:
    """Let the process's peak memory be what it has now. Linux can; elsewhere the peak since the start counts."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_memory() -> int | None:
    """The most memory this process had in use, in bytes."""
    status = found_in("/proc/self/status", r"^VmHWM:\s+(\d+) kB$")
    if status is not None:
        return int(status) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def memory_in_use() -> int | None:
    """The memory this process has in use, in bytes; elsewhere than on Linux, the most it had."""
    status = found_in("/proc/self/status", r"^VmRSS:\s+(\d+) kB$")
    return peak_memory() if status is None else int(status) * 1024


def found_in(path: str, pattern: str) -> str | None:
    """What the pattern's group is in a file of Linux's; None where there is no such file, or nothing like it in it."""
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1].strip() if found else None


def touch(model: ViT) -> None:
    """Bring every weight into memory: those in a file's map come when they are first read."""
    for tensor in model.tensors.values():
        np.asarray(tensor).sum()


# The machine


def machine() -> dict[str, Any]:
    """The processor, its cores, Python, NumPy, its BLAS, and what limits their threads."""
    config: Any = np.show_config(mode="dicts") or {}
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return {
        "processor": found_in("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine(),
        "cpus": usable_cpus(),
        "cpus_of_machine": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": {"name": blas.get("name", "unknown"), "version": blas.get("version", "unknown")},
        "simd": simd_features(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "python_threads": python_threads(),
    }
