"""numpy_vit/convert/data/timm_models.json: what timm's code passes to its models, architecture by architecture.

    python tests/make_timm_table.py             compares the table with the installed timm
    python tests/make_timm_table.py --write     writes it anew

Of each architecture's function the class that it makes, the arguments that it gives it and a key of the tensors' names and
shapes; of each class the defaults. Nothing is computed from them here: numpy_vit/convert/timm_models.py says what they mean.
Needs the extra `peers`.
"""

import contextlib
import functools
import inspect
import json
import sys
from pathlib import Path

import torch
import torchvision_stub  # noqa: F401  before timm

import timm  # isort: skip
from timm.models import _registry, beit, deit, eva, vision_transformer  # isort: skip
from numpy_vit.convert.timm_models import shapes_key  # isort: skip

TABLE = Path(__file__).parent.parent / "numpy_vit" / "convert" / "data" / "timm_models.json"
MODULES = {"vision_transformer": vision_transformer, "eva": eva, "beit": beit, "deit": deit}
OF_THE_BUILDER = {
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "feature_cfg",
    "pretrained_filter_fn",
    "pretrained_strict",
}


class Heard(Exception):
    """The arguments have been heard; the model need not be built."""


def plain(value):
    """A value as JSON: a class or a partial of one by its name."""
    if isinstance(value, functools.partial):
        return {"layer": value.func.__name__, **{key: plain(entry) for key, entry in value.keywords.items()}}
    if isinstance(value, type):
        return {"layer": value.__name__}
    return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def heard(name):
    """(class, arguments) that the architecture's function asks for, and the key of a model of one block."""
    found = []

    def build(model_cls, variant, pretrained, **kwargs):
        found.append((model_cls, {k: v for k, v in kwargs.items() if k not in OF_THE_BUILDER}))
        raise Heard

    for module in MODULES.values():
        module.build_model_with_cfg = build
    with contextlib.suppress(Heard):
        timm.create_model(name)
    kind, arguments = found[0]
    with torch.device("meta"):
        one_block = {"depth": 1, **({"num_kv_heads": arguments["num_kv_heads"][:1]} if "num_kv_heads" in arguments else {})}
        tensors = kind(**{**arguments, **one_block}).state_dict()
    return kind, arguments, shapes_key({name: tuple(tensor.shape) for name, tensor in tensors.items()})


def table():
    """The table, as data."""
    classes, models = {}, {}
    for module in MODULES:
        for name in timm.list_models(module=module):
            kind, arguments, key = heard(name)
            models[name] = [kind.__name__, {k: plain(v) for k, v in sorted(arguments.items())}, key]
            base = kind if kind.__name__ != "VisionTransformerDistilled" else kind.__mro__[1]
            signature = inspect.signature(base.__init__).parameters.values()
            classes[kind.__name__] = {p.name: plain(p.default) for p in signature if p.name not in ("self", "device", "dtype")}
    old = {name: new.split(".")[0] for name, new in _registry._deprecated_models.items() if new and new.split(".")[0] in models}
    return {"timm": timm.__version__, "classes": classes, "models": models, "renamed": old}


def text(content):
    """As JSON, one line for each entry, so that a change is seen."""
    parts = []
    for key, value in content.items():
        lines = (f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(value.items())) if key != "timm" else ()
        parts.append(f"{json.dumps(key)}: " + (json.dumps(value) if key == "timm" else "{\n" + ",\n".join(lines) + "\n}"))
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main():
    if "--write" in sys.argv:
        TABLE.write_text(text(table()), encoding="utf-8")
        return 0
    same = TABLE.read_text(encoding="utf-8") == text(table())
    print(f"{TABLE.name} is", f"that of timm {timm.__version__}" if same else "not what timm says: run this with --write")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
