"""The forward pass of a Vision Transformer, in the order the data flows: embed -> encode -> pool -> classify.

What it is: "An Image is Worth 16x16 Words" (arXiv 2010.11929) in explicit NumPy, for reading and for reference. It has no
dropout, no training, no second code path; it knows nothing of files, pictures or terminals.

For ViT-B/16, (B, 3, 224, 224) pixels become (B, 196, 768) patches, (B, 197, 768) tokens, pass 12 encoder blocks of that
same shape, and end as (B, 768) and (B, 1000) logits. Every `step("name", array, "dims")` checks its array and shows it to
whoever listens; the letters are in numpy_vit.steps.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .config import ViTConfig
from .errors import InputError, nearest
from .ops import (
    ACTIVATIONS,
    linear,
    mean_0_variance_1,
    merge_heads,
    patchify,
    prepend,
    rows_sum_to_1,
    scale_and_shift,
    softmax,
    split_heads,
    standardize,
    undone_by_unpatchify,
)
from .parameters import Attention, Block, Embedding, Linear, Mlp, Norm, Weights, assemble, parameter_shapes
from .positions import resize_positions
from .steps import Listener, Step

Array = Any


def forward(pixels: Array, w: Weights, config: ViTConfig, step: Step) -> tuple[Array, Array, Array | None, Array | None]:
    """pixels (B, C, Y, X) -> tokens (B, N, D), pooled (B, D), pooler output (B, R), logits (B, O); None what is not there."""
    x = embed(pixels, w.embed, config, step.under("embed"))
    x = encode(x, w.blocks, config, step)
    x = norm("norm", x, w.norm, config, step)
    pooled = pool(x, config, step)
    return x, pooled, tanh_pooler(x, w.pooler, step), classify(pooled, w.head, step)


def embed(pixels: Array, w: Embedding, config: ViTConfig, step: Step) -> Array:
    """Eq. 1: patches are projected, the class token is put first, positions are added. (B, C, Y, X) -> (B, N, D)."""
    patches = step("patches", patchify(pixels, config.patch), "B N-1 C*P*P")
    step.invariant("patches", undone_by_unpatchify, patches, pixels, config.patch)
    x = step("projection", linear(patches, *w.projection), "B N-1 D")
    x = step("tokens", prepend(w.class_token, x), "B N D")
    return step("positions", x + positions_for(pixels.shape[2:], w.positions, config, step), "B N D")


def positions_for(image: tuple[int, int], positions: Array, config: ViTConfig, step: Step) -> Array:
    """The position embeddings (N, D) for an image of (Y, X) pixels: as learned, or resized to its grid of patches."""
    grid = image[0] // config.patch, image[1] // config.patch
    if grid == config.grid:
        return positions
    return step("resized_positions", resize_positions(positions, config.grid, grid, config.position_rule), "N D")


def encode(x: Array, blocks: Iterable[Block], config: ViTConfig, step: Step) -> Array:
    """L encoder blocks, one after another; none changes the shape. (B, N, D) -> (B, N, D)."""
    for n, w in enumerate(blocks):
        x = encoder_block(x, w, config, step.under(f"blocks.{n}"))
    return x


def encoder_block(x: Array, w: Block, config: ViTConfig, step: Step) -> Array:
    """Eq. 2 and 3: norm, attention, add; norm, MLP, add. (B, N, D) -> (B, N, D)."""
    normed = norm("norm1", x, w.norm1, config, step)
    x = step("residual1", x + multi_head_attention(normed, w.attention, config, step.under("attention")), "B N D")
    normed = norm("norm2", x, w.norm2, config, step)
    return step("residual2", x + mlp(normed, w.mlp, config, step.under("mlp")), "B N D")


def norm(name: str, x: Array, w: Norm, config: ViTConfig, step: Step) -> Array:
    """Layer norm (numpy_vit.ops.layer_norm). (B, N, D) -> (B, N, D)."""
    standard = standardize(x, config.eps)
    step.invariant(name, mean_0_variance_1, standard, x, config.eps)
    return step(name, scale_and_shift(standard, *w), "B N D")


def multi_head_attention(x: Array, w: Attention, config: ViTConfig, step: Step) -> Array:
    """Appendix A, eq. 5 to 8: every token asks (query) every token (key) how much of its value to take.

    (B, N, D) -> (B, N, D). Scores are divided by sqrt(K), so that their spread does not grow with K and softmax does not
    saturate.
    """
    query = step("query", split_heads(linear(x, *w.query), config.heads), "B H N K")
    key = step("key", split_heads(linear(x, *w.key), config.heads), "B H N K")
    value = step("value", split_heads(linear(x, *w.value), config.heads), "B H N K")
    scores = step("scores", query @ key.swapaxes(-1, -2) * config.head_dim**-0.5, "B H N N")
    probs = step("probs", softmax(scores), "B H N N")
    step.invariant("probs", rows_sum_to_1, probs)
    context = step("context", probs @ value, "B H N K")
    return step("output", linear(merge_heads(context), *w.output), "B N D")


def mlp(x: Array, w: Mlp, config: ViTConfig, step: Step) -> Array:
    """Each token for itself: widen to M, activate, back to D. (B, N, D) -> (B, N, D)."""
    hidden = step("hidden", linear(x, *w.hidden), "B N M")
    hidden = step(activation_name(config), ACTIVATIONS[config.activation](hidden), "B N M")
    return step("output", linear(hidden, *w.output), "B N D")


def activation_name(config: ViTConfig) -> str:
    """The activation's step: "gelu" for all three dialects of GELU, else its own name."""
    return "gelu" if "gelu" in config.activation else config.activation


