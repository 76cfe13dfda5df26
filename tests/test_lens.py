"""numpy_vit.lens: every function against a computation of its own, written out here for several families; and its command."""

import json
import math
import re

import numpy as np
import pytest
from options import OPTIONS, PLAIN
from PIL import Image
from test_draw import luminance

import numpy_vit
from numpy_vit import InputError, lens
from numpy_vit.config import ViTConfig
from numpy_vit.families import activation_name
from numpy_vit.parameters import parameter_shapes
from numpy_vit.pictures import draw

import pictures
from conftest import DATA, REPOSITORY, crooked_config, relative_error

MISREAD = REPOSITORY / "weights" / "samples" / "5" / "0005-0.png"
CLASSIFIER = str(DATA / "classifier")
CROOKED = {
    "plain": {},
    "mean, SiLU, gated": dict(pooling="mean", class_token=False, activation="silu", gated_mlp=True),
    "registers, layer scale": dict(registers=2, layer_scale=True, pooling="class_and_mean", pooler=0, positions="patches"),
    "distilled, no positions": dict(distillation_token=True, distillation_head=True, positions="none"),
    "CLIP with classes": dict(pre_norm=True, final_norm="pooled", without_bias=("embed.projection", "head")),
    "norms after": dict(norm_places="after", layer_scale=True, activation="relu"),
    "norms on both sides, RMS": dict(norm_places="both", norm="rms", final_norm="none", qkv_bias=False),
    "norms of heads and neurons": dict(context_norm=True, mlp_norm=True, gated_mlp=True, activation="silu", inner=30),
}
crooked = pytest.mark.parametrize("family", CROOKED)
ALL = slice(None)


def lively(config, seed=1, dtype="float64"):
    """A model whose parts matter: numbers of about 1 everywhere, unlike those that a training begins with."""
    rng = np.random.default_rng(seed)
    tensors = dict(numpy_vit.random_model(config, seed=seed, dtype=dtype).tensors)
    for name, shape in parameter_shapes(config).items():
        if not name.endswith("frequencies"):
            scale = shape[0] ** -0.5 * 1.5 if len(shape) == 2 and name.endswith("weight") else 0.5
            middle = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensors[name] = (middle + scale * rng.normal(size=shape)).astype(tensors[name].dtype).view(type(tensors[name]))
    return numpy_vit.ViT(config, tensors)


def pixels_of(config, batch=3, seed=5):
    return np.random.default_rng(seed).normal(size=(batch, config.channels, *config.image))


def of_family(family, batch=3):
    model = lively(crooked_config(**CROOKED[family]))
    return model, pixels_of(model.config, batch)


# The model once more, in loops, with what its parts add


