"""One seeded model in every library's own form, and pixels: made once, kept in a folder, the same for all contenders.

<work>/<model>/model.safetensors   converted file (numpy_vit, and JAX, which has no form of its own)
               hf/                 transformers' folder, as `numpy-vit convert --to hf` writes it
               timm.safetensors    the same tensors under timm's names
               model.onnx          exported from transformers' (by the contender that needs it)
               config.json         our config; written last, so that a folder with it is whole
               pixels-B.npy        (B, C, Y, X) float32
               picture.png         for the cold start
"""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

import numpy_vit
from numpy_vit.cli.models import config_of
from numpy_vit.config import ViTConfig
from numpy_vit.convert.preprocessing import read_preprocessor
from numpy_vit.convert.timm import TABLE as TIMM_NAMES
from numpy_vit.convert.to_hugging_face import theirs, write_hugging_face
from numpy_vit.files.converted import Checkpoint, write_converted
from numpy_vit.files.tensorfile import tensor_of, write
from numpy_vit.models.seeded import uniform

SEED = 0
# timm's own names: the table also has those of DINOv2's gated MLP, which come first
PLAIN_TIMM = dataclasses.replace(TIMM_NAMES, rows=tuple(row for row in TIMM_NAMES.rows if ".mlp.w" not in row.theirs))


def prepare(work: Path, words: list[str]) -> Path:
    """The folder of a model, e.g. ["ViT-B/16", "image=384"]; made where it is not there yet."""
    folder = work / re.sub(r"[^\w.=-]", "-", " ".join(words))
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config, _ = config_of(words)
    plain = set(config.to_dict()) == set(numpy_vit.variant("ViT-B/16").to_dict())
    if not plain or (config.pooling, config.pooler, config.activation) != ("class", 0, "gelu") or not config.classes:
        raise numpy_vit.InputError(f"{' '.join(words)}: the comparison is of plain models with a class token and a head")
    model = numpy_vit.random_model(config, seed=SEED)
    tensors = {name: tensor_of(array) for name, array in model.tensors.items()}
    half = [0.5] * config.channels
    said = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": config.image[0], "width": config.image[1]},
        "resample": 2, "image_mean": half, "image_std": half,
    }  # fmt: skip
    preprocess = read_preprocessor(said, config.channels, [])
    checkpoint = Checkpoint(config, tensors, preprocess, None, {"family": "random", "seed": SEED})
    write_converted(folder / "model.safetensors", checkpoint)
    if not (folder / "hf" / "config.json").exists():
        write_hugging_face(folder / "hf", checkpoint)
    write(folder / "timm.safetensors", theirs(PLAIN_TIMM, checkpoint), {})
    noise = np.random.default_rng(SEED).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).save(folder / "picture.png")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def config_in(folder: Path) -> ViTConfig:
    return ViTConfig.from_dict(json.loads((folder / "config.json").read_text()))


def pixels(folder: Path, batch: int) -> Path:
    """The file with seeded pixels (B, C, Y, X) for a model."""
    path, config = folder / f"pixels-{batch}.npy", config_in(folder)
    if not path.exists():
        partial = path.with_name(f".{path.name}")
        np.save(partial.open("wb"), uniform(SEED, "pixels", (batch, config.channels, *config.image)))
        partial.rename(path)
    return path
