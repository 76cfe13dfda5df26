"""The model as an object: `model(pixels)` checks its input, runs the forward pass, and keeps and changes what is asked for."""

import dataclasses
import fnmatch
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import ops
from .arithmetic import fast as fast  # tells float32 and float64 arrays how to compute the operations of numpy_vit.ops
from .arithmetic.parallel import RUN, in_chunks
from .arithmetic.primitives import keep_freed_memory
from .config import ViTConfig
from .errors import InputError, check_kind, in_words, nearest
from .families import at_image_size, embedding_output, uses
from .invariants import checking
from .model import forward
from .parameters import Weights, check_parameters, parameter_shapes, weights_tree
from .steps import EVERY, Array, Listener, Step
from .windows import attention_names, whole_map

if TYPE_CHECKING:
    from .arithmetic.shape_only import Ledger

LARGEST_PIXEL = 1e6  # far above 16-bit values; from 1e18 on a float32 model overflows inside, and its logits are finite again
CHUNK = 800  # tokens that go through the blocks together: enough rows for a fast matrix product, few enough for little memory

STEPS = ": model.step_names() lists them"
Record = bool | str | Iterable[str] | Listener | None
Change = Callable[..., Array]
"""f(array) or f(array, run): what is to go on in the place of a step's array."""


def new_step(config: ViTConfig, batch: int, image: tuple[int, int], dtype: Any, **hearing: Any) -> Step:
    """The contract of one run: `batch` pictures of `image` (Y, X) pixels; `hearing` as numpy_vit.steps.Step takes it."""
    return Step(config.sizes_of_run(batch, image), dtype, **{"uses": uses(config), "ways": RUN, **hearing})


def dry_run(config: ViTConfig, batch: int, image: tuple[int, int], dtype: Any, hear: Listener, ledger: "Ledger") -> None:
    """The forward pass on shape-only arrays: needs no weights and computes nothing. `ledger` gets every operation."""
    from .arithmetic.shape_only import ShapeOnly

    tensors = {
        name: ShapeOnly(shape, dtype, ledger, name=name, weight=True) for name, shape in parameter_shapes(config).items()
    }
    pixels = ShapeOnly((batch, config.channels, *image), dtype, ledger, name="pixels")
    step = new_step(config, batch, image, dtype, hear=hear)
    w, config = at_image_size(image, weights_tree(tensors, config), config, step)
    step.into("", forward, pixels, w, config)


@functools.lru_cache(maxsize=32)
def step_names(config: ViTConfig, image: tuple[int, int]) -> tuple[str, ...]:
    """The full names of all steps, in the order of execution, for pictures of `image` (Y, X) pixels."""
    from .arithmetic.shape_only import Ledger

    names: list[str] = []
    dry_run(config, 1, image, np.dtype("float32"), lambda name, array, dims: names.append(name), Ledger())
    return tuple(names)


