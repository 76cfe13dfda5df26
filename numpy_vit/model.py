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
from typing import Any, NamedTuple

import numpy as np

from .arithmetic.fast import keep_freed_memory
from .arithmetic.parallel import by_shares, in_chunks, over_heads
from .config import ViTConfig
from .errors import InputError, nearest
from .ops import (
    ACTIVATIONS,
    layer_norm,
    linear,
    mean_0_variance_1,
    merge_heads,
    patchify,
    prepend,
    rows_sum_to_1,
    softmax,
    split_heads,
    undone_by_unpatchify,
)
from .parameters import (
    Attention,
    AttentionPool,
    Block,
    Embedding,
    Linear,
    Mlp,
    Norm,
    Rotation,
    Weights,
    assemble,
    attention_share,
    mlp_share,
    parameter_shapes,
)
from .positions import relative_bias, resize_distances, resize_positions, with_rows_of_zeros
from .rotary import rotate, rotation_tables
from .steps import Listener, Step

Array = Any
CHUNK = 800  # tokens that go through the blocks together: enough rows for a fast matrix product, few for memory


class Outputs(NamedTuple):
    """What the forward pass gives; None what the model does not have."""

    last_hidden_state: Array  # (B, N, D) all tokens after the last norm
    pooled: Array  # (B, D), for the two vectors of "class_and_mean" (B, 2*D)
    pooler_output: Array | None  # (B, R)
    logits: Array | None  # (B, O)
    image_embedding: Array | None  # (B, E)


def forward(pixels: Array, w: Weights, config: ViTConfig, step: Step) -> Outputs:
    """pixels (B, C, Y, X) -> tokens (B, N, D), pooled (B, D), logits (B, O), and what else the model has."""
    w, config = for_image(pixels.shape[2:], w, config, step.under("embed"))
    return forward_at_size(pixels, w, config, step)


def forward_at_size(pixels: Array, w: Weights, config: ViTConfig, step: Step) -> Outputs:
    """The forward pass of a model that is for pictures of this size: eq. 1, the blocks, and what comes after."""
    x = embed(pixels, w.embed, config, step.under("embed"))
    x = encode(x, w.blocks, config, step)
    return conclude(x, w, config, step)


def conclude(x: Array, w: Weights, config: ViTConfig, step: Step) -> Outputs:
    """What comes after the blocks: the last norm, one vector for the picture (eq. 4), and what is said of it."""
    x = norm("norm", x, w.norm, config, step)
    pooled = norm("pooled_norm", pool(x, w.map, config, step), w.pooled_norm, config, step, "B D")
    pooler_output = tanh_pooler(pooled, w.pooler, step)
    logits = classify(pooler_output if config.pre_logits else pooled, x, w, step)
    return Outputs(x, pooled, pooler_output, logits, project(pooled, w.projection, step))


def embed(pixels: Array, w: Embedding, config: ViTConfig, step: Step) -> Array:
    """Eq. 1: patches are projected, the class token is put first, positions are added. (B, C, Y, X) -> (B, N, D)."""
    patches = step("patches", patchify(pixels, config.patch), "B G C*P*P")
    step.invariant("patches", undone_by_unpatchify, patches, pixels, config.patch)
    x = step("projection", linear(patches, *w.projection), "B G D")
    x = step("tokens", prepend(w.special_tokens, x), "B N D")
    if w.positions is not None:
        x = step("positions", x + w.positions, "B N D")
    return norm("norm", x, w.norm, config, step)


def encode(x: Array, blocks: Iterable[Block], config: ViTConfig, step: Step) -> Array:
    """L encoder blocks, one after another; none changes the shape. (B, N, D) -> (B, N, D)."""
    for n, w in enumerate(blocks):
        x = encoder_block(x, w, config, step.under(f"blocks.{n}"))
    return x


def encoder_block(x: Array, w: Block, config: ViTConfig, step: Step) -> Array:
    """Eq. 2 and 3: norm, attention, add; norm, MLP, add. (B, N, D) -> (B, N, D)."""
    attended = multi_head_attention(norm("norm1", x, w.norm1, config, step), w.attention, config, step.under("attention"))
    x = step("residual1", x + layer_scale("layer_scale1", attended, w.layer_scale1, step), "B N D")
    thought = mlp(norm("norm2", x, w.norm2, config, step), w.mlp, config, step.under("mlp"))
    return step("residual2", x + layer_scale("layer_scale2", thought, w.layer_scale2, step), "B N D")


def norm(name: str, x: Array, w: Norm | None, config: ViTConfig, step: Step, dims: str = "B N D") -> Array:
    """Layer norm, where the model has it. (B, N, D) -> (B, N, D)."""
    if w is None:
        return x
    y = layer_norm(x, *w, config.eps)
    step.invariant(name, mean_0_variance_1, y, x, *w, config.eps)
    return step(name, y, dims)


