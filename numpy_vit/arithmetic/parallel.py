"""How work is divided between threads, and cut into pieces that fit the processor's cache. No arithmetic of its own.

NumPy lets go of Python's lock while it computes, so Python threads compute at the same time. A BLAS has threads too, and
two sets of threads get in each other's way. So:

- Where NUMPY_VIT_THREADS says how many threads to use (the command line sets it), and NumPy is not imported yet, BLAS is
  held to one thread, and all work is divided here: the pictures of a batch; of one picture some of the heads and of the
  hidden numbers for each thread, or, where somebody hears the steps, heads, columns of a product and rows.
- Elsewhere matrix products are left to BLAS and its threads, and only what works number by number is divided.

`RUN` says how the functions of numpy_vit.model are run so; arrays with an arithmetic of their own take no part.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .. import model
from ..errors import InputError, in_words
from ..parameters import Weights
from ..steps import Step
from .threads import THREADS_VARIABLE, threads_to_use

Array = Any
# Numbers at a time: a few arrays of them fit the cache. Smaller blocks cost more in all: after every NumPy call a thread must
# get Python's lock back, and where another thread has it just then, it sleeps and has to be woken.
BLOCK = 262_144
LEAST = 16_384  # numbers: a matrix product of fewer is done sooner than divided between threads
QUERIES = 256  # of long sequences, at a time
ROWS = 512  # tokens whose hidden numbers are in memory at a time


class Threads:
    """How many threads work, and the pool of those beside the caller's own."""

    def __init__(self) -> None:
        self.count = threads_to_use()
        self.own_products = THREADS_VARIABLE in os.environ and os.environ.get("OPENBLAS_NUM_THREADS") == "1"
        self.inside = threading.local()  # a thread that works already divides no further
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


def set_threads(count: int) -> None:
    """Use `count` threads from now on, in this process alone (numpy_vit.set_threads).

    Where BLAS has threads of its own this is for the work beside matrix products; NUMPY_VIT_THREADS, read at import, divides
    those too. Raises InputError for a count below 1.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"set_threads({in_words(count)}): give a whole number from 1 on")
    with THREADS.lock:
        pool, THREADS.pool, THREADS.count = THREADS.pool, None, count
    if pool is not None:
        pool.shutdown()


def parallel_for(work: Callable[[Any], None], items: Iterable[Any], products: bool = True) -> None:
    """work(item) for every item, in as many threads as are free; each takes the next item when it is done with one.

    products   whether the work is matrix products, which a BLAS with threads of its own divides itself
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
        with lock:
            for _ in queue:  # where this thread failed the others are to stop
                pass
        failures = [future.exception() for future in futures]
    for failure in failures:
        if failure is not None:
            raise failure


