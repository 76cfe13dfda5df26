"""Published files rebuilt in small: what they hold beyond what a library's class saves today, in the containers they came in.

A draft starts from a base, a little model whose outputs are known, as the tensors and config of its family: either written by
`convert --to hf` (which tests/test_families_peers.py holds to transformers), or a stored file that the family's own code made
(tests/data/families, which tests/test_families.py holds to that code). Steps then change the draft into what was published,
and `write` puts it into a folder. Nothing but NumPy is needed.
"""

import dataclasses
import functools
import json
import re
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import test_families
import test_torchfile as pickles

from numpy_vit import ViTConfig
from numpy_vit.convert.sources import read_json_if_there, read_weights
from numpy_vit.convert.to_hugging_face import write_hugging_face
from numpy_vit.files.converted import Checkpoint
from numpy_vit.files.tensorfile import STORED_AS, Tensor, tensor_of
from numpy_vit.parameters import parameter_shapes

KINDS = {
    "F64": "DoubleStorage", "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "I64": "LongStorage",
    "BOOL": "BoolStorage",
}  # fmt: skip
LAYOUTS = {**STORED_AS, "I64": "<i8", "BOOL": "?"}
OUTPUTS = ("last_hidden_state", "pooled", "pooler_output", "logits", "image_embedding")


@dataclasses.dataclass
class Draft:
    """A published file while it is made."""

    tensors: dict[str, Tensor]
    files: dict[str, Any]  # beside the weights: name -> a table, or bytes
    options: dict[str, Any]  # of convert
    expected: Checkpoint  # what must come out
    weights: str = "model.safetensors"
    save: Callable[[Path, dict[str, Tensor]], Any] = lambda path, tensors: save_safetensors(path, tensors, {"format": "pt"})
    source: str = ""  # in the folder, what is converted; "" is the folder
    hub: str = ""  # or the name under which the folder lies in the hub's cache


Step = Callable[[Draft], Any]