@by_shares(attention_share, "heads")  # each thread some of the heads
def multi_head_attention(x: Array, w: Attention, config: ViTConfig, step: Step) -> Array:
    """Appendix A, eq. 5 to 8: every token asks (query) every token (key) how much of its value to take.

    (B, N, D) -> (B, N, D).
    """
    query = step("query", split_heads(linear(x, *w.query), config.heads), "B H N K")
    key = step("key", split_heads(linear(x, *w.key), config.heads), "B H N K")
    value = step("value", split_heads(linear(x, *w.value), config.heads), "B H N K")
    query = normed_and_rotated("query", query, w.query_norm, w.rotation, config, step)
    key = normed_and_rotated("key", key, w.key_norm, w.rotation, config, step)
    context = step("context", in_parts(query, key, value, relative_positions(w, config, step), step), "B H N K")
    return step("output", linear(merge_heads(context), *w.output), "B N D")


def attend(query: Array, key: Array, value: Array, bias: Array | None, step: Step, out: Array | None = None) -> Array:
    """Eq. 6 and 7: values, mixed by how well their keys answer the query. (B, H, N, K) -> (B, H, N, K).

    Scores are divided by sqrt(K), so that their spread does not grow with K and softmax does not saturate.
    """
    scores = query @ key.swapaxes(-1, -2)
    scores *= query.shape[-1] ** -0.5  # in place
    scores = step("scores", scores, "B H N N")
    if bias is not None:  # BEiT
        scores = step("biased_scores", scores + bias, "B H N N")
    probs = step("probs", softmax(scores, out=step.spare("scores", scores)), "B H N N")
    step.invariant("probs", rows_sum_to_1, probs)
    return np.matmul(probs, value, out=out)


def in_parts(query: Array, key: Array, value: Array, bias: Array | None, step: Step) -> Array:
    """`attend`, without all scores in memory at once, unless somebody listens to them. (B, H, N, K) -> (B, H, N, K)."""
    if type(query) is not np.ndarray or any(map(step.wants, ("scores", "biased_scores", "probs"))):
        return attend(query, key, value, bias, step)
    return over_heads(attend, query, key, value, bias, step)


@by_shares(mlp_share, "mlp")  # each thread some of the hidden numbers
def mlp(x: Array, w: Mlp, config: ViTConfig, step: Step, tokens: str = "N") -> Array:
    """Each token for itself: widen to M, activate, back to D. (B, N, D) -> (B, N, D)."""
    hidden = step("hidden", linear(x, *w.hidden), f"B {tokens} M")
    if w.gate is None:
        activation, spare = ACTIVATIONS[config.activation], step.spare("hidden", hidden)
        hidden = step(activation_name(config), activation(hidden, out=spare), f"B {tokens} M")
    else:
        hidden = gated(hidden, x, w.gate, config, step)
    hidden = norm("norm", hidden, w.norm, config, step, "B N M")
    return step("output", linear(hidden, *w.output), f"B {tokens} D")


def pool(x: Array, w: AttentionPool | None, config: ViTConfig, step: Step) -> Array:
    """One vector for the picture: the class token (eq. 4), or the mean of the patch tokens. (B, N, D) -> (B, D)."""
    if w is not None:
        return attention_pool(x, w, config, step)
    class_token, patches = x[:, 0], x[:, config.special_tokens :]
    if config.pooling == "class_and_mean":  # DINOv2's classifiers
        return step("pool", np.concatenate([class_token, patches.mean(axis=1)], axis=-1), "B 2*D")
    return step("pool", class_token if config.pooling == "class" else patches.mean(axis=1), "B D")


def tanh_pooler(pooled: Array, w: Linear | None, step: Step) -> Array | None:
    """What transformers' ViTModel keeps of pre-training: one more layer on the class token. (B, D) -> (B, R)."""
    return None if w is None else step("pooler", np.tanh(linear(pooled, *w)), "B R")


def classify(pooled: Array, x: Array, w: Weights, step: Step) -> Array | None:
    """The classification head: one score for each class. pooled (B, D) -> (B, O)."""
    if w.head is None:
        return None
    logits = linear(pooled, *w.head)
    if w.distillation_head is not None:
        logits = distilled(logits, x, w.distillation_head, step)
    return step("logits", logits, "B O")


# What other families add (numpy_vit.config says who). Each hands on what it was given where the model has no such thing.


