"""Does attention find the digit? The class token's rollout inside the digit's box, against outside, over held-out pictures.

A picture's figure is the mean of the rollout (numpy_vit.pictures.draw.rollout) over the pixels of the digit's box, which the
generator knows, divided by its mean over the other pixels; a pixel has its patch's number. As a control, because boxes
overlap, each rollout is also held against the box of the next picture.

    python weights/training/attention_figure.py        # over all held-out pictures, as stated in weights/README.md

Needs scikit-learn (extra `peers`).
"""

import itertools

import numpy as np

import numpy_vit
from numpy_vit.pictures.draw import rollout, token_map

from digits_pictures import held_out_pictures

BATCH = 32


def inside_against_outside(flow, box, patch):
    """flow (rows, columns) of patches, box (top, left, bottom, right) in pixels -> mean inside / mean outside."""
    pixels = np.kron(flow, np.ones((patch, patch)))
    inside = np.zeros(pixels.shape, bool)
    inside[box[0] : box[2], box[1] : box[3]] = True
    return float(pixels[inside].mean() / pixels[~inside].mean())


def figures(count=None):
    """The figure of every held-out picture, or of the first `count`; and the same with the box of the next picture."""
    model = numpy_vit.load()
    patch = model.config.patch
    chosen = itertools.islice(held_out_pictures(), count)
    flows, boxes = [], []
    while some := list(itertools.islice(chosen, BATCH)):
        out = model(model.preprocess([picture for _, _, _, picture, _ in some]), record="blocks.*.attention.probs")
        for n, (_, _, _, _, box) in enumerate(some):
            flow = rollout([attention[n] for attention in out.attentions])[0]
            flows.append(token_map(flow, model.config))
            boxes.append(box)
    own, others = (
        np.array([inside_against_outside(flow, box, patch) for flow, box in zip(flows, places, strict=True)])
        for places in (boxes, boxes[1:] + boxes[:1])
    )
    return own, others


def said(values):
    """The figures in a sentence."""
    return (
        f"{len(values)} pictures: median {np.median(values):.2f}, least {values.min():.2f}, largest {values.max():.2f}; "
        f"above 1: {100 * (values > 1).mean():.1f} %, above 2: {100 * (values > 2).mean():.1f} %"
    )


if __name__ == "__main__":
    own, others = figures()
    print(said(own))
    print("with the box of another picture,", said(others))
