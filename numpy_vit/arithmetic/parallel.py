"""How work is spread over threads and cut into pieces that fit the processor's cache. No arithmetic of its own.

NumPy lets go of Python's lock while it computes, so Python threads compute at the same time. A BLAS has threads too, and
two sets of threads get in each other's way. So:

- Where NUMPY_VIT_THREADS says how many threads to use (the command line sets it), and NumPy is not imported yet, BLAS is
  held to one thread, and all work is spread here: the pictures of a batch; of one picture shares of the heads and of the
  hidden numbers, or, where somebody listens to the steps, heads, columns of a product and rows.
- Elsewhere matrix products are left to BLAS and its threads, and only what works number by number is spread.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .threads import OURS, threads_to_use

Array = Any
# Numbers at a time: a few arrays of them fit the cache. Smaller blocks cost more in all: after every NumPy call a thread must
# get Python's lock back, and where another thread has it just then, it sleeps and has to be woken.
BLOCK = 262_144
LEAST = 16_384  # numbers: a matrix product of fewer is done sooner than shared with another thread
QUERIES = 256  # of long sequences, at a time


class Threads:
    """How many threads work, and the pool of those beside the caller's own."""

    def __init__(self) -> None:
        self.count = threads_to_use()
        self.own_products = OURS in os.environ and os.environ.get("OPENBLAS_NUM_THREADS") == "1"
        self.inside = threading.local()  # a thread that works already spreads no further
        self.forget()

    def forget(self) -> None:
        """Start without a pool: after a fork its threads are gone."""
        self.lock = threading.Lock()
        self.pool: ThreadPoolExecutor | None = None

    def free(self, products: bool) -> int:
        """How many threads may take part in what is to be done now."""
        busy = getattr(self.inside, "working", False)
        return 1 if busy or (products and not self.own_products) else self.count

    def submit(self, work: Callable[[], None]) -> Any:
        with self.lock:
            if self.pool is None:
                self.pool = ThreadPoolExecutor(self.count - 1, "numpy_vit")
            return self.pool.submit(self._work, work, np.geterr())

    def _work(self, work: Callable[[], None], errors: Any) -> None:
        self.inside.working = True
        with np.errstate(**errors):  # as the caller has it; a thread has its own
            work()


THREADS = Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=THREADS.forget)


def each(work: Callable[[Any], None], items: Iterable[Any], products: bool = True) -> None:
    """work(item) for every item, in as many threads as are free; each takes the next item when it is done with one.

    products   whether the work is matrix products, which a BLAS with threads of its own spreads itself
    Raises what `work` raises.
    """
    items = list(items)
    helpers = min(THREADS.free(products), len(items)) - 1
    if helpers < 1:
        for item in items:
            work(item)
        return
    queue = iter(items)
    lock = threading.Lock()

    def take() -> None:
        while True:
            with lock:
                item = next(queue, queue)
            if item is queue:
                return
            work(item)

    futures = [THREADS.submit(take) for _ in range(helpers)]
    THREADS.inside.working = True
    try:
        take()
    finally:
        THREADS.inside.working = False
        for _ in queue:  # where this thread failed the others are to stop
            pass
        failures = [future.exception() for future in futures]
    for failure in failures:
        if failure is not None:
            raise failure


