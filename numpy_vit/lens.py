"""What a model makes of a picture on the way to its answer, and what becomes of the answer where a part is changed.

    logit_lens           what it would answer after every block
    direct_attribution   how much of a logit each head and MLP has brought
    ablate               without some heads, blocks, neurons or tokens
    patch                with steps of another picture's run
    knockout             where some tokens must not attend to others
    head_importance      how much worse it is without each head, over many pictures

All are made of `record=` and `change=` of `model(pixels, ...)`: none has a forward pass of its own. `options` are those of that
call (record, strict, resize_positions). What `change=` is to be for the second three is given by `ablating`, `patching` and
`knocking_out`: `logit_lens(model, pixels, change=ablating(model, pixels, "blocks.2.heads.4"))` is the lens without a head.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .config import ViTConfig
from .errors import InputError, check_kind, in_words
from .families import activation_name, embedding_output
from .model import classify
from .steps import Array
from .vit import Change, ViT, ViTOutput, new_step
from .windows import attention_names, tokens_of_windows

Steps = str | Iterable[str]
Numbers = int | Iterable[int]


# What is there


def logit_lens(model: ViT, pixels: Array, **options: Any) -> Array:
    """What the model would answer, had it no more blocks: logits after the embedding and after every block.

    pixels (B, C, Y, X) -> (L + 1, B, O); the last are the model's own logits. Last norm, pooling and head are the model's. It
    was trained for them to read the last block alone: what they read of early ones is a hint, not a belief that is held.

    nostalgebraist, "interpreting GPT: the logit lens" (2020). Belrose et al., "Eliciting Latent Predictions from Transformers
    with the Tuned Lens", arXiv 2303.08112, train a linear layer for each block besides; there is none here.

    Raises InputError for a model without classes.
    """
    check_classes(model)
    out = model(pixels, **{**options, "record": "hidden_states"})
    assert out.config is not None
    return np.stack([answered(model, x, out.config) for x in out.hidden_states])


def answered(model: ViT, x: Array, config: ViTConfig) -> Array:
    """The model's own last steps, of any tokens at the size of `config`. (B, N, D) -> logits (B, O)."""
    step = new_step(model.config, len(x), config.image, model.dtype)
    return np.asarray(step.into("", classify, x.view(model.array_type), model.weights, config)["logits"])


def direct_attribution(model: ViT, pixels: Array, target: int | Sequence[int], **options: Any) -> dict[str, Array]:
    """How much each part has itself added to a logit, its scale in the norms being what it is for this picture.

    pixels (B, C, Y, X); target: a class, or one for each picture -> float64 arrays, which sum to the logit of every picture:

    tokens      (B, N)      the embedded patches (their projection's bias included), class token and others
    positions   (B, N)      what is added to them as positions; not there in a model that adds none
    heads       (B, L, H)   every head of every block, its part of the output layer included
    mlps        (B, L)      every MLP
    biases      (B,)        the biases of the blocks' output layers, of the norms on the way, and of the head

    The residual stream is a sum, and the head reads it through one norm; where that norm's scale is held, a logit is a sum over
    the parts as well. A norm of what a branch adds (Swin v2) or of all heads together (EVA-02 CLIP) is held likewise. It is the
    direct effect alone: what a part does by way of later ones is counted there (`ablate` has both).

    Elhage et al., "A Mathematical Framework for Transformer Circuits" (2021), transformer-circuits.pub/2021/framework.

    Raises InputError where a logit is no such sum, or for a class that is not there.
    """
    check_classes(model)
    check_is_a_sum(model.config)
    names = ["embed.tokens", embedding_output(model.config), "blocks.*.attention.context", "blocks.*.attention.output"]
    names += ["blocks.*.mlp.output", f"blocks.{model.config.depth - 1}.residual2", "pool"]
    names += ["embed.positions"] if model.config.positions != "none" else []
    out = model(pixels, **{**options, "record": names})
    assert out.config is not None and out.logits is not None
    targets = np.broadcast_to(class_numbers(target, model.config.classes), len(out.logits))
    return Backwards(model, out.steps, out.config).attributed(targets)