class ViT:
    """A Vision Transformer with its weights: `model(pixels)` runs the forward pass.

    config      a ViTConfig
    tensors     the arrays named by numpy_vit.parameters, all float32 or all float64
    labels      class names, or None
    preprocess  how this model wants its pictures prepared (numpy_vit.pictures.images), or None
    source      where the weights come from

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
        check_kind("config", config, ViTConfig, "a numpy_vit.ViTConfig, or use numpy_vit.load")
        check_kind("tensors", tensors, Mapping, "a dictionary: name -> array (numpy_vit.load reads other models' files)")
        for name, tensor in tensors.items():
            check_kind(f"tensors['{name}']", tensor, np.ndarray, "a NumPy array")
        check_parameters({name: np.shape(tensor) for name, tensor in tensors.items()}, config)
        if labels is not None and len(labels) != config.classes:
            raise InputError(f"model: {len(labels)} labels for {config.classes} classes")
        dtypes = {tensor.dtype for tensor in tensors.values()}
        if len(dtypes) != 1 or not dtypes <= {np.dtype("float32"), np.dtype("float64")}:
            found = ", ".join(sorted(map(str, dtypes)))
            raise InputError(f"model: tensors must be all float32 or all float64, not {found}")
        self.config = config
        # A memory map, or another kind of array that has no arithmetic of its own, is plain numbers.
        plain = {name: t if type(t) in ops.WAYS else np.asarray(t).view(np.ndarray) for name, t in tensors.items()}
        # Row-major, whatever file they come from: a BLAS sums the products of a transposed matrix in another order.
        self.tensors = {name: np.asanyarray(t, order="C") for name, t in plain.items()}
        self.weights: Weights = weights_tree(self.tensors, config)
        self.array_type = type(self.weights.embed.projection.weight)  # plain arrays, or those of an arithmetic of its own
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

    def step_names(self) -> list[str]:
        """The full names of all steps of this model, in the order of execution (at its own image size)."""
        return list(step_names(self.config, self.config.image))

    def __call__(
        self,
        pixels: Array,
        *,
        record: Record = None,
        change: Mapping[str, Change] | None = None,
        strict: bool = False,
        resize_positions: bool = False,
    ) -> "ViTOutput":
        """Run the forward pass. pixels (B, C, Y, X), floats, preprocessed, finite and at most 1e6 -> ViTOutput.

        record             steps to keep in `out.steps`: True for all, a name or pattern or a list of them
                           ("blocks.*.attention.probs", or "hidden_states", "attentions"), or a function called as
                           record(name, array, dims)
        change             a step's name or pattern -> f(array), or f(array, run): what it gives goes on in the step's place.
                           run["blocks.2.residual2"] is an earlier step or a weight, run.step the name of this one. Several
                           for one step are applied in their order
        strict             check the invariants as well as the shapes; every step is then computed whole
        resize_positions   accept another image size than the config's, by resizing the position embeddings

        Raises InputError for pixels that do not fit the model or names that no step has, ShapeError or InvariantError for a
        step that is wrong, changed ones included.
        """
        return self.run(self._checked(pixels, resize_positions), record=record, change=change, strict=strict)

    def run(
        self, pixels: Array, *, record: Record = None, change: Mapping[str, Change] | None = None, strict: bool = False
    ) -> "ViTOutput":
        """The same of pixels that fit, of the model's dtype, whatever their numbers: a port's may be NaN."""
        keep_freed_memory()
        pixels = np.ascontiguousarray(pixels, dtype=self.dtype).view(self.array_type)
        batch, image = len(pixels), pixels.shape[2:]
        run = Run(self.tensors)
        changes = changes_by_name(change or {}, self.config, image, run)
        wanted = None if record is None or callable(record) else wanted_names(record, self.config, image)
        hear = listener(record, wanted, run)
        if strict:
            hear = checking(pixels, self.tensors, self.config, hear)
        if strict or callable(record) or run.keeps:
            touched: Collection[str] | Any = EVERY
        else:
            touched = with_names_above({*(wanted or ()), *changes})
        whole = bool(touched) or self.array_type is not np.ndarray
        w, config = at_image_size(image, self.weights, self.config, self._step(batch, image, hear, changes, touched))

        def pass_of(some: Array) -> dict[str, Array]:
            step = self._step(len(some), image, hear, changes, touched)
            return {name: np.asarray(x) for name, x in step.into("", forward, some, w, config).items()}

        outputs = pass_of(pixels) if whole else in_chunks(pass_of, pixels, max(1, CHUNK // config.tokens))
        outputs = {name: x if x.base is None else x.copy() for name, x in outputs.items()}  # each its own memory
        return ViTOutput(**outputs, steps=run.recorded, config=self.config.for_image(image))

    def _step(self, batch: int, image: tuple[int, int], hear: Any, change: Any, touched: Any) -> Step:
        return new_step(self.config, batch, image, self.dtype, hear=hear, change=change, touched=touched)

    def _checked(self, pixels: Any, any_size: bool) -> Array:
        """The pixels as this model takes them. Raises InputError, which says what was given and what to do."""
        (Y, X), C, P = self.config.image, self.config.channels, self.config.patch
        wanted = f"pixels must be an array (B, C, Y, X) = (B, {C}, {Y}, {X}) of floats"
        if not hasattr(pixels, "shape") and not isinstance(pixels, list | tuple):
            raise InputError(f"{wanted}, not {in_words(pixels)}: model.preprocess(...) makes them of a picture or its path")
        try:
            array = np.asarray(pixels)
        except Exception as error:  # of a list that is no array, or of another library's own: bfloat16, gradients, a GPU
            hint = ": pixels.detach().float().cpu().numpy() is one" if hasattr(pixels, "detach") else ""
            raise InputError(f"{wanted}, not {in_words(pixels)}{hint}") from error
        pixels = array
        if pixels.dtype.kind != "f":
            raise InputError(f"pixels are {in_words(pixels)}: preprocess them first (model.preprocess gives {self.dtype})")
        if pixels.ndim != 4:
            known = {(C, Y, X): "one picture is a batch of one, pixels[None]",
                     (Y, X, C): "channels come first, pixels.transpose(2, 0, 1)[None]"}  # fmt: skip
            hint = f": {known[pixels.shape]}" if pixels.shape in known else ""
            raise InputError(f"{wanted}, not {pixels.shape}{hint}")
        if pixels.shape[1] != C:
            hint = ": channels come first, pixels.transpose(0, 3, 1, 2)" if pixels.shape[3] == C else ""
            raise InputError(f"pixels have {pixels.shape[1]} channels, the model takes {C}{hint}")
        if pixels.shape[0] == 0:
            raise InputError("pixels: an empty batch")
        if pixels.shape[2:] != (Y, X):
            size = f"pixels are {pixels.shape[2]}x{pixels.shape[3]}"
            if not any_size and not self.config.any_size:
                raise InputError(f"{size}, the model takes {Y}x{X}: resize them, or pass resize_positions=True")
            multiple = self.config.multiple
            if pixels.shape[2] % multiple or pixels.shape[3] % multiple or 0 in pixels.shape:
                why = "patch size" if multiple == P else f"patch size {P} and of the {multiple // P} patches merged, together"
                raise InputError(f"{size}, which is not a multiple of the {why} {multiple}")
        largest = float(np.maximum(pixels.max(), -pixels.min()))  # NaN where there is one
        if not largest <= LARGEST_PIXEL:
            what = f"are as large as {largest:.2g}" if math.isfinite(largest) else "hold NaN or infinite numbers"
            raise InputError(f"pixels {what}: those of model.preprocess are of about -3 to 3")
        return pixels


class Run:
    """What has been computed in one run: run["blocks.2.residual2"] is an earlier step, run["norm.weight"] a weight.

    step      the full name of the step that is being changed
    keeps     whether all steps are kept, for a change that may look at them
    recorded  the steps that the caller has asked for
    """

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self.step = ""
        self.keeps = False
        self.recorded: dict[str, Array] = {}
        self._tensors = tensors
        self._steps: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        for there in (self._steps, self._tensors):
            if name in there:
                array = there[name].view()
                array.flags.writeable = False
                return array
        raise InputError(
            f"run['{name}']: no earlier step or weight has this name{nearest(name, [*self._steps, *self._tensors])}"
        )

    def keep(self, name: str, array: Array) -> None:
        self._steps[name] = array


def changes_by_name(
    change: Mapping[str, Change], config: ViTConfig, image: tuple[int, int], run: Run
) -> dict[str, Callable[[Array], Array]]:
    """`change` as a function for each step's full name. Raises InputError for names that no step has."""
    check_kind("change", change, Mapping, "a dictionary: a step's name or pattern -> f(array) or f(array, run)")
    by_name: dict[str, list[Change]] = {}
    for pattern, function in change.items():
        if not callable(function):
            raise InputError(f"change[{in_words(pattern)}] is {in_words(function)}: give a function, f(array) or f(array, run)")
        for name in matching(pattern, config, image, "change"):
            by_name.setdefault(name, []).append(function)

    def changed(name: str, functions: list[Change], array: Array) -> Array:
        run.step = name
        for function in functions:
            copy = array.copy()  # the function may write to it, and the original is part of others
            result = function(copy, run) if takes_run(function) else function(copy)
            if not isinstance(result, np.ndarray):
                raise InputError(f"change['{name}'] gave {in_words(result)}: it must return an array {array.shape}")
            array = result.view(type(array))
        return array

    run.keeps = any(takes_run(function) for functions in by_name.values() for function in functions)
    return {name: functools.partial(changed, name, functions) for name, functions in by_name.items()}


