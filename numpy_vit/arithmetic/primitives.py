"""Faster NumPy calls for a few plain operations on float32 and float64 arrays.

Measured in docs/performance.md.
"""

import functools
import math
import sys
from typing import Any

import numpy as np

Array = Any


def simd_features() -> list[str]:
    """The instructions NumPy uses on this processor, in its own names; none where it does not tell (before 1.25)."""
    try:
        config: Any = np.show_config(mode="dicts") or {}
    except TypeError:
        return []
    simd = config.get("SIMD Extensions", {})
    return [*simd.get("baseline", []), *simd.get("found", [])]


def _has_exp2() -> bool:
    """Whether NumPy's exp2 of float32 is vectorised here: with AVX-512 under Linux it is, and takes half of exp's time."""
    return sys.platform == "linux" and bool({"X86_V4", "AVX512_SKX"} & {*simd_features()})


# fast_power(TO_FAST_POWER * x) is exp(x), for float32.
fast_power, TO_FAST_POWER = (np.exp2, math.log2(math.e)) if _has_exp2() else (np.exp, 1.0)


def exp(x: Array, out: Array | None = None) -> Array:
    """e to the x, of float32 or float64. x any shape -> the same."""
    if x.dtype != np.float32 or fast_power is np.exp:
        return np.exp(x, out=out)
    with np.errstate(over="ignore"):  # to minus infinity, of which 0 is the right exp
        scaled = np.multiply(x, TO_FAST_POWER, out=out)
    return fast_power(scaled, out=scaled)


def row_products(a: Array, b: Array) -> Array:
    """The scalar product of every row. a (..., N), b (..., N) or (N,) -> (..., 1).

    BLAS adds them up as accurately as np.sum does, in a third of the time.
    """
    return np.matmul(a[..., None, :], b[..., None])[..., 0]


def row_sum(x: Array) -> Array:
    """The sum over the last axis. x (..., N) -> (..., 1)."""
    return row_products(x, np.ones(x.shape[-1], x.dtype))


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory of arrays up to 32 MB that are freed, for the next ones.

    Otherwise it gives memory back to the system, which hands it out anew page by page, each filled with zeros: a tenth of
    the forward pass. glibc goes by the largest array it has seen freed, so it is shown one, which is never written to.
    (mallopt(3), M_MMAP_THRESHOLD, "dynamic". Elsewhere this does nothing.)
    """
    np.empty(2**25 - 2**13, np.uint8)
