"""numpy_vit: the Vision Transformer in explicit NumPy.

    model  = numpy_vit.load()                    # the shipped digits model; or a file, a Hugging Face folder, a hub name
    pixels = model.preprocess("picture.png")     # (B, C, Y, X)
    out    = model(pixels)                       # out.logits, out.last_hidden_state, out.attentions, ...

The forward pass is in `model.py`, its arithmetic in `ops.py`, its shape contract in `steps.py`: read them in that order.
Names are loaded when first used, so that the import costs little more than NumPy's.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import ViTConfig as ViTConfig
    from .config import variant as variant
    from .config import variants as variants
    from .embedder import Embedder as Embedder
    from .errors import InputError as InputError
    from .errors import InvariantError as InvariantError
    from .errors import ShapeError as ShapeError
    from .images import Preprocess as Preprocess
    from .loading import load as load
    from .model import ViT as ViT
    from .model import ViTOutput as ViTOutput
    from .parameters import parameter_count as parameter_count
    from .seeded import random_model as random_model
    from .tracing import Trace as Trace
    from .tracing import trace as trace

__version__ = "0.1.0"

_WHERE = {
    "ViTConfig": "config",
    "variant": "config",
    "variants": "config",
    "Embedder": "embedder",
    "InputError": "errors",
    "InvariantError": "errors",
    "ShapeError": "errors",
    "Preprocess": "images",
    "load": "loading",
    "ViT": "model",
    "ViTOutput": "model",
    "parameter_count": "parameters",
    "random_model": "seeded",
    "Trace": "tracing",
    "trace": "tracing",
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'numpy_vit' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def threads_to_use() -> int:
    """NUMPY_VIT_THREADS, or what a BLAS is told by the environment, or the processors this process may use."""
    for name in ("NUMPY_VIT_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text.isdigit() and int(text):
            return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hold_blas() -> None:
    """One BLAS thread where NUMPY_VIT_THREADS asks for threads of our own (numpy_vit.spread); a BLAS reads it but once."""
    if "NUMPY_VIT_THREADS" in os.environ and "numpy" not in sys.modules:
        for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
            os.environ[name] = "1"


hold_blas()