class Backwards:
    """From a logit back to what has been added up to it: a direction of the logit, (B, N, D), at each place of a run.

    A part's share is the scalar product of what it has added and the direction there. `biases` collects what the norms' own
    biases bring, on the way.
    """

    def __init__(self, model: ViT, steps: Mapping[str, Array], config: ViTConfig) -> None:
        self.config = config
        self.steps = {name: plain(array) for name, array in steps.items()}
        self.tensors = model.tensors
        self.biases: Array = np.zeros(len(steps["embed.tokens"]))

    def attributed(self, targets: Array) -> dict[str, Array]:
        """`direct_attribution` of the classes (B,)."""
        c, last = self.config, self.before_the_head(targets)
        heads, mlps = zip(*(self.of_block(n, last) for n in range(c.depth)), strict=True)
        ends = "positions" if c.positions != "none" else "tokens"
        first = self.before_norm("embed.norm", last, f"embed.{ends}") if c.pre_norm else last
        tokens = self.steps["embed.tokens"]
        parts = {"tokens": (tokens * first).sum(-1)}
        if c.positions != "none":
            parts["positions"] = ((self.steps["embed.positions"] - tokens) * first).sum(-1)
        return {**parts, "heads": np.stack(heads, axis=1), "mlps": np.stack(mlps, axis=1), "biases": self.biases}

    def before_the_head(self, targets: Array) -> Array:
        """The direction at the last block's output: head, pooling and last norm, backwards. (B,) -> (B, N, D)."""
        c, B = self.config, len(targets)
        halves = 2 if c.distillation_head else 1  # the logits are the mean of two heads
        pooled = self.weight("head")[:, targets].T / halves
        self.biases += self.bias("head", c.classes)[targets] / halves
        if c.final_norm == "pooled":
            pooled = self.before_norm("pooled_norm", pooled, "pool")
        direction = np.zeros((B, c.tokens, c.width))
        if c.pooling.startswith("class"):
            direction[:, 0] = pooled[:, : c.width]
        if c.pooling.endswith("mean"):
            direction[:, c.special_tokens :] = pooled[:, None, -c.width :] / c.patches
        if c.distillation_head:
            direction[:, 1] += self.weight("distillation_head")[:, targets].T / 2
            self.biases += self.bias("distillation_head", c.classes)[targets] / 2
        last = f"blocks.{c.depth - 1}.residual2"
        return self.before_norm("norm", direction, last) if c.final_norm == "tokens" else direction

    def of_block(self, n: int, direction: Array) -> tuple[Array, Array]:
        """The shares of a block's heads (B, H) and of its MLP (B,)."""
        c, block = self.config, f"blocks.{n}"
        added = self.before_branch_end(n, 1, direction)
        context = self.steps[f"{block}.attention.context"]  # (B, H, N, K)
        B, H, N, K = context.shape
        of_heads = added @ self.weight(f"{block}.attention.output").T  # (B, N, H*K)
        if c.context_norm:
            merged = context.swapaxes(1, 2).reshape(B, N, H * K)
            of_heads = self.before_norm(f"{block}.attention.context_norm", of_heads, merged)
        heads = (of_heads.reshape(B, N, H, K) * context.swapaxes(1, 2)).sum(axis=(1, 3))
        self.add_bias(self.bias(f"{block}.attention.output", c.width), added)
        added, bias = self.before_branch_end(n, 2, direction), self.bias(f"{block}.mlp.output", c.width)
        self.add_bias(bias, added)
        return heads, ((self.steps[f"{block}.mlp.output"] - bias) * added).sum(axis=(1, 2))

    def before_branch_end(self, n: int, half: int, direction: Array) -> Array:
        """The direction at the output layer of attention (half 1) or the MLP (2): layer scale and norm, backwards."""
        c, block = self.config, f"blocks.{n}"
        if c.layer_scale:
            direction = direction * plain(self.tensors[f"{block}.layer_scale{half}"])
        if c.norm_places == "before":
            return direction
        norm = f"{block}.norm{half}_after" if c.norm_places == "both" else f"{block}.norm{half}"
        return self.before_norm(norm, direction, f"{block}.{'attention' if half == 1 else 'mlp'}.output")

    def before_norm(self, name: str, direction: Array, input: str | Array) -> Array:
        """The direction before a norm, whose scale is that of its `input` (a step, or an array). (..., D) -> (..., D)."""
        x = self.steps[input] if isinstance(input, str) else input
        centred = x - x.mean(axis=-1, keepdims=True) if self.config.norm == "layer" else x
        scale = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + self.config.eps)
        self.add_bias(self.bias_of_norm(name), direction)
        direction = direction * plain(self.tensors[f"{name}.weight"]) / scale
        return direction - direction.mean(axis=-1, keepdims=True) if self.config.norm == "layer" else direction

    def add_bias(self, bias: Array, direction: Array) -> None:
        self.biases += (direction * bias).reshape(len(direction), -1).sum(axis=1)

    def bias_of_norm(self, name: str) -> Array:
        return plain(self.tensors[f"{name}.bias"]) if f"{name}.bias" in self.tensors else np.zeros(1)  # RMS norms have none

    def weight(self, name: str) -> Array:
        return plain(self.tensors[f"{name}.weight"])

    def bias(self, name: str, width: int) -> Array:
        return plain(self.tensors[f"{name}.bias"]) if f"{name}.bias" in self.tensors else np.zeros(width)