class ByHand:
    """A run of a model with some of the later families' options. at(kind, block, head, array) may change an array on the way.

    Of it are kept: `states`, what goes into the first block and comes out of each; `added`, by part what it adds to the tokens,
    each (B, N, D), where the scales of the norms on its way are held.
    """

    def __init__(self, model, pixels, at=None):
        self.w, self.c, self.at = model.tensors, model.config, at or (lambda kind, block, head, array: array)
        self.added, self.states = {}, []
        x = self.embedded(pixels)
        self.states.append(x)
        for n in range(self.c.depth):
            x = x + self.attention(n, self.before(f"blocks.{n}.norm1", x))
            x = x + self.mlp(n, self.before(f"blocks.{n}.norm2", x))
            x = self.at("tokens", n, None, x)
            self.states.append(x)
        self.logits = self.answer(x)

    def embedded(self, pixels):
        c, P = self.c, self.c.patch
        corners = [(top, left) for top in range(0, c.image[0], P) for left in range(0, c.image[1], P)]
        cut = np.stack([pixels[:, :, y : y + P, x : x + P].reshape(len(pixels), -1) for y, x in corners], axis=1)
        x = self.dense("embed.projection", cut)
        names = [f"embed.{name}" for name in ("class_token", "distillation_token", "registers")]
        special = [self.w[name].reshape(-1, c.width) for name in names if name in self.w]
        x = np.stack([np.concatenate([*special, patches]) for patches in x])
        positions = np.zeros_like(x)
        if "embed.positions" in self.w:
            table = self.w["embed.positions"]
            numbers = [*range(len(table))] if len(table) == c.tokens else [*range(len(table) - c.patches)]
            positions[:, numbers] = table[numbers]
            positions[:, -c.patches :] = table[-c.patches :]
        whole = x + positions
        self.added["tokens"] = self.linear_norm("embed.norm", x, whole) if c.pre_norm else x
        self.added["positions"] = self.linear_norm("embed.norm", positions, whole) if c.pre_norm else positions
        if c.pre_norm:
            whole = self.norm("embed.norm", whole)
            self.added["embed.norm"] = np.zeros_like(x) + self.w["embed.norm.bias"]
        return self.at("tokens", None, None, whole)

    def attention(self, n, y):
        c, K, path = self.c, self.c.head_dim, f"blocks.{n}.attention"
        query, key, value = (self.dense(f"{path}.{part}", y) for part in ("query", "key", "value"))
        contexts = []
        for h in range(c.heads):
            q, k, v = (part[..., h * K : (h + 1) * K] for part in (query, key, value))
            scores = self.at("scores", n, h, np.einsum("bik,bjk->bij", q, k) / math.sqrt(K))
            e = np.exp(scores)
            contexts.append(self.at("head", n, h, np.einsum("bij,bjk->bik", e / e.sum(-1, keepdims=True), v)))
        whole, matrix = np.concatenate(contexts, axis=-1), self.w[f"{path}.output.weight"]
        parts = {}
        for h, context in enumerate(contexts):
            alone = np.zeros_like(whole)
            alone[..., h * K : (h + 1) * K] = context
            parts["head", n, h] = (self.linear_norm(f"{path}.context_norm", alone, whole) if c.context_norm else alone) @ matrix
        if c.context_norm:
            parts["norm of heads", n] = np.zeros_like(whole) + self.w[f"{path}.context_norm.bias"]
            parts["norm of heads", n] = parts["norm of heads", n] @ matrix
        parts["attention bias", n] = np.zeros_like(y) + self.bias(f"{path}.output")
        return self.at("attention", n, None, self.finished(n, 1, parts))

    def mlp(self, n, y):
        c, path = self.c, f"blocks.{n}.mlp"
        active = {
            "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
            "silu": lambda x: x / (1 + np.exp(-x)),
            "relu": lambda x: x * (x > 0),
        }[c.activation]
        hidden = self.dense(f"{path}.hidden", y)
        hidden = active(self.dense(f"{path}.gate", y)) * hidden if c.gated_mlp else active(hidden)
        hidden = self.at("neurons", n, None, self.norm(f"{path}.norm", hidden) if c.mlp_norm else hidden)
        parts = {("mlp", n): hidden @ self.w[f"{path}.output.weight"]}
        parts["mlp bias", n] = np.zeros_like(y) + self.bias(f"{path}.output")
        return self.at("mlp", n, None, self.finished(n, 2, parts))

    def finished(self, n, half, parts):
        """What is added to the tokens: the parts' sum, through the branch's own norm and scale."""
        whole = sum(parts.values())
        if self.c.norm_places != "before":
            name = f"blocks.{n}.norm{half}" + ("_after" if self.c.norm_places == "both" else "")
            parts = {part: self.linear_norm(name, x, whole) for part, x in parts.items()}
            if f"{name}.bias" in self.w:
                parts[f"norm of branch {half}", n] = np.zeros_like(whole) + self.w[f"{name}.bias"]
        if self.c.layer_scale:
            parts = {part: x * self.w[f"blocks.{n}.layer_scale{half}"] for part, x in parts.items()}
        self.added |= parts
        return sum(parts.values())

    def answer(self, x):
        return self.head(self.pooled(self.norm("norm", x) if self.c.final_norm == "tokens" else x))

    def pooled(self, x):
        """What the head sees, before a norm of it: the class token, the patches' mean, both; and the distillation token."""
        kinds = {"class": x[:, 0], "mean": x[:, self.c.special_tokens :].mean(axis=1)}
        found = np.concatenate([kinds[kind] for kind in self.c.pooling.split("_and_")], axis=-1)
        return found, x[:, 1]

    def head(self, seen, biased=True):
        found, second = seen
        if self.c.final_norm == "pooled" and biased:
            found = self.norm("pooled_norm", found)
        logits = found @ self.w["head.weight"] + biased * self.bias("head")
        if self.c.distillation_head:
            logits = (logits + second @ self.w["distillation_head.weight"] + biased * self.bias("distillation_head")) / 2
        return logits

    def shares(self, part):
        """What a part that is added, (B, N, D), does to the logits, (B, O): forwards, the last norm's scale held."""
        last = self.states[-1]
        if self.c.final_norm == "tokens":
            part = self.linear_norm("norm", part, last)
        found, second = self.pooled(part)
        if self.c.final_norm == "pooled":
            found = self.linear_norm("pooled_norm", found, self.pooled(last)[0])
        return self.head((found, second), biased=False)

    def before(self, name, x):
        return x if self.c.norm_places == "after" else self.norm(name, x)

    def norm(self, name, x):
        return self.linear_norm(name, x, x) + self.w.get(f"{name}.bias", 0)

    def linear_norm(self, name, x, whole):
        """A norm without its bias, whose scale is that of another array."""
        middle = (lambda a: a.mean(-1, keepdims=True)) if self.c.norm == "layer" else (lambda a: 0)
        square = ((whole - middle(whole)) ** 2).mean(-1, keepdims=True)
        return (x - middle(x)) / (square + self.c.eps) ** 0.5 * self.w[f"{name}.weight"]

    def dense(self, name, x):
        return np.einsum("...i,ij->...j", x, self.w[f"{name}.weight"]) + self.bias(name)

    def bias(self, name):
        return self.w.get(f"{name}.bias", 0)


@crooked
def test_the_loops_are_the_model(family):
    model, pixels = of_family(family)
    assert relative_error(ByHand(model, pixels).logits, model(pixels).logits) < 1e-12


# The logit lens


@crooked
def test_the_logit_lens_reads_every_state_as_the_last(family):
    model, pixels = of_family(family)
    hand = ByHand(model, pixels)
    found = lens.logit_lens(model, pixels)
    assert found.shape == (4, 3, 7)
    for n, state in enumerate(hand.states):
        assert relative_error(found[n], hand.answer(state)) < 1e-12
    assert np.abs(found[0] - found[-1]).max() > 0.1  # else it would show nothing


CLASSIFYING = {name: changes for name, changes in {"plain": {}, **OPTIONS}.items() if changes.get("classes", 1)}
SUMS = {  # of these a logit is a sum
    name: changes
    for name, changes in CLASSIFYING.items()
    if changes.get("pooling") not in ("map", "query") and not {"pre_logits", "clipped_linears"} & changes.keys()
}


