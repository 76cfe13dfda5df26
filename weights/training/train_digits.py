"""Train the shipped digits model with transformers and turn it into our file with our own converter.

    python weights/training/train_digits.py WORK_FOLDER             # train, then the line below
    python weights/training/train_digits.py WORK_FOLDER --finish    # convert WORK_FOLDER/hf, measure, draw the samples

WORK_FOLDER receives the Hugging Face layout (`hf/`). The second part writes `weights/digits.safetensors` and
`weights/samples`.

The last weights of each stage are kept, whatever they score. Seeds are fixed; another machine or torch version still
gives slightly other weights.
Needs the extra `peers` (torch, transformers, scikit-learn). About an hour on two cores.
"""

import math
import shutil
import sys
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

import digits_pictures

SEED = 7


class Stage(NamedTuple):
    """One descent of the learning rate, over pictures of its own."""

    placements: range  # which pictures of every training digit
    sides: tuple[int, int]  # smallest and largest digit, pixels
    passes: int  # over all those pictures
    batch: int
    peak_rate: float


# The first stage of the shipped model ran on digits of 24 to 44 pixels and gave 95.2 % on the held-out pictures of that
# size, 95.9 % on new pictures of the training digits: too short a training, not too close a fit, and worst on the smallest
# digits. So the pictures were given larger digits (32 to 48), and the second stage went on from there.
STAGES = (
    Stage(range(120), (24, 44), 3, 64, 1e-3),
    Stage(range(120, 220), (digits_pictures.SMALLEST, digits_pictures.LARGEST), 2, 64, 7e-4),
)
WEIGHTS = Path(__file__).parent.parent

CONFIG = ViTConfig(
    image_size=digits_pictures.SIZE,
    patch_size=8,
    hidden_size=96,
    num_hidden_layers=6,
    num_attention_heads=6,
    intermediate_size=384,
    initializer_range=0.08,  # at this width 0.02 stays stuck for a thousand steps
    id2label={i: str(i) for i in range(10)},
    label2id={str(i): i for i in range(10)},
)
PROCESSOR = ViTImageProcessorPil(size={"height": digits_pictures.SIZE, "width": digits_pictures.SIZE})


def training_pictures(job):
    digit, index, placements, sides = job
    return np.stack([digits_pictures.picture(digit, [index, placement, 0], sides)[0] for placement in placements])


def to_pixel_values(pictures):
    """(B, Y, X, 3) uint8 -> (B, 3, Y, X) float32 in -1..1, as PROCESSOR does without resizing."""
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def learning_rate(step, steps, peak):
    """Up in a line over the first twentieth, then down along a cosine."""
    warm_up = steps // 20
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def train(model, pictures, labels, stage, seed):
    rng = np.random.default_rng(seed)
    model.train()
    forward = torch.compile(model)
    decay = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    steps = stage.passes * len(pictures) // stage.batch
    order = np.concatenate([rng.permutation(len(pictures)) for _ in range(stage.passes)])
    for step in range(steps):
        chosen = order[step * stage.batch : (step + 1) * stage.batch]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, stage.peak_rate)
        logits = forward(to_pixel_values(pictures[chosen])).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[chosen]), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step} of {steps}: loss {loss.item():.4f}", flush=True)
    model.eval()


@torch.inference_mode()
def held_out_accuracy(predict):
    """How many of the held-out pictures `predict` (uint8 pictures -> logits) gets right: (right, all)."""
    _, _, labels, pictures, _ = zip(*digits_pictures.held_out_pictures(), strict=True)
    right = 0
    for start in range(0, len(labels), 64):
        logits = predict(np.stack(pictures[start : start + 64]))
        right += int((logits.argmax(-1) == np.array(labels[start : start + 64])).sum())
    return right, len(labels)


def train_and_save(work):
    """Train stage by stage; each is saved as WORK/stage<n>, from which a run that was cut off goes on."""
    digits, labels = digits_pictures.source_digits()
    training, _ = digits_pictures.split(labels)
    torch.manual_seed(SEED)
    model = ViTForImageClassification(CONFIG)
    for n, stage in enumerate(STAGES):
        if (work / f"stage{n}").exists():
            model = ViTForImageClassification.from_pretrained(work / f"stage{n}")
            continue
        with Pool() as pool:
            jobs = [(digits[i], int(i), stage.placements, stage.sides) for i in training]
            pictures = np.concatenate(pool.map(training_pictures, jobs))
        train(model, pictures, np.repeat(labels[training], len(stage.placements)), stage, SEED + n)
        model.save_pretrained(work / f"stage{n}")
    right, count = held_out_accuracy(lambda batch: model(to_pixel_values(batch)).logits.numpy())
    print(f"held-out pictures, transformers: {right} of {count} right, {100 * right / count:.2f} %")
    model.save_pretrained(work / "hf")
    PROCESSOR.save_pretrained(work / "hf")


def finish(work):
    """hf/ -> weights/digits.safetensors, with its accuracy as numpy_vit measures it; and the samples."""
    import numpy_vit
    from numpy_vit.convert import convert
    from numpy_vit.files.converted import write_converted

    checkpoint = convert(work / "hf")
    assert not checkpoint.notes, checkpoint.notes
    model = checkpoint.model()
    right, count = held_out_accuracy(lambda batch: model(model.preprocess(list(batch))).logits)
    print(f"held-out pictures, numpy_vit: {right} of {count} right, {100 * right / count:.2f} %")
    checkpoint.source |= {
        "name": "numpy_vit digits",
        "made by": f"weights/training/train_digits.py, transformers' ViTForImageClassification, seed {SEED}; "
        f"numpy_vit {numpy_vit.__version__} converted it",
        "data": "scikit-learn load_digits (test part of Optical Recognition of Handwritten Digits, E. Alpaydin and "
        "C. Kaynak, UCI Machine Learning Repository, CC BY 4.0), put on drawn backgrounds by digits_pictures.py",
        "accuracy": {"held out": "355 source digits, 3 pictures each", "pictures": count, "right": right},
        "licence": "MIT",
    }
    write_converted(WEIGHTS / "digits.safetensors", checkpoint)
    shutil.rmtree(WEIGHTS / "samples", ignore_errors=True)
    for index, placement, label, pixels, _ in digits_pictures.held_out_pictures():
        folder = WEIGHTS / "samples" / str(label)
        if not folder.exists():  # the first held-out picture of each digit, right or wrong
            folder.mkdir(parents=True)
            Image.fromarray(pixels).save(folder / f"{index:04d}-{placement}.png", optimize=True)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--finish"]):
        sys.exit(__doc__)
    if not sys.argv[2:]:
        train_and_save(Path(sys.argv[1]))
    finish(Path(sys.argv[1]))