# What is changed


def ablate(model: ViT, pixels: Array, what: Steps, *, by: str | Array = "zero", **options: Any) -> ViTOutput:
    """The model's outputs with parts of it replaced. pixels (B, C, Y, X) -> ViTOutput.

    what   one or several of
           "blocks.2", "blocks.2.attention", "blocks.2.mlp"    what a block, or half of it, adds to the tokens
           "blocks.2.heads.4"      what a head has gathered, before the output layer
           "blocks.2.neurons.17"   a number of the MLP's M, as it goes into its output layer
           "tokens.5"              an embedded token (with its position); "blocks.2.tokens.5": a token after this block
           * stands for all blocks or numbers: "blocks.*.heads.4"
    by     "zero"; "mean": what it is for these pictures, of which there must be several, on average, token by token; or other
           pixels (B or 1, C, Y, X): what it is for those

    By zero: Michel et al., "Are Sixteen Heads Really Better than One?", arXiv 1905.10650. By the mean, or another picture's,
    which leave the model with numbers it knows: Wang et al., "Interpretability in the Wild", arXiv 2211.00593.

    Raises InputError for a part that the model does not have.
    """
    change = ablating(model, pixels, what, by=by, **without_record(options))
    return model(pixels, change=change, **options)


def ablating(model: ViT, pixels: Array, what: Steps, *, by: str | Array = "zero", **options: Any) -> dict[str, Change]:
    """`ablate` as what `change=` is to be."""
    check_kind("model", model, ViT, "a numpy_vit.ViT")
    found = places(what, model.config.for_image(np.shape(pixels)[2:]) if np.ndim(pixels) == 4 else model.config)
    if isinstance(by, str) and by == "zero":
        others: Mapping[str, Array] = {}
    elif isinstance(by, str) and by == "mean":
        if len(pixels) == 1:
            raise InputError("ablate: the mean of one picture is what it is already: give several, or another picture's pixels")
        kept = model(pixels, **options, record=list(found)).steps
        others = {name: np.broadcast_to(array.mean(axis=0, keepdims=True), array.shape) for name, array in kept.items()}
    elif isinstance(by, str):
        raise InputError(f"ablate: by {in_words(by)} is not one of zero, mean, or other pixels (B, C, Y, X)")
    else:
        others = model(as_many("ablate", by, pixels), **options, record=list(found)).steps
    return {name: replacing(axis, sorted(numbers), others.get(name)) for name, (axis, numbers) in found.items()}