@pytest.mark.parametrize("option", CLASSIFYING)
def test_the_lens_of_every_family(option):
    """The state of a block, put in the last one's place, makes the whole model say the same, to the last bit."""
    config = ViTConfig(**PLAIN).replace(**CLASSIFYING[option])
    model, pixels = lively(config, seed=2), pixels_of(config, 2)
    out = model(pixels, record="hidden_states")
    found = lens.logit_lens(model, pixels)
    assert found[-1].tobytes() == out.logits.tobytes()
    for state, logits in zip(out.hidden_states, found, strict=True):
        again = model(pixels, change={f"blocks.{config.depth - 1}.residual2": lambda array, state=state: state.copy()})
        assert again.logits.tobytes() == logits.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "portable"])
def test_the_lens_in_other_arithmetics(dtype):
    model = lively(crooked_config(), dtype=dtype)
    pixels = pixels_of(model.config)
    found = lens.logit_lens(model, pixels, strict=True)
    assert type(found) is np.ndarray and found.dtype == model.dtype
    assert found[-1].tobytes() == model(pixels, record="hidden_states").logits.tobytes()
    assert np.abs(found - lens.logit_lens(lively(crooked_config()), pixels)).max() < 1e-4


def test_at_another_size():
    model = lively(crooked_config())
    pixels = np.random.default_rng(0).normal(size=(2, 3, 16, 12))
    found = lens.logit_lens(model, pixels, resize_positions=True)
    assert relative_error(found[-1], model(pixels, resize_positions=True).logits) < 1e-12
    parts = lens.direct_attribution(model, pixels, 2, resize_positions=True)
    assert parts["tokens"].shape == (2, 13)
    assert np.abs(summed(parts) - found[-1, :, 2]).max() < 1e-12
    left = lens.ablate(model, pixels, "tokens.12", by=pixels[::-1], resize_positions=True, record="embed.positions").steps
    whole = model(pixels, record="embed.positions", resize_positions=True).steps["embed.positions"]
    assert np.array_equal(left["embed.positions"][:, 12], whole[::-1, 12])
    with pytest.raises(InputError, match="resize_positions=True"):
        lens.logit_lens(model, pixels)


# Direct attribution


def summed(parts):
    return sum(array.reshape(len(array), -1).sum(axis=1) for array in parts.values())


@crooked
def test_direct_attribution(family):
    model, pixels = of_family(family)
    c, target = model.config, [3, 0, 6]
    hand = ByHand(model, pixels)
    found = lens.direct_attribution(model, pixels, target)
    of = np.arange(3), target

    def close(got, expected):
        return np.abs(got - expected).max() < 1e-12 * np.abs(hand.logits).max()

    for n in range(c.depth):
        for h in range(c.heads):
            assert close(found["heads"][:, n, h], hand.shares(hand.added["head", n, h])[of]), (n, h)
        assert close(found["mlps"][:, n], hand.shares(hand.added["mlp", n])[of]), n
    for name in ("tokens", "positions"):
        if name not in found:
            assert name == "positions" and c.positions == "none"
            continue
        for token in range(c.tokens):
            alone = np.zeros_like(hand.added[name])
            alone[:, token] = hand.added[name][:, token]
            assert close(found[name][:, token], hand.shares(alone)[of]), (name, token)
    assert {array.dtype for array in found.values()} == {np.dtype("float64")}
    assert close(summed(found), model(pixels).logits[of])
    assert np.abs(found["heads"]).max() > 0.05 and np.abs(found["mlps"]).max() > 0.05


