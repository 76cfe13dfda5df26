"""Encoders of multimodal models, made and run by transformers in float64. Needs the extra `peers`.

Their code computes rotary angles, RMS norms and softmax in float32 whatever the model's dtype. Here they are recomputed in
float64, by the same code: while it runs, `torch.float32` means float64, and `.float()` leaves a double as it is.
"""

import contextlib

import numpy as np
import torch

import upstream


@contextlib.contextmanager
def everything_in_float64():
    """Where torch's code asks for float32, it gets float64."""
    names, method = ("float32", "float"), torch.Tensor.float
    before, default = {name: getattr(torch, name) for name in names}, torch.get_default_dtype()
    try:
        for name in names:
            setattr(torch, name, torch.float64)
        torch.Tensor.float = lambda self, *rest, **named: self.to(torch.float64)
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        for name in names:
            setattr(torch, name, before[name])
        torch.Tensor.float = method
        torch.set_default_dtype(default)


def crooked(build, seed=0):
    """A crooked model in float64, its computed buffers too: build() makes it."""
    with everything_in_float64():
        model = upstream.crooked(build(), seed).double().eval()
    return model


def blocks_of_merged(pixels, patch, side, frames=2):
    """Pixels (1, C, Y, X) -> rows (G, C * frames * P * P) and the grid, as Qwen's processor lays them: merged ones together."""
    B, C, Y, X = pixels.shape
    assert B == 1
    h, w = Y // patch, X // patch
    x = pixels.reshape(C, h // side, side, patch, w // side, side, patch)
    x = x.transpose(1, 4, 2, 5, 0, 3, 6)[:, :, :, :, :, None]  # (row, column, down, right, C, 1, P, P)
    x = np.repeat(x, frames, axis=5).reshape(h * w, -1)
    return torch.from_numpy(np.ascontiguousarray(x)), torch.tensor([[1, h, w]])


def block_order(grid, side):
    """For each place in upstream's order of the patches, its number row by row."""
    h, w = grid
    return np.arange(h * w).reshape(h // side, side, w // side, side).transpose(0, 2, 1, 3).reshape(-1)


def saved(model, folder):
    """The whole model as transformers saves it, in float64."""
    with everything_in_float64():
        model.save_pretrained(folder)
    return folder


AGREEMENT = {}
"""Of what `agree` has compared in this process: family -> (largest error, models)."""


def agree(folder, theirs, sizes, bound=1e-12):
    """Our model of the folder against theirs at each size: every hidden state and what the language model sees.

    theirs(pixels, config) -> {"hidden_states": [(1, N, D), ...], "image_tokens": ..., any other output by our name}; its tokens
    in our order, row by row. Returns the largest max|ours - theirs| / max|theirs|.
    """
    import numpy_vit

    from conftest import relative_error

    model = numpy_vit.load(folder, dtype="float64")
    worst = 0.0
    for Y, X in sizes:
        pixels = np.random.default_rng(Y + X).normal(size=(1, model.config.channels, Y, X))
        ours = model(pixels, record="hidden_states", strict=True, resize_positions=True)
        want = theirs(pixels, model.config)
        hidden = want.pop("hidden_states")
        assert len(hidden) == len(ours.hidden_states)
        pairs = [(f"hidden state {n}", a, b) for n, (a, b) in enumerate(zip(ours.hidden_states, hidden, strict=True))]
        pairs += [(name, getattr(ours, name), array) for name, array in want.items()]
        for name, a, b in pairs:
            error = relative_error(a, b)
            assert error < bound, (name, (Y, X), error)
            worst = max(worst, error)
    agreed(model.source["family"], worst)
    return worst


def agreed(family, error):
    """Another model of a family, which differs from its original by this much."""
    before, cases = AGREEMENT.get(family, (0.0, 0))
    AGREEMENT[family] = max(before, error), cases + 1


def config_alone(folder):
    """What the folder's config.json gives by itself, as the tracer reads it."""
    import json

    from numpy_vit.models.loading import config_of_content

    return config_of_content("", json.loads((folder / "config.json").read_text()))[0]


def same_tensors(whole, tower):
    """Whether an encoder saved alone has the numbers that it has in the whole model (two checkpoints)."""
    return all(np.array_equal(whole.tensors[name].data, tensor.data) for name, tensor in tower.tensors.items())


def in_order(x, order):
    """Tokens (N, ...) in upstream's order -> (1, N, ...) in ours; `order` as of block_order."""
    array = np.asarray(x)
    back = np.empty_like(array)
    back[order] = array
    return back[None]
