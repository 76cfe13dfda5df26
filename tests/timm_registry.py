"""Every architecture of timm's with plain blocks, without weights: what we read of it against what timm's own model has.

    python tests/timm_registry.py

Prints how many are read rightly and how many are refused; fails at the first that is read wrongly. Needs the extra `peers`.
"""

import json

import numpy as np
import torch
import torchvision_stub  # noqa: F401  before timm

import timm  # isort: skip
from numpy_vit import InputError  # isort: skip
from numpy_vit.convert import convert_source  # isort: skip
from numpy_vit.convert.sources import Source  # isort: skip
from numpy_vit.convert.timm import OTHERS  # isort: skip
from numpy_vit.files.tensorfile import Tensor  # isort: skip

ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu"}


def facts(model):
    """What timm's model itself has: heads, eps, activation, pooling, image."""
    block = model.blocks[0]
    act = getattr(block.mlp, "act", None)
    return {
        "heads": block.attn.num_heads,
        "eps": block.norm1.eps,
        "activation": "gelu_tanh" if getattr(act, "approximate", "none") == "tanh" else ACTIVATIONS[type(act).__name__],
        "pooling": {"token": "class", "avg": "mean", "map": "map"}[model.global_pool],
        "image": model.patch_embed.img_size,
    }


def read(name, model):
    """The config that conversion would give, from names, shapes and config.json; None where it is refused."""
    zero = np.zeros((), np.float32)
    tensors = {key: Tensor("F32", np.broadcast_to(zero, tuple(value.shape))) for key, value in model.state_dict().items()}
    published = json.loads(json.dumps(model.pretrained_cfg, default=str))
    config = {"architecture": name, "global_pool": model.global_pool, "pretrained_cfg": published}
    try:
        return convert_source(Source(name, False, [], tensors, {}, config, None)).config
    except InputError:
        return None


def main():
    right, refused = [], []
    for name in sorted({n for m in ("vision_transformer", "beit", "eva", "deit") for n in timm.list_models(module=m)}):
        if OTHERS.fullmatch(name):
            refused.append(name)  # by its name
            continue
        with torch.device("meta"):
            model = timm.create_model(name)
        found = read(name, model)
        if found is None:
            refused.append(name)
            continue
        expected = facts(model)
        assert {key: getattr(found, key) for key in expected} == expected, name
        assert type(model.blocks[0]).__name__ in ("Block", "EvaBlock", "BeitBlock"), name
        assert (found.rope != "none") == (getattr(model, "rope", None) is not None), name
        right.append(name)
    assert "vit_so400m_patch14_siglip_384" in right
    print(f"{len(right)} architectures read rightly, {len(refused)} refused")


if __name__ == "__main__":
    main()
