"""Which kernel NumPy's OpenBLAS computes with here: "Haswell", "SkylakeX", ...; OPENBLAS_CORETYPE chooses another."""

import ctypes
from pathlib import Path

import numpy as np


def blas_kernel():
    """The kernel's name, or "unknown" for a NumPy over another BLAS."""
    place = Path(np.__file__).parent
    for library in [*place.parent.glob("numpy.libs/*openblas*"), *place.glob(".dylibs/*openblas*")]:
        loaded = ctypes.CDLL(str(library))
        for name in ("scipy_openblas_get_corename64_", "openblas_get_corename64_", "openblas_get_corename"):
            if hasattr(loaded, name):
                kernel = getattr(loaded, name)
                kernel.restype = ctypes.c_char_p
                return kernel().decode()
    return "unknown"


if __name__ == "__main__":
    print(blas_kernel())