def for_image(image: tuple[int, int], w: Weights, config: ViTConfig, step: Step) -> tuple[Weights, ViTConfig]:
    """The model for pictures of (Y, X) pixels: what depends on the patches' places, resized or made for their grid."""
    old, new = config.grid, (image[0] // config.patch, image[1] // config.patch)
    positions, blocks, rule = w.embed.positions, w.blocks, config.position_rule
    if new != old and positions is not None:
        positions = resize_positions(positions, old, new, rule)
    config = config.for_image(image)
    if positions is not None and len(positions) < config.tokens:  # registers have no position, class tokens not always
        before = len(positions) - config.patches
        positions = with_rows_of_zeros(positions, before, config.tokens - len(positions))
    if new != old and positions is not None:
        positions = step("resized_positions", positions, "N D")
    if new != old and config.relative_positions:
        tables = [resize_distances(block.attention.relative_positions, old, new, rule) for block in blocks]
        blocks = tuple(with_attention(b, relative_positions=table) for b, table in zip(blocks, tables, strict=True))
    if w.rope_frequencies is not None:
        cos, sin = rotation_tables(w.rope_frequencies, new, config.rope, config.rope_grid)
        rotation = Rotation(step("rope_cos", cos, "G K"), step("rope_sin", sin, "G K"))
        blocks = tuple(with_attention(block, rotation=rotation) for block in blocks)
    return w._replace(embed=w.embed._replace(positions=positions), blocks=blocks), config


def with_attention(block: Block, **changes: Any) -> Block:
    """The same block with something changed in its attention."""
    return block._replace(attention=block.attention._replace(**changes))


def layer_scale(name: str, x: Array, scale: Array | None, step: Step) -> Array:
    """CaiT (arXiv 2103.17239): a learned factor for each of the D numbers, small at first. (B, N, D) -> (B, N, D)."""
    return x if scale is None else step(name, x * scale, "B N D")


def normed_and_rotated(name: str, x: Array, w: Norm | None, rotation: Rotation | None, config: ViTConfig, step: Step) -> Array:
    """A query or key as it goes into the scores: normed (ViT-22B), and turned by its place (RoPE). -> (B, H, N, K)."""
    x = norm(f"{name}_norm", x, w, config, step, "B H N K")
    if rotation is None:
        return x
    return step(f"{name}_rotated", rotate(x, *rotation, config.rope), "B H N K")


def relative_positions(w: Attention, config: ViTConfig, step: Step) -> Array | None:
    """BEiT (arXiv 2106.08254): a learned number for every head and distance, to be added to the scores. -> (H, N, N)."""
    if w.relative_positions is None:
        return None
    return step("relative_bias", relative_bias(w.relative_positions, config.grid), "H N N")


def activation_name(config: ViTConfig) -> str:
    """The activation's step: "gelu" for all three dialects of GELU, else its own name."""
    return "gelu" if "gelu" in config.activation else config.activation


def gated(hidden: Array, x: Array, w: Linear, config: ViTConfig, step: Step) -> Array:
    """GLU (arXiv 2002.05202): an activated gate says how much of each hidden number goes on. (B, N, M) -> (B, N, M)."""
    gate = step("gate", linear(x, *w), "B N M")
    gate = step(activation_name(config), ACTIVATIONS[config.activation](gate), "B N M")
    return step("gated", gate * hidden, "B N M")


def attention_pool(x: Array, w: AttentionPool, config: ViTConfig, step: Step) -> Array:
    """MAP (Set Transformer, arXiv 1810.00825; SigLIP): a learned query asks all tokens; then an MLP. (B, N, D) -> (B, D)."""
    path, a = step.under("map"), w.attention
    probe = np.broadcast_to(w.probe, (len(x), *w.probe.shape))  # (B, 1, D)
    query = path("query", split_heads(linear(probe, *a.query), config.heads), "B H 1 K")
    key = path("key", split_heads(linear(x, *a.key), config.heads), "B H N K")
    value = path("value", split_heads(linear(x, *a.value), config.heads), "B H N K")
    scores = path("scores", query @ key.swapaxes(-1, -2) * config.head_dim**-0.5, "B H 1 N")
    probs = path("probs", softmax(scores), "B H 1 N")
    path.invariant("probs", rows_sum_to_1, probs)
    context = path("context", probs @ value, "B H 1 K")
    attended = path("output", linear(merge_heads(context), *a.output), "B 1 D")
    normed = norm("norm", attended, w.norm, config, path, "B 1 D")
    return step("pool", (attended + mlp(normed, w.mlp, config, path.under("mlp"), "1"))[:, 0], "B D")


def distilled(logits: Array, x: Array, w: Linear, step: Step) -> Array:
    """DeiT (arXiv 2012.12877): the mean of what the heads of class and distillation token say. -> (B, O)."""
    logits = step("class_logits", logits, "B O")
    other = step("distillation_logits", linear(x[:, 1], *w), "B O")
    return (logits + other) / 2


def project(pooled: Array, w: Linear | None, step: Step) -> Array | None:
    """CLIP (arXiv 2103.00020): the picture in the space shared with texts, not normalised. (B, D) -> (B, E)."""
    return None if w is None else step("image_embedding", linear(pooled, *w), "B E")


def embedding_output(config: ViTConfig) -> str:
    """The name of the step that goes into the first block."""
    return f"embed.{'norm' if config.pre_norm else 'tokens' if config.positions == 'none' else 'positions'}"


# The model as an object: weights, config, and what its outputs are called


class ViT:
    """A Vision Transformer with its weights: `model(pixels)` runs the forward pass.

    config      ViTConfig
    tensors     name -> array, as numpy_vit.parameters names and shapes them, all of one dtype (float32 or float64)
    labels      class names, one for each logit, or None
    preprocess_policy   called as policy(images, dtype) -> (B, C, Y, X); numpy_vit.pictures.images.Preprocess; or None
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
        self.array_type = type(self.weights.embed.projection.weight)  # plain arrays, or those of numpy_vit.arithmetic.portable
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
        keep_freed_memory()
        given = np.asarray(pixels)
        pixels = self._checked(given, resize_positions)
        steps: dict[str, Array] = {}
        listen = listener(record, steps)

        def step(batch: int) -> Step:
            return Step(self.config.sizes_of_run(batch, pixels.shape[2:]), self.dtype, listen, strict)

        w, config = for_image(pixels.shape[2:], self.weights, self.config, step(len(pixels)).under("embed"))

        def run(some: Array) -> Outputs:
            results = forward_at_size(some, w, config, step(len(some)))
            return Outputs(*(x if x is None else np.asarray(x) for x in results))

        whole = listen is not None or self.array_type is not np.ndarray
        outputs = run(pixels) if whole else in_chunks(run, pixels, max(1, CHUNK // config.tokens))
        if isinstance(record, str | Iterable):
            unmatched = [p for p in patterns_of(record) if not fnmatch.filter(steps, p)]
            if unmatched:
                raise InputError(f"record: no step is called '{unmatched[0]}'{nearest(unmatched[0], self.step_names())}")

        kept = pixels.copy() if np.may_share_memory(pixels, given) else pixels  # its owner may fill it anew

        def again(names: list[str]) -> dict[str, Array]:
            return self(kept, names, resize_positions=True).steps

        return ViTOutput(**outputs._asdict(), steps=steps, _config=self.config, _again=again)

    def step_names(self) -> list[str]:
        """The full names of all steps of this model, in the order of execution (at its own image size)."""
        from .tracing.tracer import trace  # which runs the pass without numbers; it is built on this module

        return [row.name for row in trace(self.config)]

    def _checked(self, pixels: Array, any_size: bool) -> Array:
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
        return np.ascontiguousarray(pixels, dtype=self.dtype).view(self.array_type)


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

    def wants(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    def keep(name: str, array: Array, dims: str) -> None:
        if wants(name):
            steps[name] = np.asarray(array)

    keep.wants = wants  # type: ignore[attr-defined]
    return keep


@dataclasses.dataclass(eq=False)
class ViTOutput:
    """What a forward pass gives.

    last_hidden_state   (B, N, D) all tokens after the last norm
    pooled              (B, D) the picture's vector, which the head sees
    pooler_output       (B, R) tanh pooler, or None
    logits              (B, O), or None
    image_embedding     (B, E) in the space shared with texts (CLIP), or None
    steps               name -> array of the steps asked for with `record`
    """

    last_hidden_state: Array
    pooled: Array
    pooler_output: Array | None
    logits: Array | None
    image_embedding: Array | None
    steps: dict[str, Array]
    _config: ViTConfig = dataclasses.field(repr=False)
    _again: Callable[[list[str]], dict[str, Array]] = dataclasses.field(repr=False)
    _computed: dict[str, Array] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def hidden_states(self) -> tuple[Array, ...]:
        """L + 1 arrays (B, N, D): the embedded tokens, then the output of every block.

        Not kept by default (they would multiply the memory): unless recorded, the first look runs the pass again.
        """
        return self._look([embedding_output(self._config), *(f"blocks.{n}.residual2" for n in range(self._config.depth))])

    @property
    def attentions(self) -> tuple[Array, ...]:
        """L arrays (B, H, N, N): each block's attention, rows summing to 1. Computed as hidden_states are."""
        return self._look([f"blocks.{n}.attention.probs" for n in range(self._config.depth)])

    def _look(self, names: list[str]) -> tuple[Array, ...]:
        if not {**self.steps, **self._computed}.keys() >= set(names):
            self._computed |= self._again(names)
        return tuple({**self._computed, **self.steps}[name] for name in names)