def replacing(axis: int, numbers: list[int], other: Array | None) -> Change:
    """A change that puts zeros, or another array's, at some places of an axis; at all of the axis -1 that has no numbers."""

    def change(array: Array) -> Array:
        index = (slice(None),) * axis + (numbers or slice(None),)
        array[index] = 0 if other is None else other[index]
        return array

    return change


PART = re.compile(
    r"blocks\.(?P<block>\d+|\*)(\.(?P<half>attention|mlp)|\.(?P<kind>heads|neurons|tokens)\.(?P<number>\d+|\*))?"
    r"|tokens\.(?P<token>\d+|\*)"
)
PARTS = "blocks.2, blocks.2.attention, blocks.2.mlp, blocks.2.heads.4, blocks.2.neurons.17, blocks.2.tokens.5, tokens.5"


def places(what: Steps, config: ViTConfig) -> dict[str, tuple[int, set[int]]]:
    """Parts as `ablate` names them -> step: the axis, and the numbers on it (none: all of the step). Raises InputError."""
    found: dict[str, tuple[int, set[int]]] = {}
    for text in [what] if isinstance(what, str) else list(what):
        match = PART.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InputError(f"ablate: {in_words(text)} is no part: give {PARTS}, or * for a number")
        block, half, kind, number, token = match.group("block", "half", "kind", "number", "token")
        if token is not None:
            kind, number = "tokens", token
        for n in [None] if block is None else chosen(block, config.depth, f"ablate: {text}: block"):
            for name, axis, size in steps_of(n, kind or half, config):
                numbers = set(chosen(number, size, f"ablate: {text}: {kind[:-1]}")) if kind else set()
                found.setdefault(name, (axis, set()))[1].update(numbers)
    return found


def steps_of(block: int | None, kind: str | None, config: ViTConfig) -> list[tuple[str, int, int]]:
    """Where a kind of part is changed: (step, axis, how many are there)."""
    c, path = config, f"blocks.{block}"
    if kind == "heads":
        return [(f"{path}.attention.context", 1, c.heads)]
    if kind == "neurons":
        last = "norm" if c.mlp_norm else "gated" if c.gated_mlp else activation_name(c)
        return [(f"{path}.mlp.{last}", 2, c.mlp)]
    if kind == "tokens":
        return [(embedding_output(c) if block is None else f"{path}.residual2", 1, c.tokens)]
    halves = [(1, "attention"), (2, "mlp")] if kind is None else [(1 if kind == "attention" else 2, kind)]
    return [(f"{path}.{branch_end(half, name, c)}", 0, 0) for half, name in halves]


def branch_end(half: int, name: str, config: ViTConfig) -> str:
    """The last step of attention or MLP that has to be changed: what is added to the tokens, or layer scale makes it of."""
    return {"before": f"{name}.output", "after": f"norm{half}", "both": f"norm{half}_after"}[config.norm_places]


def patch(model: ViT, pixels: Array, other_pixels: Array, steps: Steps, **options: Any) -> ViTOutput:
    """The model's outputs for `pixels`, with some steps as they are for other pictures: activation patching.

    pixels (B, C, Y, X), other_pixels (B or 1, C, Y, X); steps: names or patterns as `record` has them -> ViTOutput. With all
    steps ("*") it is the other pictures' run, bit for bit. Single heads and tokens: `ablate(..., by=other_pixels)`; causal
    tracing puts a picture's token after a block back into the run of a spoilt one:
    `ablate(model, spoilt, "blocks.2.tokens.5", by=pixels)`.

    Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation Analysis" (NeurIPS 2020), arXiv 2004.12265.
    Meng et al., "Locating and Editing Factual Associations in GPT" (ROME), arXiv 2202.05262.

    Raises InputError for names that no step has, or pictures of another number or size.
    """
    change = patching(model, pixels, other_pixels, steps, **without_record(options))
    return model(pixels, change=change, **options)