@pytest.mark.parametrize("option", SUMS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_parts_of_every_family_sum_to_the_logit(option, dtype):
    config = ViTConfig(**PLAIN).replace(**SUMS[option])
    model, pixels = lively(config, seed=4, dtype=dtype), pixels_of(config, 2)
    logits = model(pixels).logits
    rounding = 100 * np.finfo(dtype).eps
    for target in range(config.classes):
        found = summed(lens.direct_attribution(model, pixels, target))
        assert np.abs(found - logits[:, target]).max() < rounding * np.abs(logits).max(), target


def test_where_a_logit_is_no_sum():
    for option in CLASSIFYING.keys() - SUMS.keys():
        config = ViTConfig(**PLAIN).replace(**OPTIONS[option])
        with pytest.raises(InputError, match="logits are no sum of what its parts add: (the pic|the head sees|its linear)"):
            lens.direct_attribution(numpy_vit.random_model(config), pixels_of(config), 0)
    assert len(CLASSIFYING) - len(SUMS) >= 5


# Ablation


def touching(kind, block, head, change):
    return lambda k, n, h, array: change(array) if (k, n, h) == (kind, block, head) else array


ABLATED = {  # what, as `ablate` names it -> the places by hand: kind, block, head, index
    "a head": (["blocks.1.heads.3"], [("head", 1, 3, ALL)]),
    "a head everywhere": (["blocks.*.heads.0"], [("head", n, 0, ALL) for n in range(3)]),
    "all heads of a block": ("blocks.2.heads.*", [("head", 2, h, ALL) for h in range(5)]),
    "two heads": (["blocks.0.heads.1", "blocks.0.heads.4"], [("head", 0, 1, ALL), ("head", 0, 4, ALL)]),
    "attention": ("blocks.1.attention", [("attention", 1, None, ALL)]),
    "an MLP": (("blocks.0.mlp",), [("mlp", 0, None, ALL)]),
    "a block": ("blocks.1", [("attention", 1, None, ALL), ("mlp", 1, None, ALL)]),
    "neurons": (["blocks.2.neurons.21", "blocks.2.neurons.0"], [("neurons", 2, None, (ALL, ALL, [0, 21]))]),
    "a token": ("tokens.4", [("tokens", None, None, (ALL, [4]))]),
    "a token on its way": ("blocks.1.tokens.5", [("tokens", 1, None, (ALL, [5]))]),
}


@crooked
@pytest.mark.parametrize("what", ABLATED)
def test_ablation(family, what):
    model, pixels = of_family(family, batch=2)
    named, where = ABLATED[what]
    other = pixels_of(model.config, 2, seed=6)
    kept = {}

    def keep(images):
        def at(kind, block, head, array):
            kept[kind, block, head] = array.copy()
            return array

        ByHand(model, images, at)
        return dict(kept)

    clean, others = keep(pixels), keep(other)
    right = model(pixels).logits
    for by, instead in (
        ("zero", {key: np.zeros_like(array) for key, array in clean.items()}),
        ("mean", {key: np.zeros_like(array) + array.mean(axis=0) for key, array in clean.items()}),
        (other, others),
    ):

        def at(kind, block, head, array, instead=instead):
            array = array.copy()
            for k, n, h, index in where:
                if (k, n, h) == (kind, block, head):
                    array[index] = instead[kind, block, head][index]
            return array

        found = lens.ablate(model, pixels, named, by=by).logits
        assert relative_error(found, ByHand(model, pixels, at).logits) < 1e-12
        assert np.abs(found - right).max() > 1e-6  # else it would show nothing


@pytest.mark.parametrize("option", OPTIONS)
def test_ablation_in_every_family(option):
    """What a part is for these very pictures changes no bit; a skipped block leaves the tokens as they are; none is shared."""
    config = ViTConfig(**PLAIN).replace(**OPTIONS[option])
    model, pixels = lively(config, seed=2), pixels_of(config, 2)
    right = model(pixels, record=True)
    parts = ["blocks.*", "blocks.*.heads.*", "blocks.*.neurons.*", "blocks.*.tokens.*", "tokens.*"]
    same = lens.ablate(model, pixels, parts, by=pixels, record=True)
    assert all(array.tobytes() == right.steps[name].tobytes() for name, array in same.steps.items())
    skipped = lens.ablate(model, pixels, "blocks.1", record="hidden_states").hidden_states
    assert np.array_equal(skipped[2], skipped[1]) and not np.array_equal(right.hidden_states[2], right.hidden_states[1])
    headless = lens.ablate(model, pixels, "blocks.0.heads.1", record="blocks.0.attention.context")
    context = headless.steps["blocks.0.attention.context"]
    assert not context[:, 1].any() and context[:, [0, 2]].all()
    names = [f"blocks.0.mlp.{end}" for end in ("norm", "gated", activation_name(config))]
    hidden = next(name for name in names if name in right.steps)
    assert not lens.ablate(model, pixels, "blocks.0.neurons.7", record=hidden).steps[hidden][..., 7].any()


def test_one_other_picture_is_for_all():
    model, pixels = of_family("plain")
    other = pixels_of(model.config, 1, seed=6)
    found = lens.ablate(model, pixels, "blocks.1", by=other).logits
    assert np.array_equal(found, lens.ablate(model, pixels, "blocks.1", by=np.repeat(other, 3, axis=0)).logits)
    patched = lens.patch(model, pixels, other, "*").logits
    assert patched.tobytes() == model(np.repeat(other, 3, axis=0), record=True).logits.tobytes()


# Patching


@pytest.mark.parametrize(
    ("option", "dtype"),
    [(option, dtype) for option in ("plain", *OPTIONS) for dtype in ("float32", "float64")]
    + [(option, "portable") for option in ("plain", "CLIP", "windows", "MAP")],
)
def test_patching_everything_is_the_other_run(option, dtype):
    config = ViTConfig(**PLAIN).replace(**OPTIONS.get(option, {}))
    model = lively(config, seed=2, dtype=dtype)
    pixels, other = pixels_of(config, 2), pixels_of(config, 2, seed=6)
    right = model(other, record=True)
    found = lens.patch(model, pixels, other, "*", record=True)
    names = ("last_hidden_state", "pooled", "pooler_output", "logits", "image_embedding", "image_tokens", "deepstack")
    for name in names:
        wanted = getattr(right, name)
        assert (getattr(found, name) is None) if wanted is None else getattr(found, name).tobytes() == wanted.tobytes(), name
    assert found.steps.keys() == right.steps.keys()
    assert all(array.tobytes() == right.steps[name].tobytes() for name, array in found.steps.items())
    assert found.last_hidden_state.tobytes() != model(pixels).last_hidden_state.tobytes()


@crooked
def test_patching_some_steps(family):
    """From a block's output on it is the other run; with one half's output it is what the loops make of that."""
    model, pixels = of_family(family)
    other = pixels_of(model.config, 3, seed=6)
    theirs = {}
    ByHand(model, other, lambda kind, block, head, array: theirs.setdefault((kind, block, head), array))
    found = lens.patch(model, pixels, other, "blocks.1.residual2").logits
    assert relative_error(found, ByHand(model, other).logits) < 1e-12
    found = lens.patch(model, pixels, other, ["blocks.0.attention.context"]).logits
    mixed = ByHand(model, pixels, lambda *place: theirs[place[:3]] if place[:2] == ("head", 0) else place[3]).logits
    assert relative_error(found, mixed) < 1e-12
    assert min(np.abs(found - model(p).logits).max() for p in (pixels, other)) > 1e-6


# Knockout


@crooked
@pytest.mark.parametrize("blocks", [None, 1, [0, 2]])
def test_knockout(family, blocks):
    model, pixels = of_family(family)
    sources, targets = [2, 7, 3], [0, 4]
    where = range(3) if blocks is None else np.ravel(blocks)

    def at(kind, block, head, array):
        if kind == "scores" and block in where:
            array = array.copy()
            for target in targets:
                for source in sources:
                    array[:, target, source] = -np.inf
        return array

    found = lens.knockout(model, pixels, sources, targets, blocks=blocks).logits
    assert relative_error(found, ByHand(model, pixels, at).logits) < 1e-12
    assert np.abs(found - model(pixels).logits).max() > 1e-6


@pytest.mark.parametrize("option", OPTIONS)
def test_knockout_in_every_family(option):
    """The first block's maps: nothing at the shut places, and what is left grows in proportion. Windows and biases too."""
    config = ViTConfig(**PLAIN).replace(**OPTIONS[option])
    model, pixels = lively(config, seed=2), pixels_of(config, 2)
    sources, targets = [1, 6], [5, 8]
    before = model(pixels, record="attentions").attentions
    change = lens.knocking_out(model, pixels, sources, targets)
    after = model(pixels, change=change, record="attentions").attentions
    expected = before[0].copy()
    total = expected[:, :, targets].sum(axis=-1, keepdims=True)  # below 1 where windows are filled up
    for target in targets:
        expected[:, :, target, sources] = 0
    if config.windows is None or not config.windows.padded:
        expected[:, :, targets] *= total / expected[:, :, targets].sum(axis=-1, keepdims=True)
        assert np.abs(after[0] - expected).max() < 1e-12
    assert np.abs(after[0] - before[0]).max() > 1e-3
    for maps in after:
        for target in targets:
            assert not maps[:, :, target, sources].any()
        assert (maps[:, :, targets].sum(axis=-1) > 0).all()


def test_knockout_in_portable_arithmetic():
    config = crooked_config(depth=1)
    model, pixels = lively(config, dtype="portable"), pixels_of(config, 1)
    found = lens.knockout(model, pixels, 3, [0], strict=True).logits
    assert relative_error(found, lens.knockout(lively(config), pixels, 3, [0]).logits) < 1e-12


# Importance


@pytest.mark.parametrize("family", ["plain", "registers, layer scale", "norms after"])
@pytest.mark.parametrize("labelled", [True, False])
def test_head_importance(family, labelled):
    model, pixels = of_family(family, batch=5)
    labels = [0, 3, 3, 6, 1] if labelled else None
    found = lens.head_importance(model, (part for part in (pixels[:2], pixels[2:])), labels=labels)
    assert found.shape == (3, 5) and found.dtype == np.float64
    contexts = {}
    whole = ByHand(model, pixels, lambda kind, n, h, array: contexts.setdefault((kind, n, h), array)).logits

    def shares(logits):
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    for n in range(3):
        for h in range(5):
            mean = np.zeros_like(contexts["head", n, h]) + contexts["head", n, h].mean(axis=0)
            p, q = shares(whole), shares(ByHand(model, pixels, touching("head", n, h, lambda _, mean=mean: mean)).logits)
            if labelled:
                expected = np.mean([math.log(p[i, label] / q[i, label]) for i, label in enumerate(labels)])
            else:
                expected = np.mean([sum(p[i] * np.log(p[i] / q[i])) for i in range(5)])
            assert abs(found[n, h] - expected) < 1e-11, (n, h)
    assert np.abs(found).max() > 1e-3 and (labelled or (found >= 0).all())


# One change within another look


def test_the_lens_of_a_changed_model():
    model, pixels = of_family("plain")
    change = lens.ablating(model, pixels, "blocks.1.heads.2")
    found = lens.logit_lens(model, pixels, change=change)
    hand = ByHand(model, pixels, touching("head", 1, 2, np.zeros_like))
    for logits, state in zip(found, hand.states, strict=True):
        assert relative_error(logits, hand.answer(state)) < 1e-12
    change = lens.patching(model, pixels, pixels[::-1], "blocks.0.residual2")
    assert relative_error(lens.logit_lens(model, pixels, change=change)[1:], lens.logit_lens(model, pixels[::-1])[1:]) < 1e-12


# What is refused


PIXELS = pixels_of(crooked_config())
WRONG = {
    "a block": (lambda m: lens.ablate(m, PIXELS, "blocks.3"), "ablate: blocks.3: block 3: there are 3, from 0 to 2"),
    "a head": (lambda m: lens.ablate(m, PIXELS, "blocks.1.heads.5"), "ablate: blocks.1.heads.5: head 5: there are 5"),
    "a neuron": (lambda m: lens.ablate(m, PIXELS, "blocks.1.neurons.22"), "neuron 22: there are 22, from 0 to 21"),
    "a token": (lambda m: lens.ablate(m, PIXELS, "tokens.16"), "token 16: there are 16, from 0 to 15"),
    "a head of no block": (lambda m: lens.ablate(m, PIXELS, "heads.1"), "ablate: 'heads.1' is no part: give blocks.2, "),
    "no number": (lambda m: lens.ablate(m, PIXELS, "blocks.1.heads"), "ablate: 'blocks.1.heads' is no part"),
    "a numbered MLP": (lambda m: lens.ablate(m, PIXELS, "blocks.1.mlp.3"), "ablate: 'blocks.1.mlp.3' is no part"),
    "nothing": (lambda m: lens.ablate(m, PIXELS, ""), "ablate: '' is no part"),
    "a loose end": (lambda m: lens.ablate(m, PIXELS, "blocks.1."), "ablate: 'blocks.1.' is no part"),
    "no text": (lambda m: lens.ablate(m, PIXELS, [3]), "ablate: 3 is no part"),
    "a way": (lambda m: lens.ablate(m, PIXELS, "blocks.1", by="noise"), "by 'noise' is not one of zero, mean, or other pixels"),
    "the mean of one": (lambda m: lens.ablate(m, PIXELS[:1], "blocks.1", by="mean"), "the mean of one picture is what it is"),
    "two others": (lambda m: lens.ablate(m, PIXELS, "blocks.1", by=PIXELS[:2]), "they must be (3, 3, 12, 20), or one of these"),
    "another size": (lambda m: lens.patch(m, PIXELS, PIXELS[..., :8], "*"), "patch: the other pictures' pixels are a numpy"),
    "a step": (lambda m: lens.patch(m, PIXELS, PIXELS, "blocks.9.*"), "record: no step is called 'blocks.9.*'"),
    "a class": (lambda m: lens.direct_attribution(m, PIXELS, 7), "direct_attribution: class 7: there are 7, from 0 to 6"),
    "a name for a class": (lambda m: lens.direct_attribution(m, PIXELS, "cat"), "class: 'cat' is not a whole number"),
    "a token knocked out": (lambda m: lens.knockout(m, PIXELS, [0, 16], 1), "from_tokens: token 16: there are 16"),
    "half a token": (lambda m: lens.knockout(m, PIXELS, 1, [0.5]), "to_tokens: token: [0.5] is not a whole number"),
    "no tokens": (lambda m: lens.knockout(m, PIXELS, [], 1), "from_tokens: token: [] is not a whole number"),
    "a block knocked out": (lambda m: lens.knockout(m, PIXELS, 1, 1, blocks=-1), "knockout: block -1: there are 3"),
    "all tokens": (lambda m: lens.knockout(m, PIXELS, range(16), 2), "a token would have none left to attend to"),
    "no pictures": (lambda m: lens.head_importance(m, []), "give one batch of pixels"),
    "two sizes": (lambda m: lens.head_importance(m, [PIXELS, PIXELS[..., :8]]), "all of one size"),
    "labels": (lambda m: lens.head_importance(m, [PIXELS], labels=[1, 2]), "2 labels for 3 pictures"),
    "a label": (lambda m: lens.head_importance(m, [PIXELS], labels=[1, 2, 7]), "label 7: there are 7, from 0 to 6"),
    "no model": (lambda m: lens.logit_lens("digits", PIXELS), "model is 'digits': give a numpy_vit.ViT"),
    "no pixels": (lambda m: lens.ablate(m, "cat.png", "blocks.1"), "pixels must be an array"),
    "flat pixels": (lambda m: lens.knockout(m, PIXELS[0], 1, 2), "one picture is a batch of one"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_refused(wrong):
    call, message = WRONG[wrong]
    with pytest.raises(InputError, match=re.escape(message)):
        call(numpy_vit.random_model(crooked_config(), dtype="float64"))


def test_a_model_without_classes():
    model = numpy_vit.random_model(crooked_config(classes=0))
    for call in (lens.logit_lens, lens.head_importance, lambda *words: lens.direct_attribution(*words, 0)):
        with pytest.raises(InputError, match="this model has no classification head"):
            call(model, PIXELS)
    assert lens.ablate(model, PIXELS, "blocks.1").pooled.shape == (3, 15)


def test_it_is_offered_and_costs_nothing_unasked():
    import subprocess
    import sys

    code = "import sys, numpy_vit; assert 'numpy_vit.lens' not in sys.modules; print(numpy_vit.lens.logit_lens.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("logit_lens\n", "")
    assert "lens" in numpy_vit.__all__


# What it is good for


def test_the_misread_5(run):
    """After the third block the shipped model takes it for a 5, just so; after the next for the 9 that it says in the end."""
    model = numpy_vit.load()
    pixels = model.preprocess(MISREAD)
    logits = lens.logit_lens(model, pixels)[:, 0]
    assert logits.argmax(axis=1).tolist() == [4, 9, 9, 5, 9, 9, 9]
    parts = lens.direct_attribution(model, pixels, 9)
    assert parts["mlps"][0].argmax() == 5 and parts["mlps"][0, 5] > 4 * parts["heads"].max()
    status, out, _ = run("lens", MISREAD)
    lines = out.splitlines()
    assert status == 0 and lines[0] == str(MISREAD)
    assert re.fullmatch(r"  blocks\.2   5 26\.\d %, 8 26\.\d %, 9 23\.\d %  <- was 9", lines[4]), lines[4]
    assert re.fullmatch(r"  blocks\.3   9 46\.\d %, 5 19\.\d %, 8 19\.\d %  <- was 5", lines[5]), lines[5]
    assert lines[8].startswith("  9 has the logit 4.88: blocks.5 MLP +1.88, ")


DOCUMENT = (REPOSITORY / "docs" / "lens.md").read_text(encoding="utf-8")


def test_the_document_shows_what_is_printed(run, monkeypatch):
    """All but the last digits, which another processor may round otherwise."""
    monkeypatch.chdir(REPOSITORY)
    quoted = re.search(r"^```text\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)[1]
    number = re.compile(r"[+-]?\d+\.\d+")
    printed = run("lens", "weights/samples/5/0005-0.png")[1]
    assert number.sub("#", printed) == number.sub("#", quoted)
    pairs = zip(map(float, number.findall(printed)), map(float, number.findall(quoted)), strict=True)
    assert all(abs(a - b) < 0.11 for a, b in pairs)


def test_the_examples_of_the_document_run(monkeypatch):
    """The halves without which it is a 5 are those that the text names; the rest is read as it says."""
    monkeypatch.chdir(REPOSITORY)
    said = []
    names = {"print": said.append}
    for block in re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL):
        exec(block, names)
    answers, without = said
    assert [part for part, answer in answers.items() if answer == "5"] == ["blocks.0.mlp", "blocks.1.attention"]
    assert [part for part, answer in answers.items() if answer == "8"] == ["blocks.0.attention"]
    assert list(answers.values()).count("9") == 9
    assert without[-1] == 5 and without[0] == 4
    assert names["importance"].shape == (6, 6)
    anything = [lens.logit_lens(names["model"], names["model"].preprocess(path))[0] for path in names["paths"]]
    assert all(np.array_equal(logits, anything[0]) for logits in anything)  # the class token has seen nothing yet


# The pictures


def test_the_map_of_a_lens(monkeypatch):
    """Each cell has the colour of its share; the likeliest is framed; in the last order, its likeliest always there."""
    shares = np.array([[0.5, 0.1, 0.3, 0.1], [0.0, 0.0, 0.0, 1.0], [0.2, 0.45, 0.35, 0.0]])
    assert draw.classes_shown(shares, 3) == [1, 0, 3] and draw.classes_shown(shares, 99) == [1, 2, 0, 3]
    assert draw.classes_shown(shares, 1) == [1]
    drawn = []
    table = draw.table
    monkeypatch.setattr(draw, "table", lambda *words: drawn.append(words) or table(*words))
    picture = np.asarray(draw.lens_map(shares, ["a", "b", "c", "d" * 90], top=3))
    values, cells, rows, columns, _, framed = drawn[0]
    assert np.array_equal(values, shares[:, [1, 0, 3]].T) and cells[0] == ["10 %", "0 %", "45 %"]
    assert rows[:2] == ["b", "a"] and columns == ["embed", "block 0", "block 1"] and framed == {(1, 0), (2, 1), (0, 2)}
    found = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    wanted = draw.coloured(values, 0.0, 1.0).reshape(-1, 3)
    assert {tuple(colour) for colour in wanted.tolist()} <= found
    only = shares * 0 + 0.25
    assert draw.lens_map(only).size[1] > draw.lens_map(only, top=2).size[1]


@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 1)])
def test_a_cell_is_framed_where_it_is(place):
    values = np.arange(6.0).reshape(2, 3)
    plain, framed = (
        np.asarray(draw.table(values, values.astype(str), "ab", "xyz", (0.0, 5.0), which)).astype(int)
        for which in (set(), {place})
    )
    changed = np.argwhere((plain != framed).any(axis=-1))
    colour = draw.coloured(values, 0.0, 5.0)[place]
    cell = np.argwhere((plain == colour).all(axis=-1))
    assert (framed[tuple(changed.T)] == draw.FRAME).all()
    assert (
        np.abs(changed.min(axis=0) - cell.min(axis=0)).max() <= 2 and np.abs(changed.max(axis=0) - cell.max(axis=0)).max() <= 2
    )