def takes_run(function: Change) -> bool:
    """Whether a change is f(array, run) rather than f(array)."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some of NumPy's own do not tell
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) > 1


def matching(pattern: str, config: ViTConfig, image: tuple[int, int], what: str) -> list[str]:
    """The steps whose names fit a pattern. Raises InputError where there is none."""
    names = step_names(config, image)
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern)] if isinstance(pattern, str) else []
    if not found:
        raise InputError(f"{what}: no step is called {in_words(pattern)}{nearest(str(pattern), names) or STEPS}")
    return found


def groups(config: ViTConfig) -> dict[str, tuple[str, ...]]:
    """Names for several steps at once: what they stand for."""
    blocks = range(config.depth)
    return {
        "hidden_states": (embedding_output(config), *(f"blocks.{n}.residual2" for n in blocks)),
        "attentions": tuple(name for names in attention_names(config) for name in names),
    }


def wanted_names(record: Any, config: ViTConfig, image: tuple[int, int]) -> set[str]:
    """The steps that `record` asks for, if it is no function. Raises InputError for names that no step has."""
    if record is True:
        return set(step_names(config, image))
    if record is False:
        return set()
    if not isinstance(record, Iterable) or isinstance(record, Mapping | bytes) or hasattr(record, "dtype"):
        raise InputError(f"record is {in_words(record)}: give True, a step's name or pattern, a list of them, or a function")
    several, known = [record] if isinstance(record, str) else list(record), groups(config.for_image(image))
    return {name for pattern in several for name in (known.get(str(pattern)) or matching(pattern, config, image, "record"))}


def with_names_above(names: set[str]) -> set[str]:
    """ "blocks.3.mlp.gelu" touches "blocks.3.mlp", "blocks.3" and "blocks" as well."""
    above = {".".join(parts[:end]) for parts in (name.split(".") for name in names) for end in range(1, len(parts) + 1)}
    return above


def listener(record: Record, wanted: set[str] | None, run: Run) -> Listener | None:
    """What hears the steps: the caller's own function, or what keeps those that are wanted, or that a change may look at."""
    if not (run.keeps or wanted or callable(record)):
        return None

    def listen(name: str, array: Array, dims: str) -> None:
        if run.keeps:
            run.keep(name, array)
        if wanted is not None and name in wanted:
            run.recorded[name] = np.asarray(array)
        if callable(record):
            record(name, array, dims)

    return listen


