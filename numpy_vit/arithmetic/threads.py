"""How many threads, and whose: what the environment says. Imports no NumPy, for a BLAS reads its variables with it."""

import os
import sys

THREADS_VARIABLE = "NUMPY_VIT_THREADS"
BLAS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def usable_cpus() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_to_use() -> int:
    """NUMPY_VIT_THREADS, or what a BLAS is told by the environment, or the processors this process may use."""
    for name in (THREADS_VARIABLE, "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text.isdigit() and int(text):
            return int(text)
    return usable_cpus()


def limit_blas() -> None:
    """One BLAS thread where NUMPY_VIT_THREADS asks for threads of our own (arithmetic.parallel); a BLAS reads it but once."""
    if THREADS_VARIABLE in os.environ and "numpy" not in sys.modules:
        for name in BLAS:
            os.environ[name] = "1"