def test_what_stands_in_a_cell_can_be_read():
    """White on what is dark, dark on what is light: at least 4 to 1."""
    shades = np.linspace(0, 1, 9)
    picture = np.asarray(draw.table(shades[None], [["MMM"] * 9], ["M"], ["M"] * 9, (0.0, 1.0), set())).astype(int)
    for colour in draw.coloured(shades, 0.0, 1.0):
        inside = np.argwhere((picture == colour).all(axis=-1))
        (top, left), (bottom, right) = inside.min(axis=0), inside.max(axis=0)
        light = luminance(picture[top : bottom + 1, left : right + 1].astype(float)) + 0.05
        ground = luminance(colour.astype(float)) + 0.05
        assert max(light.max() / ground, ground / light.min()) > 4


def test_the_map_of_an_attribution():
    heads, mlps = np.array([[0.5, -1.0], [0.0, 0.25]]), np.array([2.0, -0.5])
    found = {tuple(colour) for colour in np.asarray(draw.attribution_map(heads, mlps)).reshape(-1, 3).tolist()}
    wanted = draw.coloured(np.concatenate([heads.ravel(), mlps]), -2.0, 2.0).tolist()
    assert {tuple(colour) for colour in wanted} <= found and draw.RAMP[-1] in found and draw.RAMP[0] not in found
    bars = np.asarray(draw.attribution_bars({"up": 2.0, "down": -1.0, "none": 0.0}))
    up, down = ((bars == colour).all(axis=-1) for colour in (draw.RAMP[-1], draw.RAMP[0]))
    assert np.flatnonzero(up.any(axis=0)).min() > np.flatnonzero(down.any(axis=0)).max()  # on either side of the line
    assert abs(up.any(axis=0).sum() - 2 * down.any(axis=0).sum()) <= 3
    assert np.flatnonzero(up.any(axis=1)).max() < np.flatnonzero(down.any(axis=1)).min()
    draw.attribution_map(heads * 0, mlps * 0), draw.attribution_bars({"none": 0.0})


