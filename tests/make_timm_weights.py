"""numpy_vit/models/data/timm_weights.json: what timm says of each file of weights of a plain ViT, by its name.

    python tests/make_timm_weights.py             compares the file with the installed timm
    python tests/make_timm_weights.py --write     writes it anew

Of each architecture in numpy_vit/convert/data/timm_models.json the tags of its weights, the default first, and of each tag the
keys of pretrained_cfg that say what the model and its pictures are. Needs the extra `peers`.
"""

import json
import sys
from pathlib import Path

import torchvision_stub  # noqa: F401  before timm

import timm  # isort: skip
from timm.models import _registry  # isort: skip
from numpy_vit.convert.timm_models import table  # isort: skip

FILE = Path(__file__).parent.parent / "numpy_vit" / "models" / "data" / "timm_weights.json"
KEPT = ("num_classes", "input_size", "fixed_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")


def weights(architecture):
    """tag -> its pretrained_cfg; "" where the architecture has no published weights."""
    default = _registry._model_default_cfgs.get(architecture)
    if default is None:
        return {}
    said = {tag: default.cfgs[tag].to_dict() for tag in default.tags}
    return {tag: {key: cfg[key] for key in KEPT if cfg.get(key) is not None} for tag, cfg in said.items()}


def made():
    """The file's text."""
    lines = [f"{json.dumps(name)}: {json.dumps(weights(name))}" for name in sorted(table()["models"])]
    return f'{{"timm": "{timm.__version__}", "weights": {{\n' + ",\n".join(lines) + "\n}}\n"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        FILE.parent.mkdir(exist_ok=True)
        FILE.write_text(made(), encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != made():
        sys.exit(f"{FILE} is not what timm {timm.__version__} says")
