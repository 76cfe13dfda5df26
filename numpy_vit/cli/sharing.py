"""How many threads a command takes, decided before NumPy is imported."""

import argparse
import os
from pathlib import Path

from ..arithmetic.threads import THREADS_VARIABLE, limit_blas, threads_to_use
from ..config import DIGITS

SMALL_MODEL = 20_000_000  # bytes: a second thread gains nothing below


def share_threads(arguments: argparse.Namespace) -> None:
    """Before NumPy is imported: one BLAS thread, and threads of numpy_vit's own (arithmetic.parallel) for what is large.

    As many as OPENBLAS_NUM_THREADS or OMP_NUM_THREADS say, else one a processor. Where there is little or nothing to
    compute one thread is enough: a second one of OpenBLAS's would only spin. Left alone: goldens (`portable` arithmetic
    makes one matrix product at a time), and who has set NUMPY_VIT_THREADS.
    """
    if getattr(arguments, "action", None) is not None or getattr(arguments, "dtype", None) == "portable":
        return
    if hasattr(arguments, "threads"):  # bench, whose option goes before the variable
        os.environ[THREADS_VARIABLE] = str(arguments.threads or threads_to_use())
    elif little_to_compute(arguments):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return
    os.environ.setdefault(THREADS_VARIABLE, str(threads_to_use()))
    limit_blas()


def little_to_compute(arguments: argparse.Namespace) -> bool:
    """Whether the command runs a small model, or none."""
    values = getattr(arguments, "with_values", None)
    weights = values[0] if values else getattr(arguments, "weights", None)
    if weights is None or weights == DIGITS:
        return True
    path = Path(weights)
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return path.exists() and sum(file.stat().st_size for file in files) < SMALL_MODEL