def write_draft(draft: Draft, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draft.save(folder / draft.weights, draft.tensors)
    for name, content in draft.files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


# Bases

SIZES: dict[str, Any] = dict(
    image=(12, 20), patch=4, channels=3, width=24, depth=2, heads=3, mlp=48, classes=0, pooler=0, eps=1e-6, activation="gelu",
    pooling="class", position_rule="bicubic", qkv_bias=True,
)  # fmt: skip
CLIP: dict[str, Any] = dict(
    pre_norm=True, final_norm="pooled", without_bias=("embed.projection",), activation="quick_gelu", eps=1e-5
)
BEIT: dict[str, Any] = dict(
    positions="none", relative_positions=True, layer_scale=True, pooling="mean", final_norm="pooled", position_rule="bilinear",
    without_bias=("attention.key",),
)  # fmt: skip
DINOV3: dict[str, Any] = dict(
    positions="none", rope="centred_halves", layer_scale=True, registers=4, without_bias=("attention.key",), eps=1e-5
)
HUGGING_FACE: dict[str, dict[str, Any]] = {
    "vit": dict(classes=5),
    "vit backbone": dict(),
    "vit pooler": dict(pooler=24),
    "deit": dict(classes=5, distillation_token=True),
    "deit teacher": dict(classes=5, distillation_token=True, distillation_head=True),
    "clip": CLIP,
    "clip projected": {**CLIP, "projection": 7},
    "siglip": dict(class_token=False, pooling="map", activation="gelu_tanh"),
    "siglip ragged": dict(class_token=False, pooling="map", activation="gelu_tanh", image=(14, 14)),
    "siglip square": dict(class_token=False, pooling="map", activation="gelu_tanh", image=(16, 16)),
    "dinov2": dict(layer_scale=True),
    "dinov2 classifier": dict(layer_scale=True, classes=5, pooling="class_and_mean"),
    "dinov2 registers": dict(layer_scale=True, registers=4, position_rule="bicubic_antialias"),
    "dinov3": DINOV3,
    "beit": {**BEIT, "classes": 5},
    "beit pretrained": {**BEIT, "final_norm": "tokens", "pooling": "class"},
}
# Stored bases whose names are those of others
STORED_AS_WELL = {
    "deit facebook": "deit",
    "dinov2 facebook": "dinov2",
    "dinov3 facebook": "dinov3",
    "beit unilm": "beit",
    "siglip google": "siglip",
}
# Where the tensors lie in the class that is published
BUT_THE_HEAD = r"^(?!\w*classifier)"
PREFIXES = {
    "vit": BUT_THE_HEAD, "deit": BUT_THE_HEAD, "deit teacher": BUT_THE_HEAD, "beit": BUT_THE_HEAD,
    "dinov2 classifier": BUT_THE_HEAD, "clip": "^", "clip projected": r"^(?!visual_projection)", "siglip": "^",
    "siglip ragged": "^", "siglip square": "^",
}  # fmt: skip
LABELS = [f"class {n}" for n in range(5)]


def numbers(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random numbers for a tensor, the same for the same name."""
    entropy = [seed, *name.encode()]
    values = np.random.default_rng(entropy).normal(size=shape) * 0.3
    return (values + ("norm" in name and name.endswith("weight"))).astype(np.float32)


@functools.cache
def base_of(name: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any], Checkpoint]:
    """(tensors, files, options, what must come out) of a base."""
    if name not in HUGGING_FACE:
        return stored(STORED_AS_WELL.get(name, name))
    config = ViTConfig(**{**SIZES, **HUGGING_FACE[name]})
    ours = {name: tensor_of(numbers(name, shape)) for name, shape in parameter_shapes(config).items()}
    if config.rope != "none":
        periods = np.float64(100.0) ** np.arange(0, 1, 4 / config.head_dim)
        ours["rope.frequencies"] = tensor_of(2 * np.pi / periods)
    expected = Checkpoint(config, ours, None, LABELS if config.classes else None, {})
    with tempfile.TemporaryDirectory() as folder:
        write_hugging_face(Path(folder) / "m", expected)
        files = {"config.json": read_json_if_there(Path(folder) / "m" / "config.json")}
        tensors = copied(read_weights(Path(folder) / "m" / "model.safetensors")[0])
    kind = name.split()[0]
    prefix = {"clip": "vision_model.", "siglip": "vision_model."}.get(kind, f"{kind}.")
    before = PREFIXES.get(name)
    return {re.sub(before, prefix, n) if before else n: t for n, t in tensors.items()}, files, {}, expected


def stored(case: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any], Checkpoint]:
    """A base of tests/data/families; of the files with a dict around the state dict, what is in it."""
    path = test_families.weights_of(case)
    tensors = copied(read_weights(path)[0])
    if all(name.startswith("model.") for name in tensors):
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    told = test_families.told(case)
    files = {
        name: found for name in ("config.json", "open_clip_config.json") if (found := read_json_if_there(path.parent / name))
    }
    asked = {key: told[key] for key in ("heads", "image") if key in told} if not files else {}
    asked |= {"activation": told["activation"]} if case == "openai_clip" else {}
    family = {"family": test_families.NAMED[case]} if case in test_families.NAMED else {}
    return tensors, files, {"told": asked, **family}, test_families.converted(case)


def copied(tensors: Any) -> dict[str, Tensor]:
    return {name: Tensor(t.dtype, np.array(t.data)) for name, t in tensors.items()}


def draft_of(base: str) -> Draft:
    tensors, files, options, expected = base_of(base)
    return Draft(
        dict(tensors), json.loads(json.dumps(files)), {**options, "told": dict(options.get("told", {}))},
        dataclasses.replace(expected),
    )  # fmt: skip


def outputs(checkpoint: Checkpoint) -> dict[str, np.ndarray | None]:
    """Everything a model says of one picture, in float64."""
    config = checkpoint.config
    pixels = np.random.default_rng(1).normal(size=(1, config.channels, *config.image))
    out = checkpoint.model("float64")(pixels)
    return {name: getattr(out, name) for name in OUTPUTS}


@functools.cache
def outputs_of_base(base: str) -> dict[str, np.ndarray | None]:
    return outputs(base_of(base)[3])


def expected_outputs(draft: Draft, base: str) -> dict[str, np.ndarray | None]:
    """What must come out: computed once for a base that no step has changed."""
    plain = base_of(base)[3]
    same = draft.expected.config is plain.config and draft.expected.tensors is plain.tensors
    return outputs_of_base(base) if same else outputs(draft.expected)


# Steps: tensors


def extra(**named: Any) -> Step:
    """More tensors: name (with __ for .) -> a shape of floats, or an array of integers or truth values."""
    return lambda draft: draft.tensors.update({name.replace("__", "."): tensor_like(what) for name, what in named.items()})


def tensor_like(what: Any) -> Tensor:
    if isinstance(what, Tensor):
        return what
    if isinstance(what, tuple):
        return tensor_of(np.full(what, 0.25, np.float32))
    array = np.asarray(what)
    return Tensor(
        {"i": "I64", "b": "BOOL", "f": "F32"}[array.dtype.kind],
        array.astype({"f": np.float32}.get(array.dtype.kind, array.dtype)),
    )


def renamed(pattern: str, replacement: str) -> Step:
    def change(draft: Draft) -> None:
        draft.tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in draft.tensors.items()}

    return change


def without(pattern: str) -> Step:
    def change(draft: Draft) -> None:
        draft.tensors = {name: tensor for name, tensor in draft.tensors.items() if not re.fullmatch(pattern, name)}

    return change


def indexed(pattern: str, index: str) -> Step:
    """BEiT's relative_position_index beside each table whose name matches."""

    def change(draft: Draft) -> None:
        for name in [name for name in draft.tensors if re.fullmatch(pattern, name)]:
            draft.tensors[name.rpartition(".")[0] + "." + index] = tensor_like(np.arange(256).reshape(16, 16))

    return change


def rounded(dtype: str) -> Step:
    """All weights in float16 or bfloat16: what comes out is rounded likewise."""

    def change(draft: Draft) -> None:
        draft.tensors = {name: round_to(dtype, t) if t.dtype == "F32" else t for name, t in draft.tensors.items()}
        tensors = {n: t if n == "rope.frequencies" else round_to(dtype, t) for n, t in draft.expected.tensors.items()}
        draft.expected.tensors = tensors

    return change


def round_to(dtype: str, tensor: Tensor) -> Tensor:
    if dtype == "BF16":
        return Tensor(dtype, (np.ascontiguousarray(tensor.data).view(np.uint32) >> 16).astype("<u2"))
    return Tensor(dtype, tensor.data.astype(LAYOUTS[dtype]))


# Steps: files beside the weights


def says(_file: str = "config.json", /, **changes: Any) -> Step:
    """Keys of a JSON file changed."""
    return lambda draft: draft.files.setdefault(_file, {}).update(changes)


def says_not(*keys: str, file: str = "config.json") -> Step:
    return lambda draft: [draft.files[file].pop(key, None) for key in keys]


def file(name: str, content: Any) -> Step:
    return lambda draft: draft.files.update({name: content})


def no_file(name: str) -> Step:
    return lambda draft: draft.files.pop(name)


def inside(model_type: str, _section: str = "vision_config", /, **around: Any) -> Step:
    """config.json as the section of one of two towers."""

    def change(draft: Draft) -> None:
        inner = dict(draft.files["config.json"])
        architectures = inner.pop("architectures")
        draft.files["config.json"] = {"architectures": architectures, "model_type": model_type, _section: inner, **around}

    return change


def preprocessor(**values: Any) -> Step:
    return file("preprocessor_config.json", values)


def told(**values: Any) -> Step:
    return lambda draft: draft.options["told"].update(values)


def option(**values: Any) -> Step:
    return lambda draft: draft.options.update(values)


def must_be(**changes: Any) -> Step:
    """What comes out is the base's with these fields of ViTConfig changed."""

    def change(draft: Draft) -> None:
        draft.expected.config = draft.expected.config.replace(**changes)
        shapes = parameter_shapes(draft.expected.config)
        draft.expected.tensors = {name: t for name, t in draft.expected.tensors.items() if name in shapes}
        draft.expected.labels = draft.expected.labels if draft.expected.config.classes else None

    return change


def source(name: str) -> Step:
    """What is converted is this file of the folder."""
    return lambda draft: setattr(draft, "source", name)


def cached(name: str) -> Step:
    """What is converted is a hub name, which is in the local cache."""
    return lambda draft: setattr(draft, "hub", name)


# Steps: containers


def as_safetensors(name: str = "model.safetensors", **metadata: str) -> Step:
    def change(draft: Draft) -> None:
        draft.weights, draft.save = name, lambda path, tensors: save_safetensors(path, tensors, metadata)

    return change


def as_npz(name: str = "weights.npz") -> Step:
    def save(path: Path, tensors: dict[str, Tensor]) -> None:
        arrays = {name: t.data.view("V2") if t.dtype == "BF16" else t.data for name, t in tensors.items()}
        np.savez(path, **arrays)

    def change(draft: Draft) -> None:
        draft.weights, draft.save, draft.source = name, save, name

    return change


def save_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """By hand, in the order given: the package's writer takes floats alone, and sorts them."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (place, place := place + tensor.data.nbytes),
        }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensor.data.tobytes() for tensor in tensors.values()))


def as_torch(
    name: str = "weights.pth", wrap: Callable[[Any], Any] = lambda state: state, legacy: bool = False, location: str = "cpu"
) -> Step:
    """What torch.save writes: `wrap` puts the state dict into what a training program saves. The folder is converted where
    transformers would find the file in it, else the file."""

    def change(draft: Draft) -> None:
        draft.weights = name
        draft.save = lambda path, tensors: save_torch(path, tensors, wrap, legacy, location)
        if not name.startswith(("pytorch_model", "open_clip_pytorch_model")):
            draft.source = name

    return change


def save_torch(path: Path, tensors: dict[str, Tensor], wrap: Any, legacy: bool = False, location: str = "cpu") -> None:
    state, storages, counts = {}, {}, {}
    for number, (name, tensor) in enumerate(tensors.items()):
        data = np.ascontiguousarray(tensor.data)
        strides = tuple(step // data.itemsize for step in data.strides)
        kind = pickles.Global("torch", KINDS[tensor.dtype])
        state[name] = pickles.tensor(str(number), data.size, tensor.shape, strides if tensor.shape else (), kind=kind)
        stored = state[name].arguments[0].pid
        state[name].arguments[0].pid = (*stored[:3], location, stored[4], *((None,) if legacy else ()))
        storages[str(number)], counts[str(number)] = data.tobytes(), data.size
    if legacy:
        pickles.legacy(path, wrap(state), {key: (counts[key], content) for key, content in storages.items()})
    else:
        pickles.checkpoint(path, wrap(state), storages)


def sharded(suffix: str, pattern: str = "", missing: bool = False) -> Step:
    """Two shards and their index; `missing`: the second one was not downloaded."""

    def save(path: Path, tensors: dict[str, Tensor]) -> None:
        stem = path.name.removesuffix(suffix)
        names = [f"{stem}-0000{n}-of-00002{suffix}" for n in (1, 2)]
        placed = {name: names[n % 2] for n, name in enumerate(tensors)}
        for shard in names[: 1 if missing else 2]:
            part = {name: tensor for name, tensor in tensors.items() if placed[name] == shard}
            if suffix == ".safetensors":
                save_safetensors(path.parent / shard, part, {})
            else:
                save_torch(path.parent / shard, part, lambda state: state)
        index = {"metadata": {"total_size": 1}, "weight_map": placed}
        (path.parent / f"{path.name}.index.json").write_text(json.dumps(index))

    def change(draft: Draft) -> None:
        draft.weights, draft.save = ("model" if suffix == ".safetensors" else "pytorch_model") + suffix, save

    return change


# What training programs save beside a state dict


def namespace(**values: Any) -> Any:
    return pickles.Built(pickles.Call(pickles.Global("argparse", "Namespace")), values)


def beside(*keys: str, **others: Any) -> Callable[[Any], Any]:
    """{"model": state} under one key, or several within one another, and others beside."""

    def wrap(state: Any) -> Any:
        for key in reversed(keys):
            state = {key: state}
        return {**state, **{name: make(state) if callable(make) else make for name, make in others.items()}}

    return wrap


def moments(state: Any) -> Any:
    """An optimizer's state, with tensors."""
    exp_avg = pickles.tensor("0", 1, (), ())
    exp_avg.arguments[0].pid = first_storage(state)
    return {"state": {0: {"step": 7, "exp_avg": exp_avg}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}


def first_storage(value: Any) -> Any:
    while isinstance(value, dict):
        value = next(iter(value.values()))
    return value.arguments[0].pid