def pool(x: Array, config: ViTConfig, step: Step) -> Array:
    """One vector for the picture: the class token (eq. 4), or the mean of the patch tokens. (B, N, D) -> (B, D)."""
    return step("pool", x[:, 0] if config.pooling == "class" else x[:, 1:].mean(axis=1), "B D")


def tanh_pooler(x: Array, w: Linear | None, step: Step) -> Array | None:
    """What transformers' ViTModel keeps of pre-training: one more layer on the class token. (B, N, D) -> (B, R)."""
    return None if w is None else step("pooler", np.tanh(linear(x[:, 0], *w)), "B R")


def classify(pooled: Array, w: Linear | None, step: Step) -> Array | None:
    """The classification head: one score for each class. (B, D) -> (B, O)."""
    return None if w is None else step("logits", linear(pooled, *w), "B O")


# The model as an object: weights, config, and what its outputs are called


class ViT:
    """A Vision Transformer with its weights: `model(pixels)` runs the forward pass.

    config      ViTConfig
    tensors     name -> array, as numpy_vit.parameters names and shapes them, all of one dtype (float32 or float64)
    labels      class names, one for each logit, or None
    preprocess_policy   called as policy(images, dtype) -> (B, C, Y, X); numpy_vit.images.Preprocess; or None
    source      what is known of the weights' origin

    Raises InputError where the tensors are not those of the config.
    """

    def __init__(
        self,
        config: ViTConfig,
        tensors: Mapping[str, Array],
        labels: list[str] | None = None,
        preprocess_policy: Callable[..., Array] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        shapes = parameter_shapes(config)
        for name, shape in shapes.items():
            if name not in tensors:
                raise InputError(f"model: tensor '{name}' is missing{nearest(name, tensors)}")
            if tuple(tensors[name].shape) != shape:
                raise InputError(f"model: tensor '{name}' is {tuple(tensors[name].shape)}, the config says {shape}")
        unused = sorted(set(tensors) - set(shapes))
        if unused:
            raise InputError(f"model: tensor '{unused[0]}' is not used{nearest(unused[0], shapes)}")
        if labels is not None and len(labels) != config.classes:
            raise InputError(f"model: {len(labels)} labels for {config.classes} classes")
        dtypes = {tensors[name].dtype for name in shapes}
        if len(dtypes) != 1 or not dtypes <= {np.dtype("float32"), np.dtype("float64")}:
            found = ", ".join(sorted(map(str, dtypes)))
            raise InputError(f"model: tensors must be all float32 or all float64, not {found}")
        self.config = config
        self.tensors = dict(tensors)
        self.weights = assemble(tensors, config)
        self.labels = labels
        self.preprocess_policy = preprocess_policy
        self.source = dict(source or {})
        self.dtype = dtypes.pop()

    def __repr__(self) -> str:
        c = self.config
        return (
            f"ViT(image {c.image[0]}x{c.image[1]}, patch {c.patch}, width {c.width}, depth {c.depth}, heads {c.heads}, "
            f"mlp {c.mlp}, classes {c.classes}, {self.dtype})"
        )

    def preprocess(self, images: Any) -> Array:
        """A path, a PIL image, or a list of them -> pixels (B, C, Y, X), resized and normalised as this model wants.

        Raises InputError for a picture that cannot be read, or where the model's source did not say how.
        """
        if self.preprocess_policy is None:
            raise InputError(
                "this model's source does not say how pictures are prepared (no preprocessor_config.json): "
                "give `load` or `numpy-vit convert` one, or make pixels (B, C, Y, X) yourself"
            )
        return self.preprocess_policy(images, self.dtype)

    def __call__(
        self,
        pixels: Array,
        record: "Record" = None,
        strict: bool = False,
        resize_positions: bool = False,
    ) -> "ViTOutput":
        """Run the forward pass. pixels (B, C, Y, X), floats, preprocessed -> ViTOutput.

        record             steps to keep in `out.steps`: True for all, a name or pattern or a list of them
                           ("blocks.*.attention.probs"), or a function called as record(name, array, dims)
        strict             check the invariants as well as the shapes
        resize_positions   accept another image size than the config's, by resizing the position embeddings

        Raises InputError for pixels that do not fit the model, ShapeError or InvariantError for a step that is wrong.
        """
        pixels = self._checked(pixels, resize_positions)
        steps: dict[str, Array] = {}
        listen = listener(record, steps)
        sizes = self.config.sizes_of_run(len(pixels), pixels.shape[2:])
        step = Step(sizes, self.dtype, listen, strict)
        tokens, pooled, pooler_output, logits = (
            x if x is None else np.asarray(x) for x in forward(pixels, self.weights, self.config, step)
        )
        if isinstance(record, str | Iterable):
            unmatched = [p for p in patterns_of(record) if not fnmatch.filter(steps, p)]
            if unmatched:
                raise InputError(f"record: no step is called '{unmatched[0]}'{nearest(unmatched[0], self.step_names())}")

        kept = pixels.copy()  # whoever made the pixels may fill them anew before looking at `out`

        def again(names: list[str]) -> dict[str, Array]:
            return self(kept, names, resize_positions=True).steps

        return ViTOutput(tokens, pooled, pooler_output, logits, steps=steps, _depth=self.config.depth, _again=again)

    def step_names(self) -> list[str]:
        """The full names of all steps of this model, in the order of execution (at its own image size)."""
        c = self.config
        block = ["norm1", *(f"attention.{n}" for n in ("query", "key", "value", "scores", "probs", "context", "output"))]
        block += ["residual1", "norm2", "mlp.hidden", f"mlp.{activation_name(c)}", "mlp.output", "residual2"]
        names = [f"embed.{n}" for n in ("patches", "projection", "tokens", "positions")]
        names += [f"blocks.{i}.{n}" for i in range(c.depth) for n in block]
        return [*names, "norm", "pool", *(["pooler"] if c.pooler else []), *(["logits"] if c.classes else [])]

    def _checked(self, pixels: Array, any_size: bool) -> Array:
        pixels = np.asarray(pixels)
        (Y, X), C, P = self.config.image, self.config.channels, self.config.patch
        if pixels.ndim != 4:
            raise InputError(f"pixels must be (B, C, Y, X) = (B, {C}, {Y}, {X}), not {pixels.shape}")
        if pixels.dtype.kind != "f":
            raise InputError(f"pixels are {pixels.dtype}: preprocess them first (model.preprocess gives {self.dtype})")
        if pixels.shape[1] != C:
            raise InputError(f"pixels have {pixels.shape[1]} channels, the model takes {C}")
        if pixels.shape[0] == 0:
            raise InputError("pixels: an empty batch")
        if pixels.shape[2:] != (Y, X):
            size = f"pixels are {pixels.shape[2]}x{pixels.shape[3]}"
            if not any_size:
                raise InputError(f"{size}, the model takes {Y}x{X}: resize them, or pass resize_positions=True")
            if pixels.shape[2] % P or pixels.shape[3] % P or 0 in pixels.shape:
                raise InputError(f"{size}, which is not a multiple of the patch size {P}")
        # The pixels are of the weights' kind: plain arrays, or those of numpy_vit.portable.
        return np.ascontiguousarray(pixels, dtype=self.dtype).view(type(self.weights.norm.weight))


Record = bool | str | Iterable[str] | Listener | None


def patterns_of(record: str | Iterable[str]) -> list[str]:
    """A name, a pattern or several, as a list of patterns."""
    return [record] if isinstance(record, str) else list(record)


def listener(record: Record, steps: dict[str, Array]) -> Listener | None:
    """What `record` means as a listener that keeps steps in `steps`."""
    if record is None or record is False:
        return None
    if callable(record):
        return record
    if record is not True and not isinstance(record, str | Iterable):
        raise InputError(f"record is {record!r}: give True, a step's name or pattern, several, or a function")
    patterns = ["*"] if record is True else patterns_of(record)

    def keep(name: str, array: Array, dims: str) -> None:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            steps[name] = np.asarray(array)

    return keep


@dataclasses.dataclass(eq=False)
class ViTOutput:
    """What a forward pass gives.

    last_hidden_state   (B, N, D) all tokens after the last norm
    pooled              (B, D) the picture's vector, which the head sees
    pooler_output       (B, R) tanh pooler, or None
    logits              (B, O), or None
    steps               name -> array of the steps asked for with `record`
    """

    last_hidden_state: Array
    pooled: Array
    pooler_output: Array | None
    logits: Array | None
    steps: dict[str, Array]
    _depth: int = dataclasses.field(repr=False)
    _again: Callable[[list[str]], dict[str, Array]] = dataclasses.field(repr=False)
    _computed: dict[str, Array] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def hidden_states(self) -> tuple[Array, ...]:
        """L + 1 arrays (B, N, D): the embedded tokens, then the output of every block.

        Not kept by default (they would multiply the memory): unless recorded, the first look runs the pass again.
        """
        return self._look(["embed.positions", *(f"blocks.{n}.residual2" for n in range(self._depth))])

    @property
    def attentions(self) -> tuple[Array, ...]:
        """L arrays (B, H, N, N): each block's attention, rows summing to 1. Computed as hidden_states are."""
        return self._look([f"blocks.{n}.attention.probs" for n in range(self._depth)])

    def _look(self, names: list[str]) -> tuple[Array, ...]:
        if not {**self.steps, **self._computed}.keys() >= set(names):
            self._computed |= self._again(names)
        return tuple({**self._computed, **self.steps}[name] for name in names)
