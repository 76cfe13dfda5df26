"""numpy_vit: the Vision Transformer in explicit NumPy.

    model  = numpy_vit.load()                    # the shipped digits model; or a file, a Hugging Face folder, a hub name
    pixels = model.preprocess("picture.png")     # (B, C, Y, X)
    out    = model(pixels)                       # out.logits, out.last_hidden_state, out.attentions, ...

The forward pass is in `model.py`, its arithmetic in `ops.py`, its shape contract in `steps.py`: read them in that order.
Names are loaded when first used, so that the import costs little more than NumPy's.
"""

from .arithmetic.threads import limit_blas

TYPE_CHECKING = False  # as typing has it, whose import would take longer than all the rest of this one

if TYPE_CHECKING:
    from . import lens as lens
    from .arithmetic.parallel import set_threads as set_threads
    from .config import ViTConfig as ViTConfig
    from .config import variant as variant
    from .config import variants as variants
    from .errors import InputError as InputError
    from .errors import InvariantError as InvariantError
    from .errors import NumpyVitError as NumpyVitError
    from .errors import ShapeError as ShapeError
    from .models.embedder import Embedder as Embedder
    from .models.image_tokens import image_tokens as image_tokens
    from .models.loading import load as load
    from .models.seeded import random_model as random_model
    from .parameters import parameter_count as parameter_count
    from .pictures.images import Preprocess as Preprocess
    from .tracing.tracer import Trace as Trace
    from .tracing.tracer import trace as trace
    from .vit import ViT as ViT
    from .vit import ViTOutput as ViTOutput

__version__ = "0.1.0"

_WHERE = {
    "ViTConfig": "config",
    "variant": "config",
    "variants": "config",
    "Embedder": "models.embedder",
    "InputError": "errors",
    "InvariantError": "errors",
    "NumpyVitError": "errors",
    "ShapeError": "errors",
    "Preprocess": "pictures.images",
    "image_tokens": "models.image_tokens",
    "load": "models.loading",
    "ViT": "vit",
    "ViTOutput": "vit",
    "parameter_count": "parameters",
    "random_model": "models.seeded",
    "set_threads": "arithmetic.parallel",
    "Trace": "tracing.tracer",
    "trace": "tracing.tracer",
}

_MODULES = ("lens",)

__all__ = ["__version__", *sorted(_WHERE), *_MODULES]


if not TYPE_CHECKING:  # else every misspelt name would have a type

    def __getattr__(name: str) -> object:
        if name not in (*_WHERE, *_MODULES):
            raise AttributeError(f"module 'numpy_vit' has no attribute '{name}'")
        import importlib

        if name in _MODULES:
            return importlib.import_module(f".{name}", __name__)
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


limit_blas()