def even_slices(count: int, size: int, pieces: int) -> list[slice]:
    """range(count) in slices of about `size`, all alike, as many as `pieces` can share fairly."""
    number = max(1, round(count / size))
    number = min(count, number + -number % pieces)
    return [slice(count * n // number, count * (n + 1) // number) for n in range(number)]


def in_blocks(compute: Callable[..., Array], x: Array, *rest: Any, by_rows: bool, **named: Any) -> Array:
    """compute(x, *rest, out=...), a block of rows (or, not by_rows, of numbers) at a time: for what takes each for itself.

    The result has x's shape and dtype. `compute` may write it into `out`, which is never an argument's memory.
    """
    block = BLOCK if by_rows else BLOCK // 2  # activations need several arrays of their argument's size
    if x.size <= block:
        return compute(np.ascontiguousarray(x), *rest, out=np.empty(x.shape, x.dtype), **named)
    units = np.ascontiguousarray(x).reshape((-1, x.shape[-1]) if by_rows else (-1,))
    results = np.empty(units.shape, x.dtype)

    def work(part: slice) -> None:
        target = results[part]
        made = compute(units[part], *rest, out=target, **named)
        if made is not target:
            target[...] = made

    blocks = even_slices(len(units), max(1, block * len(units) // x.size), THREADS.free(products=False))
    parallel_for(work, blocks, products=False)
    return results.reshape(x.shape)


# The paper's functions, or what a family has in their place


def is_plain(x: Array) -> bool:
    """Whether x is an array of NumPy's own, of float32 or float64."""
    return type(x) is np.ndarray and x.dtype.char in "fd"


class TileStep(Step):
    """The contract of a step for some pictures, heads and queries; nobody hears of it."""

    tile: tuple[slice, slice, slice]
    first: tuple[int, ...]  # the sizes of the first three axes

    @classmethod
    def of(cls, step: Step, tile: tuple[slice, slice, slice], first: tuple[int, ...]) -> "TileStep":
        made = cls.__new__(cls)
        made.__dict__.update(step.__dict__, tile=tile, first=first, hear=None, fitting=set())
        return made

    def fits(self, shape: tuple[int, ...], dims: str) -> bool:
        """As of the whole step, but for the first three axes."""
        rest = " ".join(dims.split()[3:])
        return shape[:3] == self.first and super().fits(shape[3:], rest)

    def part_of(self, array: Array) -> Array:
        return array[self.tile if array.ndim == 4 else self.tile[1:]]


def in_tiles(attend: Callable[..., Array], query: Array, key: Array, value: Array, step: Step) -> Array:
    """attend, a few heads at a time, and of long sequences a few hundred queries; whole where the scores are heard.

    So the N x N scores of all heads never stand in memory at once, and what there is of them stays in the cache.
    query, key, value (B, H, N, K) -> (B, H, N, K)
    """
    if not is_plain(query) or step.touches("scores", "biased_scores", "probs"):
        return attend(query, key, value, step)
    B, H, N, K = query.shape
    threads = THREADS.free(products=True) if B == 1 and query.size >= LEAST else 1
    if B * H * N * N <= BLOCK and threads == 1:
        return attend(query, key, value, step)
    # The numbers of a token lie together, so that merging the heads is no work.
    context = np.empty((B, N, H, K), query.dtype).swapaxes(1, 2)
    rows = even_slices(N, QUERIES, 1) if N * N > BLOCK else [slice(0, N)]
    heads = even_slices(H, max(1, BLOCK // (N * N)), threads)

    def work(tile: tuple[slice, slice, slice]) -> None:
        b, h, _ = tile
        queries = query[tile]
        context[tile] = attend(queries, key[b, h], value[b, h], TileStep.of(step, tile, queries.shape[:3]))

    few = even_slices(B, max(1, BLOCK // (H * N * N)), threads)  # windows (numpy_vit.windows) are as many little pictures
    parallel_for(work, [(b, h, n) for b in few for h in heads for n in rows])
    return context


def over_heads(attention: Callable[..., Array], x: Array, w: Weights, config: Any, step: Step) -> Array:
    """Attention, every thread an equal number of the heads; what comes out is added up. (B, N, D) -> (B, N, D)."""
    return divided(attention, x, w, config, step, "heads", heads_of)


def over_hidden_numbers(mlp: Callable[..., Array], x: Array, w: Weights, config: Any, step: Step) -> Array:
    """An MLP, every thread an equal number of the hidden numbers, a few hundred tokens at a time. (B, N, D) -> (B, N, D)."""
    return divided(some_tokens_at_a_time(mlp), x, w, config, step, "mlp", hidden_numbers_of)


def divided(
    function: Callable[..., Array],
    x: Array,
    w: Weights,
    config: Any,
    step: Step,
    what: str,
    part_of: Callable[[Weights, int, int], Weights],
) -> Array:
    """The function, every thread with a part of its weights, as that of a narrower model; the parts' results are added up.

    So a thread waits for the others once, not after every product, and each of its products is narrower (Megatron-LM, arXiv
    1909.08053, does the same with whole processors). Whole where a step inside is heard.
    what   what is divided: "heads" or "mlp", as the config calls it
    """
    if not is_plain(x) or step.touches():
        return function(x, w, config, step)
    of = THREADS.free(products=True) if x.size >= LEAST else 1
    narrower = narrowed(config, what, of) if of > 1 else None
    if narrower is None:
        return function(x, w, config, step)
    results: list[Any] = [None] * of
    narrow = step.having(sizes={**step.sizes, "H": narrower.heads, "M": narrower.mlp}, fitting=set())

    def work(n: int) -> None:
        results[n] = function(x, part_of(w, n, of), narrower, narrow)

    parallel_for(work, range(of))
    for result in results[1:]:  # in this order, whichever was first
        results[0] += result
    return results[0]


@functools.lru_cache(maxsize=32)
def narrowed(config: Any, what: str, of: int) -> Any:
    """The config of a part; None where equal parts cannot be made, or something is done to the numbers of all together."""
    heads_together = config.context_norm or (config.qk_norm and not config.qk_norm_of_heads)
    together = config.mlp_norm if what == "mlp" else heads_together
    if getattr(config, what) % of or together or config.clipped_linears:  # a sum's bounds are not its parts'
        return None
    if what == "mlp":
        return config.replace(mlp=config.mlp // of)
    return config.replace(heads=config.heads // of, inner=config.inner_width // of)


def some_tokens_at_a_time(mlp: Callable[..., Array]) -> Callable[..., Array]:
    """An MLP takes each token for itself: so the hidden numbers of all tokens need not be in memory at once."""

    def run(x: Array, w: Weights, config: Any, step: Step) -> Array:
        B, N, D = x.shape
        if not is_plain(x) or step.touches() or B * N <= ROWS:
            return mlp(x, w, config, step)
        tokens, result = x.reshape(1, B * N, D), np.empty((1, B * N, D), x.dtype)
        for part in even_slices(B * N, ROWS, 1):
            some = step.having(sizes={**step.sizes, "B": 1, "N": part.stop - part.start}, fitting=set())
            result[:, part] = mlp(tokens[:, part], w, config, some)
        return result.reshape(B, N, D)

    return run


def heads_of(w: Weights, n: int, of: int) -> Weights:
    """Attention's weights for part n of `of`, as views: so many of the heads. The parts' outputs add up to the whole's."""
    changes = {name: columns(getattr(w, name), n, of) for name in ("query", "key", "value")}
    if "relative_positions" in w:
        changes["relative_positions"] = last_axis(w.relative_positions, n, of)
    return w.having(**changes, output=rows(w.output, n, of))


def hidden_numbers_of(w: Weights, n: int, of: int) -> Weights:
    """An MLP's weights for part n of `of`, as views: so many of the M hidden numbers."""
    gate = {"gate": columns(w.gate, n, of)} if "gate" in w else {}
    return w.having(hidden=columns(w.hidden, n, of), output=rows(w.output, n, of), **gate)


def columns(w: Weights, n: int, of: int) -> Weights:
    """A part of a linear layer's outputs."""
    return Weights(**{name: last_axis(array, n, of) for name, array in vars(w).items()})


def rows(w: Weights, n: int, of: int) -> Weights:
    """A part of a linear layer's inputs; the first alone has the bias, since it is to be added once."""
    weight = last_axis(w.weight.T, n, of).T
    return Weights(weight=weight, bias=w.bias) if n == 0 and "bias" in w else Weights(weight=weight)


def last_axis(x: Array, n: int, of: int) -> Array:
    """An equal part of the last axis, as a view."""
    size = x.shape[-1] // of
    return x[..., n * size : (n + 1) * size]


RUN: dict[Callable[..., Any], Callable[..., Any]] = {
    model.multi_head_attention: over_heads,
    model.attend: in_tiles,
    model.mlp: over_hidden_numbers,
}
"""Function of the paper -> how it, or what a family has in its place, is run: way(function, *inputs, step)."""


def in_chunks(run: Callable[[Array], Mapping[str, Array]], pixels: Array, size: int) -> dict[str, Array]:
    """run(pixels), about `size` pictures at a time, every thread its own; what is left over is for all threads together.

    run gives named arrays (B, ...), and so does this.
    """
    B, threads = len(pixels), THREADS.free(products=True)
    rest = B % threads
    whole: dict[str, Array] = {}
    lock = threading.Lock()

    def work(part: slice) -> None:
        results = run(pixels[part])
        with lock:
            if not whole:
                whole.update({name: np.empty((B, *x.shape[1:]), x.dtype) for name, x in results.items()})
        for name, result in results.items():
            whole[name][part] = result

    if rest < B:
        parallel_for(work, even_slices(B - rest, size, threads))
    if rest:
        work(slice(B - rest, B))
    return whole