def patching(model: ViT, pixels: Array, other_pixels: Array, steps: Steps, **options: Any) -> dict[str, Change]:
    """`patch` as what `change=` is to be."""
    check_kind("model", model, ViT, "a numpy_vit.ViT")
    kept = model(as_many("patch", other_pixels, pixels), **options, record=steps).steps
    return {name: constant(array) for name, array in kept.items()}


def constant(other: Array) -> Change:
    return lambda array: other


def knockout(
    model: ViT, pixels: Array, from_tokens: Numbers, to_tokens: Numbers, *, blocks: Numbers | None = None, **options: Any
) -> ViTOutput:
    """The model's outputs where nothing may go from some tokens to others: attention knockout.

    from_tokens   the numbers of the tokens that are not to be attended to, of N: the class token is 0
    to_tokens     those that must not attend to them
    blocks        the blocks in which that is so; None: all

    Their scores are minus infinity before softmax, in every head, so that what is left sums to 1 again. A token can still be
    heard of by way of a third one.

    Geva et al., "Dissecting Recall of Factual Associations in Auto-Regressive Language Models", arXiv 2304.14767.

    Raises InputError for tokens or blocks that are not there, and where a token would have none left to attend to.
    """
    return model(pixels, change=knocking_out(model, pixels, from_tokens, to_tokens, blocks=blocks), **options)


def knocking_out(
    model: ViT, pixels: Array, from_tokens: Numbers, to_tokens: Numbers, *, blocks: Numbers | None = None
) -> dict[str, Change]:
    """`knockout` as what `change=` is to be."""
    check_kind("model", model, ViT, "a numpy_vit.ViT")
    config = model.config.for_image(np.shape(pixels)[2:]) if np.ndim(pixels) == 4 else model.config
    sources = listed(from_tokens, config.tokens, "knockout: from_tokens: token")
    targets = listed(to_tokens, config.tokens, "knockout: to_tokens: token")
    changes = {}
    for n in listed(range(config.depth) if blocks is None else blocks, config.depth, "knockout: block"):
        for name, tokens in zip(attention_names(config)[n], tokens_of_windows(config, n), strict=True):
            shut = np.isin(tokens, targets)[:, :, None] & np.isin(tokens, sources)[:, None, :]  # (windows, N, N)
            if shut.all(axis=-1).any():
                raise InputError("knockout: a token would have none left to attend to: leave it one, itself say")
            changes[f"{name.removesuffix('probs')}scores"] = shutting(shut)  # whatever is added to them, it stays infinite
    return changes


