"""Make the stored arrays of tests/data from the upstream libraries themselves.

    python tests/make_upstream_arrays.py

Writes, in tests/data: two crooked transformers models as transformers saves them, with everything they compute in float64;
torch's position resizing; transformers' PIL preprocessing of drawn pictures; mpmath's GELU and erf. Library versions and
seeds go into versions.json. Needs the extra `peers`.
"""

import json
import platform
import shutil
from pathlib import Path

import mpmath as mp
import numpy as np
import PIL
import torch
import transformers
from transformers import ViTImageProcessorPil

import pictures
import upstream

DATA = Path(__file__).parent / "data"
SEEDS = {"classifier": 1, "backbone": 2, "pixels": 3, "positions": 4, "points": 5}

# Y != X, heads != head_dim, MLP no multiple of the width, three channels and one.
CLASSIFIER = dict(
    image_size=[24, 40], patch_size=8, num_channels=3, hidden_size=20, num_hidden_layers=3, num_attention_heads=5,
    intermediate_size=28, hidden_act="gelu", layer_norm_eps=1e-12, qkv_bias=True,
)  # fmt: skip
BACKBONE = dict(
    image_size=[12, 8], patch_size=4, num_channels=1, hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
    intermediate_size=18, hidden_act="quick_gelu", layer_norm_eps=1e-5, qkv_bias=False, pooler_output_size=7,
)  # fmt: skip


def models():
    rng = np.random.default_rng(SEEDS["pixels"])
    for name, model, batch in (
        ("classifier", upstream.make(SEEDS["classifier"], True, labels=6, **CLASSIFIER), 3),
        ("backbone", upstream.make(SEEDS["backbone"], False, **BACKBONE), 2),
    ):
        folder = DATA / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder)
        size = model.config.image_size
        if name == "classifier":
            ViTImageProcessorPil(size={"height": size[0], "width": size[1]}, resample=3).save_pretrained(folder)
        pixels = rng.normal(size=(batch, model.config.num_channels, *size))
        steps = upstream.run(model, pixels)
        np.savez_compressed(DATA / f"{name}.npz", pixels=pixels, **steps)


def positions():
    rng = np.random.default_rng(SEEDS["positions"])
    arrays = {}
    for old, new in pictures.POSITION_SIZES:
        grid = rng.normal(size=(*old, 3))
        moved = torch.from_numpy(grid).permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(moved, size=new, mode="bicubic", align_corners=False)
        key = "x".join(map(str, (*old, *new)))
        arrays |= {f"{key}.old": grid, f"{key}.new": resized[0].permute(1, 2, 0).numpy()}
    np.savez_compressed(DATA / "positions.npz", **arrays)


def preprocessing():
    arrays = {}
    for name, options in pictures.POLICIES.items():
        for shape in pictures.SHAPES:
            picture = pictures.draw(*shape)
            processor = ViTImageProcessorPil(**options)
            key = f"{name}.{shape[0]}x{shape[1]}"
            arrays[f"{key}.pixels"] = processor(picture, return_tensors="np").pixel_values[0]
            uint8 = ViTImageProcessorPil(**options, do_rescale=False, do_normalize=False)
            arrays[f"{key}.uint8"] = uint8(picture, return_tensors="np").pixel_values[0]
    np.savez_compressed(DATA / "preprocessing.npz", **arrays)


def special():
    """x, and the true values as the sum of two float64 numbers."""
    mp.mp.dps = 60
    rng = np.random.default_rng(SEEDS["points"])
    x = np.concatenate(
        [rng.uniform(-38.6, 8, 3000), rng.normal(size=2000), rng.uniform(-1.2, 1.2, 1000), np.linspace(-38.6, -37, 200)]
        + [sign * np.logspace(-320, -1, 200) for sign in (-1, 1)]
        + [[0.0, -0.0, 1.0, -1.0, 40.0, -40.0, 1e300, -1e300]]
    )
    arrays = {"x": x}
    gelu = [v * mp.erfc(-v / mp.sqrt(2)) / 2 if abs(v) < 1000 else max(v, mp.mpf(0)) for v in map(mp.mpf, map(float, x))]
    erf = [mp.erf(max(min(v, 1000), -1000)) for v in map(mp.mpf, map(float, x))]
    for name, values in (("gelu", gelu), ("erf", erf)):
        high = np.array([float(v) for v in values])
        arrays[f"{name}.high"] = high
        arrays[f"{name}.low"] = np.array([float(v - mp.mpf(float(h))) for v, h in zip(values, high, strict=True)])
    np.savez_compressed(DATA / "special.npz", **arrays)


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    models()
    positions()
    preprocessing()
    special()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, np, PIL, mp)}
    about = {"seeds": SEEDS, "versions": {"python": platform.python_version(), **versions}}
    (DATA / "versions.json").write_text(json.dumps(about, indent=1) + "\n")