def parts(count: int, size: int, pieces: int) -> list[slice]:
    """range(count) in slices of about `size`, all alike, as many as `pieces` can share fairly."""
    number = max(1, round(count / size))
    number = min(count, number + -number % pieces)
    return [slice(count * n // number, count * (n + 1) // number) for n in range(number)]


# Decorators for the functions of numpy_vit.ops. Arrays that bring their own arithmetic (numpy_vit.arithmetic.shape_only,
# numpy_vit.arithmetic.portable) go through the function as it is written.


def by_rows(function: Callable[..., Array]) -> Callable[..., Array]:
    """For a function that takes each row (last axis) for itself, as softmax does: a block of rows at a time.

    The result has the argument's shape and dtype; the function is given `out` and may write it there. `out` may be the
    argument itself, whose numbers are then gone.
    """
    return _blockwise(function, rows=True)


def elementwise(function: Callable[..., Array]) -> Callable[..., Array]:
    """For a function that takes each number for itself, as GELU does: a block of numbers at a time. `out` as above."""
    return _blockwise(function, rows=False)


def _blockwise(function: Callable[..., Array], rows: bool) -> Callable[..., Array]:
    @functools.wraps(function)
    def call(x: Array, *rest: Any, out: Array | None = None) -> Array:
        if type(x) is not np.ndarray or x.size == 0:
            return function(x, *rest)
        shape = (-1, x.shape[-1]) if rows else (-1,)
        units = np.ascontiguousarray(x).reshape(shape)
        out = np.empty(x.shape, x.dtype) if out is None else out
        if not out.flags.c_contiguous:
            raise ValueError("out: its numbers must lie in order")
        results = out.reshape(shape)

        def work(part: slice) -> None:
            target = results[part]
            made = function(units[part], *rest, out=target)
            if made is not target:
                target[...] = made

        pieces = 1 if x.size <= BLOCK else THREADS.free(products=False)
        each(work, parts(len(units), max(1, BLOCK * len(units) // x.size), pieces), products=False)
        return out

    return call


def by_columns(linear: Callable[..., Array]) -> Callable[..., Array]:
    """For x W + b: every thread its own columns of W."""

    @functools.wraps(linear)
    def call(x: Array, weight: Array, bias: Array | None = None) -> Array:
        if type(x) is not np.ndarray:
            return linear(x, weight, bias)
        rows, columns = x.reshape(-1, x.shape[-1]), weight.shape[-1]
        y = np.empty((len(rows), columns), x.dtype)

        def work(part: slice) -> None:
            linear(rows, weight[:, part], None if bias is None else bias[part], y[:, part])

        pieces = 1 if y.size < LEAST else THREADS.free(products=True)
        each(work, parts(columns, columns, pieces))
        return y.reshape(*x.shape[:-1], columns)

    return call


def over_heads(attend: Callable[..., Array], query: Array, key: Array, value: Array, bias: Array | None, step: Any) -> Array:
    """attend(query, key, value, bias, step, out), a few heads at a time, and of long sequences a few hundred queries.

    So the N x N scores of all heads never stand in memory at once, and what there is of them stays in the cache.
    query, key, value (B, H, N, K), bias (H, N, N) or None -> (B, H, N, K)
    """
    B, H, N, K = query.shape
    # The numbers of a token lie together, so that merging the heads is no work.
    context = np.empty((B, N, H, K), query.dtype).swapaxes(1, 2)
    rows = parts(N, QUERIES, 1) if N * N > BLOCK else [slice(0, N)]
    heads = parts(H, max(1, BLOCK // (N * N)), THREADS.free(products=True) if B == 1 else 1)

    def work(part: tuple[slice, slice, slice]) -> None:
        b, h, n = part
        asked = query[b, h, n]
        few = step.of_part(asked.shape[:3])
        attend(asked, key[b, h], value[b, h], None if bias is None else bias[h, n], few, context[b, h, n])

    each(work, [(slice(b, b + 1), h, n) for b in range(B) for h in heads for n in rows])
    return context


def by_shares(share_of: Callable[[Any, int, int], Any], what: str) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    """For attention and MLP: every thread takes an equal share of the heads or of the hidden numbers, and what comes out is
    added up. So a thread waits for the others once, not after every product, and each of its products is half as wide.

    share_of(w, n, of) gives the weights of share n; the function sees them as those of a narrower model.
    what               what is shared: "heads" or "mlp", as the config calls it
    (Megatron-LM, arXiv 1909.08053, does the same with whole processors.)
    """

    def decorate(function: Callable[..., Array]) -> Callable[..., Array]:
        @functools.wraps(function)
        def call(x: Array, w: Any, config: Any, step: Any, *rest: Any) -> Array:
            of = THREADS.free(products=True) if type(x) is np.ndarray and x.size >= LEAST and step.unheard else 1
            narrower = narrowed(config, what, of) if of > 1 else None
            if narrower is None:
                return function(x, w, config, step, *rest)
            results: list[Any] = [None] * of

            def work(n: int) -> None:
                results[n] = function(x, share_of(w, n, of), narrower, step.of_share(narrower), *rest)

            each(work, range(of))
            for result in results[1:]:  # in this order, whichever was first
                results[0] += result
            return results[0]

        return call

    return decorate


@functools.lru_cache(maxsize=32)
def narrowed(config: Any, what: str, of: int) -> Any:
    """The config of a share; None where equal shares cannot be made, or all hidden numbers are normed together."""
    if getattr(config, what) % of or (what == "mlp" and config.mlp_norm):
        return None
    if what == "mlp":
        return config.replace(mlp=config.mlp // of)
    return config.replace(heads=config.heads // of, inner=config.inner_width // of)


def in_chunks(run: Callable[[Array], Any], pixels: Array, size: int) -> Any:
    """run(pixels), about `size` pictures at a time, every thread its own; what is left over is shared by all threads.

    run gives a named tuple of arrays (B, ...) or None, and so does this.
    """
    B, threads = len(pixels), THREADS.free(products=True)
    shared = B % threads
    whole: list[Any] = []
    lock = threading.Lock()

    def work(part: slice) -> None:
        results = run(pixels[part])
        with lock:
            if not whole:
                empty = (x if x is None else np.empty((B, *x.shape[1:]), x.dtype) for x in results)
                whole.append(type(results)(*empty))
        for array, result in zip(whole[0], results, strict=True):
            if result is not None:
                array[part] = result

    if shared < B:
        each(work, parts(B - shared, size, threads))
    if shared:
        work(slice(B - shared, B))
    return whole[0]