def test_senseless_drawings_are_refused():
    for wrong in (
        lambda: draw.lens_map(np.ones(3)),
        lambda: draw.lens_map(np.ones((2, 3)), ["a"]),
        lambda: draw.attribution_map(np.ones((2, 3)), np.ones(3)),
        lambda: draw.attribution_bars({}),
    ):
        with pytest.raises(InputError, match="draw: "):
            wrong()


# numpy-vit lens


@pytest.fixture
def picture(tmp_path):
    pictures.draw(30, 50).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def refused(run, *words):
    status, out, error = run("lens", *words)
    assert status == 2 and out == "" and error.count("\n") == 1, error
    return error


def test_json_is_what_the_functions_say(run, picture):
    status, out, err = run("lens", picture, "--weights", CLASSIFIER, "--json", "--top", 2, "--dtype", "float64", "--strict")
    assert (status, err) == (0, "")
    (row,) = json.loads(out)
    model = numpy_vit.load(CLASSIFIER, dtype="float64")
    pixels = model.preprocess(picture)
    logits = lens.logit_lens(model, pixels)[:, 0]
    assert [entry["after"] for entry in row["lens"]] == ["embedding", "blocks.0", "blocks.1", "blocks.2"]
    for entry, expected in zip(row["lens"], logits, strict=True):
        assert [best["class"] for best in entry["top"]] == np.argsort(-expected)[:2].tolist()
        assert np.allclose([best["logit"] for best in entry["top"]], np.sort(expected)[::-1][:2], rtol=0, atol=1e-12)
    best = logits.argmax(axis=1)
    changes = [(f"blocks.{n}", f"class {best[n]}", f"class {best[n + 1]}") for n in range(3) if best[n] != best[n + 1]]
    assert changes and [(c["after"], c["from"], c["to"]) for c in row["changes"]] == changes
    parts = lens.direct_attribution(model, pixels, int(best[-1]))
    found = row["attribution"]
    assert found["class"] == best[-1] and np.allclose(found["heads"], parts["heads"][0], rtol=0, atol=1e-12)
    total = found["embedding"] + np.sum(found["heads"]) + np.sum(found["mlps"]) + found["biases"]
    assert abs(total - found["logit"]) < 1e-12


