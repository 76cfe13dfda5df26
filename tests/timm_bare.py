"""timm's architectures whose names and shapes are another's, in their published sizes, without config.json: each refused.

    python tests/timm_bare.py

Of shapes alone (no numbers are made). Fails where one is read as what it is not. Needs the extra `peers`.
"""

import numpy as np
import torch
import torchvision_stub  # noqa: F401  before timm

import timm  # isort: skip
from numpy_vit import InputError  # isort: skip
from numpy_vit.convert import convert_source  # isort: skip
from numpy_vit.convert.sources import Source  # isort: skip
from numpy_vit.files.tensorfile import Tensor  # isort: skip

TOLD = {"activation": "gelu", "eps": 1e-5}
CASES = {  # name: (family named, what is told, what the refusal says)
    "vit_small_patch16_rope_ape_224": (None, {}, "also those of timm's"),
    "vit_base_patch16_rope_ape_224": (None, TOLD, "also those of timm's"),
    "vit_base_patch16_rope_mixed_ape_224": (None, TOLD, "'rope.freqs' is not used"),
    "vit_base_patch16_rpn_224": (None, {}, "also those of timm's"),
    "vit_pe_core_base_patch16_224": (None, TOLD, "also those of timm's"),
    "vit_pe_core_large_patch14_336": (None, TOLD, "also those of timm's"),
    "vit_pe_lang_large_patch14_448": (None, TOLD, "also those of timm's"),
    "vit_pe_spatial_base_patch16_512": (None, TOLD, "also those of timm's"),
    "vit_base_patch32_siglip_gap_256": (None, {}, "the file cannot tell activation"),
    "vit_small_patch16_rope_224": (None, {}, "also those of timm's"),
    "eva02_enormous_patch14_clip_224": (None, {"heads": 16}, "also those of timm's"),
    "vit_small_patch16_rope_224 ": ("timm-dinov3", {"pooling": "mean"}, "not of timm's DINOv3"),
}


def shapes_alone(name):
    """The model's state as tensors of which only the shapes are real."""
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    return {key: Tensor("F32", np.broadcast_to(np.float32(0), tuple(value.shape))) for key, value in state.items()}


def main():
    wrong = 0
    for name, (family, told, why) in CASES.items():
        model, image = name.strip(), int(name.split("_")[-1])
        heads = 16 if "large" in model else 6 if "small" in model else 12
        source = Source("bare", False, [], shapes_alone(model), {}, None, None)
        try:
            convert_source(source, family, {"heads": heads, "image": image, **told})
            said = "READ"
        except InputError as refused:
            said = str(refused)
        wrong += why not in said
        print("as it must" if why in said else "WRONG", name, told, said[:200], sep=" | ")
    print(len(CASES), "cases,", wrong, "wrong")
    return wrong > 0


if __name__ == "__main__":
    raise SystemExit(main())