def shutting(shut: Array) -> Change:
    """A change of scores (B * windows, H, N, N): minus infinity where (windows, N, N) is true."""

    def change(scores: Array) -> Array:
        everywhere = np.tile(shut, (len(scores) // len(shut), 1, 1))[:, None]
        np.asarray(scores)[np.broadcast_to(everywhere, scores.shape)] = -np.inf
        return scores

    return change


def head_importance(model: ViT, batches: Iterable[Array], *, labels: Iterable[int] | None = None, **options: Any) -> Array:
    """How much worse the model is without each head, over many pictures. -> (L, H), float64.

    batches   pixels (B, C, Y, X) each, all of one size; all are kept
    labels    the pictures' classes. With them: how much the loss (cross entropy, in nats) grows, and below 0 where the model is
              better without the head. Without: how far its answers move, the mean of KL(as it is || without the head)

    In the head's place stands its mean over all the pictures, token by token. It takes L * H + 1 runs, and no gradients: Michel
    et al., "Are Sixteen Heads Really Better than One?", arXiv 1905.10650, section 3 (their estimate by gradients, section 4.1,
    stands in for this where there are too many heads).

    Raises InputError for a model without classes, or labels that do not go with the pictures.
    """
    check_classes(model)
    batches = list(batches)
    if len({np.shape(pixels)[1:] for pixels in batches}) != 1:
        raise InputError("head_importance: give one batch of pixels (B, C, Y, X) or more, all of one size")
    outs = [model(pixels, **{**options, "record": "blocks.*.attention.context"}) for pixels in batches]
    before = np.concatenate([log_shares(out.logits) for out in outs])
    answers = None if labels is None else listed(labels, model.config.classes, "head_importance: label")
    if answers is not None and len(answers) != len(before):
        raise InputError(f"head_importance: {len(answers)} labels for {len(before)} pictures")
    found = np.zeros((model.config.depth, model.config.heads))
    for n, h in np.ndindex(found.shape):
        name = f"blocks.{n}.attention.context"
        mean = sum(out.steps[name].sum(axis=0, keepdims=True) for out in outs) / len(before)
        change = {name: replacing(1, [h], mean)}
        after = np.concatenate([log_shares(model(pixels, change=change, **options).logits) for pixels in batches])
        found[n, h] = worse(before, after, answers)
    return found


def worse(before: Array, after: Array, answers: list[int] | None) -> float:
    """From the logarithms of the classes' shares (B, O): how much the loss grows, or without answers the divergence."""
    if answers is None:
        return float((np.exp(before) * (before - after)).sum(axis=1).mean())
    pictures = np.arange(len(answers))
    return float((before - after)[pictures, answers].mean())


# What is given


def log_shares(logits: Array) -> Array:
    """Logits (..., O) -> the logarithm of softmax, float64."""
    logits = plain(logits)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def plain(array: Array) -> Array:
    """A plain array of float64, of whatever kind (portable, say)."""
    return np.asarray(array, np.float64).view(np.ndarray)


def without_record(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the first of two runs is to be like."""
    return {name: value for name, value in options.items() if name != "record"}


def as_many(what: str, other: Array, pixels: Array) -> Array:
    """Other pictures, one for each; a single one for all. Raises InputError for another number or size."""
    if np.ndim(other) != 4 or np.shape(other)[1:] != np.shape(pixels)[1:] or len(other) not in (1, len(pixels)):
        raise InputError(
            f"{what}: the other pictures' pixels are {in_words(other)}: they must be {tuple(np.shape(pixels))}, or one of these"
        )
    return np.broadcast_to(other, np.shape(pixels))


def check_classes(model: ViT) -> None:
    """Raise InputError for a model that does not classify."""
    check_kind("model", model, ViT, "a numpy_vit.ViT")
    if not model.config.classes:
        raise InputError("lens: this model has no classification head: there are no logits to look at")


def check_is_a_sum(config: ViTConfig) -> None:
    """Raise InputError where a logit is not a sum over the residual stream's parts, however the norms' scales are held."""
    for there, why in (
        (config.pooling in ("map", "query"), f"the picture's vector is gathered by attention (pooling {config.pooling!r})"),
        (config.pre_logits, "the head sees a tanh of the picture's vector (pre_logits)"),
        (config.clipped_linears, "its linear layers keep their numbers within bounds (clipped_linears)"),
    ):
        if there:
            raise InputError(f"direct_attribution: this model's logits are no sum of what its parts add: {why}")


def chosen(text: str, size: int, what: str) -> list[int]:
    """ "3" -> [3], "*" -> all. Raises InputError for a number that is not there."""
    return list(range(size)) if text == "*" else listed(int(text), size, what)


def listed(numbers: Any, size: int, what: str) -> list[int]:
    """One whole number from 0, or several. Raises InputError for one that is not below `size`, or none at all."""
    try:
        found = [numbers] if np.ndim(numbers) == 0 and not isinstance(numbers, Iterable) else list(numbers)
        whole = [int(number) for number in found if int(number) == number and not isinstance(number, str)]
    except (TypeError, ValueError, OverflowError):
        found, whole = [numbers], []
    if not found or len(whole) < len(found):
        raise InputError(f"{what}: {in_words(numbers)} is not a whole number, or a list of some")
    for number in whole:
        if not 0 <= number < size:
            raise InputError(f"{what} {number}: there are {size}, from 0 to {size - 1}")
    return whole


def class_numbers(target: Any, classes: int) -> Array:
    """One class, or one for each picture."""
    numbers = np.array(listed(target, classes, "direct_attribution: class"))
    return numbers[0] if np.ndim(target) == 0 else numbers