@dataclasses.dataclass(eq=False)
class ViTOutput:
    """What a forward pass gives.

    last_hidden_state   (B, N, D) all tokens after the last norm
    pooled              (B, D) the picture's vector, which the head sees; None where there is none (pooling "none")
    pooler_output       (B, R) tanh pooler, or None
    logits              (B, O), or None
    image_embedding     (B, E) in the space shared with texts (CLIP), or None
    image_tokens        (B, T, width) what a language model sees, where the model has a merger, or None
    deepstack           (B, blocks, T, width) what it is given of inner blocks (Qwen3-VL), or None
    steps               name -> array of the steps asked for with `record`
    """

    last_hidden_state: Array
    pooled: Array | None = None
    pooler_output: Array | None = None
    logits: Array | None = None
    image_embedding: Array | None = None
    image_tokens: Array | None = None
    deepstack: Array | None = None
    steps: dict[str, Array] = dataclasses.field(default_factory=dict)
    config: ViTConfig | None = dataclasses.field(default=None, repr=False)  # at the pictures' size

    @property
    def hidden_states(self) -> tuple[Array, ...]:
        """L + 1 arrays (B, N, D): the embedded tokens, then every block's output; of model(pixels, record="hidden_states").

        They are not kept unasked, for they would multiply the memory. Raises InputError where they were not.
        """
        return tuple(self._kept("hidden_states").values())

    @property
    def attentions(self) -> tuple[Array, ...]:
        """L arrays (B, H, N, N): each block's attention, rows summing to 1; of model(pixels, record="attentions").

        Of a block with windows, 0 from one window to another.
        """
        kept = self._kept("attentions")
        assert self.config is not None
        return tuple(whole_map([kept[name] for name in names], self.config) for names in attention_names(self.config))

    def _kept(self, what: str) -> dict[str, Array]:
        names = groups(self.config)[what] if self.config is not None else ()
        if not names or not self.steps.keys() >= set(names):
            raise InputError(f'{what} were not kept: run model(pixels, record="{what}"), or record=True for every step')
        return {name: self.steps[name] for name in names}