def test_the_class_that_is_asked_for(run, picture):
    for name, number in (("class 4", 4), ("CLASS 4", 4), ("0", 0)):
        out = run("lens", picture, "--weights", CLASSIFIER, "--json", "--attribute", name)[1]
        assert json.loads(out)[0]["attribution"]["class"] == number
    assert "  class 4 has the logit " in run("lens", picture, "--weights", CLASSIFIER, "--attribute", "class 4")[1]
    error = refused(run, picture, "--weights", CLASSIFIER, "--attribute", "clas 4")
    assert "--attribute clas 4: no one class is called so; did you mean 'class 4'?, and numbers are from 0 to 5" in error
    assert "--attribute 6" in refused(run, picture, "--weights", CLASSIFIER, "--attribute", 6)


def test_several_pictures_and_a_bad_one(run, picture):
    (picture.parent / "bad.png").write_bytes(b"")
    status, out, err = run("lens", picture.parent, "--weights", CLASSIFIER)
    assert status == 2 and out.startswith(f"{picture}\n  embedding  ") and len(out.splitlines()) == 6
    assert err == f"numpy-vit: error: {picture.parent}/bad.png: the file is empty (0 bytes)\n"
    status, out, _ = run("lens", picture.parent, "--weights", CLASSIFIER, "--json")
    rows = json.loads(out)
    assert status == 2 and [sorted(row)[:2] for row in rows] == [["attribution", "changes"], ["error", "image"]]


