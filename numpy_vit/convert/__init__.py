"""Foreign checkpoints -> ours: one module, with one table of names, for each family.

What is used from outside is in converting.py, which loads all families: when it is first asked for, since a converted file
needs none of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .converting import FAMILIES as FAMILIES
    from .converting import config_of as config_of
    from .converting import convert as convert
    from .converting import convert_opened as convert_opened
    from .converting import convert_source as convert_source
    from .converting import family_of as family_of
    from .converting import recognise as recognise

__all__ = ["FAMILIES", "config_of", "convert", "convert_opened", "convert_source", "family_of", "recognise"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'numpy_vit.convert' has no attribute '{name}'")
    return getattr(importlib.import_module(".converting", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