@pytest.mark.parametrize("options", [(), ("--size", "32x24"), ("--top", 1)])
def test_it_draws(run, picture, options):
    target = picture.parent / "out.png"
    status, out, err = run("lens", picture, "--weights", CLASSIFIER, "-o", target, *options)
    assert status == 0 and out
    with Image.open(target) as drawn:
        assert err == f"numpy-vit: note: {target}: {drawn.width} x {drawn.height} pixels\n"
        seen = np.asarray(drawn)
    assert drawn.width > 500 and drawn.height > 300
    assert (seen == draw.FRAME).all(axis=-1).sum() > 100 and (seen == draw.RAMP[-1]).all(axis=-1).any()


def test_the_command_refuses(run, picture):
    refused_by = lambda *words: refused(run, *words, "--weights", CLASSIFIER)  # noqa: E731
    assert "the name must end in .png" in refused_by(picture, "-o", picture.parent / "x.jpg")
    assert "-o draws one picture: these are 2" in refused_by(picture, picture, "-o", picture.parent / "x.png")
    assert "there is no folder" in refused_by(picture, "-o", picture.parent / "absent" / "x.png")
    assert "no such file or folder" in refused_by(picture.parent / "absent.png")
    assert "image height 30 is not a multiple of the patch size 8" in refused_by(picture, "--size", "30x30")
    assert "required: IMAGE" in refused(run)
    assert [path.name for path in picture.parent.iterdir()] == ["a.png"]


def written(path, **changes):
    """A file of a seeded model that says how pictures are prepared."""
    from numpy_vit.files.converted import Checkpoint, write_converted
    from numpy_vit.files.tensorfile import tensor_of
    from numpy_vit.pictures.images import Preprocess

    config = crooked_config(**changes)
    tensors = {name: tensor_of(array) for name, array in numpy_vit.random_model(config).tensors.items()}
    preprocess = Preprocess(
        channels=3, resize="squash", size=(12, 20), resample="bilinear", crop=None, scale=1 / 255, mean=None, std=None
    )
    write_converted(path, Checkpoint(config, tensors, preprocess, None, {"family": "random"}))
    return path


def test_models_of_which_there_is_less_to_say(run, picture):
    gathered = written(picture.parent / "map.safetensors", pooling="map")
    status, out, err = run("lens", picture, "--weights", gathered, "-o", picture.parent / "out.png")
    assert status == 0 and len(out.splitlines()) == 5 and "has the logit" not in out
    assert "note: direct_attribution: this model's logits are no sum of what its parts add" in err
    status, out, _ = run("lens", picture, "--weights", gathered, "--json")
    assert status == 0 and json.loads(out)[0]["attribution"] is None
    assert "logits are no sum" in refused(run, picture, "--weights", gathered, "--attribute", 1)
    bare = written(picture.parent / "bare.safetensors", classes=0)
    assert "bare.safetensors: has no classification head" in refused(run, picture, "--weights", bare)
