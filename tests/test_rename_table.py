"""Home-made models through rename tables: the foreign trained models, and tables that make no sense."""

import json

import numpy as np
import pytest

import numpy_vit
from numpy_vit import InputError
from numpy_vit.convert import convert
from numpy_vit.files.converted import read_converted, write_converted
from numpy_vit.parameters import parameter_shapes

from conftest import DATA, crooked_config, relative_error

MODELS = {
    "libaohang_cifar10": "original_vit_cifar10.npz",
    "libaohang_mnist": "original_vit_mnist.npz",
    "researchase_mnist_3class": "original_vit_mnist_3class.pt",
    "researchase_mnist_gpu": "original_vit_mnist_gpu.pt",
}


@pytest.mark.parametrize("name", MODELS)
def test_the_foreign_models_as_their_authors_saved_them(name, tmp_path, foreign):
    """One matrix for every head, ReLU, no last norm, heads wider than the model: all by a table of names."""
    folder = foreign / name
    golden = np.load(folder / "golden.npz")
    checkpoint = convert(folder / MODELS[name], rename=DATA / "maps" / f"{name}.json")
    write_converted(tmp_path / "m.safetensors", checkpoint)
    model = numpy_vit.load(tmp_path / "m.safetensors", dtype="float64")
    logits = model(golden["pixel_values_f64"], strict=True).logits
    assert relative_error(logits, golden["logits_f64"]) < 1e-12
    info = json.loads((folder / "info.json").read_text())
    stored = convert_sizes(folder / MODELS[name])
    assert sum(t.size for t in model.tensors.values()) == stored
    assert (model.config.inner_width, model.config.final_norm) == (info["inner"], "tokens" if info["final_norm"] else "none")
    assert (logits.argmax(axis=1) == golden["labels"]).mean() == info["acc_golden_subset"]


def convert_sizes(file):
    """How many numbers a file holds."""
    from numpy_vit.convert.sources import read_weights

    return sum(tensor.data.size for tensor in read_weights(file)[0].values())


@pytest.fixture
def home_made(tmp_path):
    """A small home-made model and its table."""
    rng = np.random.default_rng(0)
    shapes = {"patch.w": (48, 8), "patch.b": (8,), "pos": (1, 4, 8), "ln.g": (8,), "ln.b": (8,), "out.w": (8, 3), "out.b": (3,)}
    for n in (0, 1):
        shapes |= {f"{n}.{part}.{h}": (8, 4) for part in "qkv" for h in (0, 1)}
        shapes |= {f"{n}.o.w": (8, 8), f"{n}.o.b": (8,), f"{n}.up.w": (8, 12), f"{n}.up.b": (12,)}
        shapes |= {f"{n}.down.w": (12, 8), f"{n}.down.b": (8,), **{f"{n}.{i}.{e}": (8,) for i in (1, 2) for e in "gb"}}
    np.savez(
        tmp_path / "m.npz", **{name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}, step=np.int64(3)
    )
    names = {"embed.projection": "patch", "attention.output": "o", "mlp.hidden": "up", "mlp.output": "down", "head": "out"}
    tensors = {"embed.positions": "pos", "norm.weight": "ln.g", "norm.bias": "ln.b"}
    for ours, theirs in names.items():
        block = ours.startswith(("attention", "mlp"))
        for end in ("weight", "bias"):
            name = f"blocks.{{n}}.{ours}.{end}" if block else f"{ours}.{end}"
            tensors[name] = ("{n}." if block else "") + f"{theirs}.{end[0]}"
    tensors |= {f"blocks.{{n}}.norm{i}.{end}": f"{{n}}.{i}.{e}" for i in (1, 2) for end, e in (("weight", "g"), ("bias", "b"))}
    parts = {"query": "q", "key": "k", "value": "v"}
    tensors |= {f"blocks.{{n}}.attention.{part}.weight": f"{{n}}.{p}.{{h}}" for part, p in parts.items()}
    config = dict(image=8, patch=4, channels=3, heads=2, eps=1e-5, activation="silu", pooling="mean", position_rule="bicubic")
    content = {"layout": "in out", "norm_first": True, "config": config, "tensors": tensors, "left_out": ["step"]}

    def written(**changes):
        (tmp_path / "map.json").write_text(json.dumps({**content, **changes}))
        return tmp_path / "m.npz", tmp_path / "map.json", content

    return written


def test_a_home_made_model(home_made):
    file, table, _ = home_made()
    checkpoint = convert(file, rename=table)
    config = checkpoint.config
    assert (config.depth, config.mlp, config.class_token, config.qkv_bias, config.positions) == (2, 12, False, False, "all")
    arrays = np.load(file)
    joined = np.concatenate([arrays["1.k.0"], arrays["1.k.1"]], axis=1)
    assert np.array_equal(checkpoint.tensors["blocks.1.attention.key.weight"].data, joined)
    assert checkpoint.source["family"] == "mapped"


def test_what_does_not_fit_is_said_side_by_side(home_made):
    file, table, content = home_made()
    names = dict(content["tensors"])
    names["blocks.{n}.mlp.output.wieght"] = names.pop("blocks.{n}.mlp.output.weight")
    home_made(tensors=names)
    with pytest.raises(InputError, match=r"line 'blocks.{n}.mlp.output.wieght': no tensor of ours is called so; did you mean"):
        convert(file, rename=table)
    home_made(left_out=[])
    with pytest.raises(InputError, match="tensor 'step' is taken by no line"):
        convert(file, rename=table)


@pytest.mark.parametrize("name", ["patch.w", "patch.b", "pos", "0.o.w", "0.o.b", "0.up.w", "0.1.g", "1.v.1", "ln.g", "out.w"])
def test_a_tensor_of_no_numbers(home_made, name):
    """Each in turn, with any of its sides 0, or without an axis."""
    file, table, _ = home_made()
    with np.load(file) as stored:
        arrays = dict(stored)
    assert name in arrays
    shape = arrays[name].shape
    for empty in ((), (0,), *((*shape[:i], 0, *shape[i + 1 :]) for i in range(len(shape)))):
        np.savez(file, **{**arrays, name: np.zeros(empty, np.float32)})
        with pytest.raises(InputError, match=r"m\.npz|map\.json") as error:
            convert(file, rename=table)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor": {}}, "unknown key 'tensor'; did you mean 'tensors'"),
        ({"tensors": {}}, "'tensors' must be a table"),
        ({"config": {"head": 3}}, "config: unknown field 'head'; did you mean 'heads'"),
        ({"config": {"heads": 10**9}}, "heads is 1000000000: it must be a whole number, 1 to 10,000"),
        ({"config": {"depth": "4"}}, "depth is '4'"),
        ({"layout": "sideways"}, "layout is one of"),
        ({"left_out": "step"}, "'left_out' must be a list"),
        ({"tensors": {"norm": 3}}, "'norm': give a name"),
        ({"tensors": {"norm": {"from": "x", "prat": 1}}}, "unknown key 'prat'"),
        ({"tensors": {"norm": {"from": "x", "part": [3, 3]}}}, r"part \[3, 3\] is not"),
        ({"tensors": {"norm": "x{n**9}"}}, "is not made of n, h, whole numbers"),
        ({"tensors": {"norm": "x{__import__('os')}"}}, "is not made of n, h, whole numbers"),
    ],
)
def test_tables_that_make_no_sense(home_made, changes, message):
    file, table, _ = home_made(**changes)
    with pytest.raises(InputError, match=message) as error:
        convert(file, rename=table)
    assert "\n" not in str(error.value)


# Slips

LAYER = "layers.{n}."
MADE_OF_LAYERS = {
    "embed.projection": "patch",
    "embed.class_token": "cls",
    "embed.positions": "pos",
    "blocks.{n}.norm1": LAYER + "norm1",
    **{f"blocks.{{n}}.attention.{name}": {"from": LAYER + "self_attn.in_proj_{end}", "part": [i, 3]}
       for i, name in enumerate(("query", "key", "value"))},
    "blocks.{n}.attention.output": LAYER + "self_attn.out_proj",
    "blocks.{n}.norm2": LAYER + "norm2",
    "blocks.{n}.mlp.hidden": LAYER + "linear1",
    "blocks.{n}.mlp.output": LAYER + "linear2",
    "norm": "norm",
    "head": "fc",
}  # fmt: skip
CONFIG = dict(
    image=[8, 12], patch=4, channels=3, heads=3, eps=1e-5, activation="relu", pooling="class", position_rule="bicubic"
)


def packed(arrays, packing, heads):
    """Query, key and value rows as one matrix or vector."""
    if packing == "3 H K":
        return np.concatenate(arrays)
    split = [array.reshape(heads, -1, *array.shape[1:]) for array in arrays]
    return np.stack(split, axis=1).reshape(-1, *arrays[0].shape[1:])


@pytest.fixture(scope="module")
def ours():
    """A seeded model of ours, as arrays."""
    config = crooked_config(image=(8, 12), width=18, heads=3, mlp=28, depth=2, classes=4, pooler=0, eps=1e-5, activation="relu")
    rng = np.random.default_rng(4)
    shapes = parameter_shapes(config)
    return config, {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


def theirs_of(config, arrays, packing="3 H K"):
    """The same numbers under the names that torch's nn.TransformerEncoder has."""
    found = {"patch.weight": arrays["embed.projection.weight"].T, "patch.bias": arrays["embed.projection.bias"]}
    found |= {"cls": arrays["embed.class_token"], "pos": arrays["embed.positions"]}
    found |= {
        f"{new}.{end}": arrays[f"{old}.{end}"].T
        for old, new in (("norm", "norm"), ("head", "fc"))
        for end in ("weight", "bias")
    }
    pairs = {
        "norm1": "norm1",
        "norm2": "norm2",
        "mlp.hidden": "linear1",
        "mlp.output": "linear2",
        "attention.output": "self_attn.out_proj",
    }
    for n in range(config.depth):
        for end in ("weight", "bias"):
            found |= {f"layers.{n}.{new}.{end}": arrays[f"blocks.{n}.{old}.{end}"].T for old, new in pairs.items()}
            parts = [arrays[f"blocks.{n}.attention.{part}.{end}"].T for part in ("query", "key", "value")]
            found[f"layers.{n}.self_attn.in_proj_{end}"] = packed(parts, packing, config.heads)
    return found


@pytest.fixture
def converted(ours, tmp_path):
    """Convert the model of layers by a table: `change` edits its content, `tensors` the file's."""

    def converted(change=lambda content: None, tensors=lambda found: None, packing="3 H K", **options):
        config, arrays = ours
        found = theirs_of(config, arrays, packing)
        tensors(found)
        np.savez(tmp_path / "m.npz", **found)
        content = json.loads(json.dumps({"norm_first": True, "config": CONFIG, "tensors": MADE_OF_LAYERS}))
        change(content)
        (tmp_path / "map.json").write_text(json.dumps(content))
        return convert(tmp_path / "m.npz", rename=tmp_path / "map.json", **options)

    return converted


def same(checkpoint, ours):
    config, arrays = ours
    assert checkpoint.config == config
    assert all(np.array_equal(checkpoint.tensors[name].data, array) for name, array in arrays.items())


def test_the_layers_of_torch(converted, ours):
    same(converted(), ours)


def test_each_head_by_itself(converted, ours):
    """Query, key and value packed (H, 3, K)."""

    def change(content):
        for part in ("query", "key", "value"):
            content["tensors"][f"blocks.{{n}}.attention.{part}"]["packed"] = "H 3 K"

    same(converted(change, packing="H 3 K"), ours)
    found = converted(packing="H 3 K").tensors  # not said: another model
    assert not np.array_equal(found["blocks.0.attention.key.weight"].data, ours[1]["blocks.0.attention.key.weight"])


def test_kernels_of_keras(converted, ours):
    """Heads as an axis: (D, H, K), biases (H, K), and (H, K, D) after attention; a picture's kernel (py, px, c, D)."""
    _, arrays = ours

    def tensors(found):
        for name in list(found):
            if "self_attn" in name:
                del found[name]
            elif found[name].ndim == 2 and name not in ("cls", "pos"):
                found[name] = found[name].T
        found["patch.weight"] = arrays["embed.projection.weight"].reshape(3, 4, 4, 18).transpose(1, 2, 0, 3)
        for n in (0, 1):
            for part in ("query", "key", "value"):
                at = f"blocks.{n}.attention.{part}"
                found[f"layers.{n}.{part}.weight"] = arrays[f"{at}.weight"].reshape(18, 3, 6)
                found[f"layers.{n}.{part}.bias"] = arrays[f"{at}.bias"].reshape(3, 6)
            found[f"layers.{n}.out.weight"] = arrays[f"blocks.{n}.attention.output.weight"].reshape(3, 6, 18)
            found[f"layers.{n}.out.bias"] = arrays[f"blocks.{n}.attention.output.bias"]

    def change(content):
        content["layout"] = "in out"
        for part in ("query", "key", "value"):
            content["tensors"][f"blocks.{{n}}.attention.{part}"] = f"layers.{{n}}.{part}"
        content["tensors"]["blocks.{n}.attention.output"] = "layers.{n}.out"
        content["tensors"]["embed.projection"] = {"from": "patch", "patch": "py px c"}

    same(converted(change, tensors), ours)

    def forgotten(content):
        change(content)
        content["tensors"]["embed.projection"] = "patch"

    with pytest.raises(InputError, match=r'line \'embed.projection\': a kernel of 4 axes.*"patch": "py px c"'):
        converted(forgotten, tensors)


def moved(old, new):
    """Our name misspelt."""
    return lambda content: content["tensors"].update({new: content["tensors"].pop(old)})


def from_(ours, theirs):
    """Another name of theirs; of a fused matrix, another value of one key."""

    def change(content):
        line = content["tensors"][ours]
        content["tensors"][ours] = {**line, **theirs} if isinstance(theirs, dict) and isinstance(line, dict) else theirs

    return change


def without(ours):
    return lambda content: content["tensors"].pop(ours)


def added(ours, theirs):
    return lambda content: content["tensors"].update({ours: theirs})


AT = "blocks.{n}.attention."
SLIPS = [
    # a typo on our side
    (moved(AT + "value", "block.{n}.attention.value"), r"line 'block.{n}.attention.value': no tensor of ours.*did you mean"),
    (moved("blocks.{n}.norm1", "blocks.{n}.nrom1"), r"line 'blocks.{n}.nrom1': no tensor of ours"),
    (moved("blocks.{n}.mlp.hidden", "blocks.{n}.mlp.hiden"), r"line 'blocks.{n}.mlp.hiden'"),
    (moved("embed.projection", "embed.projetion"), r"line 'embed.projetion'"),
    (moved("embed.positions", "embed.position"), r"line 'embed.position'"),
    (moved("head", "heads"), r"line 'heads'"),
    (moved("norm", "final_norm"), r"line 'final_norm'"),
    # on theirs
    (from_("blocks.{n}.norm1", LAYER + "nrom1"), r"line 'blocks.{n}.norm1' takes nothing: the file has no 'layers.0.nrom1'"),
    (from_("blocks.{n}.norm2", LAYER + "norm3"), r"line 'blocks.{n}.norm2' takes nothing"),
    (from_("blocks.{n}.mlp.output", LAYER + "lin2"), r"line 'blocks.{n}.mlp.output' takes nothing.*taken by no line"),
    (from_("embed.positions", "pos_embed.pos"), r"line 'embed.positions' takes nothing"),
    (from_("embed.class_token", "class"), r"line 'embed.class_token' takes nothing: the file has no 'class'; the nearest: cls"),
    (from_("embed.projection", "patches"), r"line 'embed.projection' takes nothing"),
    (from_("head", "fc1"), r"line 'head' takes nothing: the file has no 'fc1'; the nearest: fc"),
    (from_("norm", "ln"), r"line 'norm' takes nothing"),
    (from_(AT + "key", {"from": LAYER + "self_attn.in_proj{end}"}), r"line 'blocks.{n}.attention.key' takes nothing"),
    (from_(AT + "key", {"from": LAYER + "self_attn.in_proj"}), r"line 'blocks.{n}.attention.key' takes nothing"),
    # {n} forgotten
    (from_("blocks.{n}.norm1", "layers.0.norm1"), r"line 'blocks.{n}.norm1': {n}, the block, is on one side alone"),
    (moved("blocks.{n}.norm2", "blocks.0.norm2"), r"line 'blocks.0.norm2': {n}, the block, is on one side alone"),
    (from_("norm", "layers.{n}.norm1"), r"line 'norm': {n}, the block, is on one side alone"),
    # doubled lines
    (added("norm.weight", "norm.weight"), r"lines 'norm' and 'norm.weight' both give 'norm.weight'"),
    (added("blocks.{n}.norm1.bias", LAYER + "norm2.bias"), r"lines 'blocks.{n}.norm1' and 'blocks.{n}.norm1.bias' both give"),
    (from_("blocks.{n}.norm2", LAYER + "norm1"), r"line 'blocks.{n}.norm2' takes 'layers.0.norm1.weight', which another line"),
    # missing lines
    (without("blocks.{n}.norm2"), r"no line for blocks.{n}.norm2; taken by no line: layers.0.norm2"),
    (without("head"), r"tensor 'fc.\w+' is taken by no line"),
    (without("embed.positions"), r"tensor 'pos' is taken by no line"),
    (without(AT + "key"), r"no line for blocks.{n}.attention.key"),
    # wrong layout
    (lambda content: content.update(layout="in out"), r"line 'embed.projection': read as 'in out', 'patch' leads from 18"),
    (from_("blocks.{n}.mlp.hidden", {"from": LAYER + "linear1", "layout": "in out"}), r"line 'blocks.{n}.mlp.hidden': read"),
    (from_("head", {"from": "fc", "layout": "in out"}), r"line 'head': read as 'in out'"),
    # wrong part
    (from_(AT + "key", {"part": [0, 3]}), r"line 'blocks.{n}.attention.key' takes part \[0, 3\] of .*, which another"),
    (from_(AT + "key", {"part": [1, 2]}), r"part \[1, 3\] of 'layers.0.self_attn.in_proj_weight' is taken by no line"),
    (from_(AT + "key", {"part": [1, 7]}), r"line 'blocks.{n}.attention.key': 54 outputs are not 7 equal parts"),
    (from_("embed.positions", {"from": "pos_{end}"}), r"line 'embed.positions': {end} stands for weight or bias"),
    # what is to be said
    (lambda content: content.pop("norm_first"), r'say "norm_first": true'),
    (lambda content: content.update(norm_first=False), r"blocks that norm afterwards, .* are not supported"),
]  # fmt: skip


@pytest.mark.parametrize("slip", range(len(SLIPS)))
def test_slips_are_named_by_their_line(slip, converted):
    change, message = SLIPS[slip]
    with pytest.raises(InputError, match=message) as error:
        converted(change)
    assert "\n" not in str(error.value) and "map.json" in str(error.value)


def test_names_that_happen_to_be_ours_are_not_taken_for_it(converted):
    """A tensor of theirs under a name of ours is used where a line says so, and nowhere else."""

    def change(content):
        content["tensors"]["norm"] = "ln"

    def tensors(found):
        found["ln.weight"] = 2 * found["norm.weight"]
        found["ln.bias"] = found["norm.bias"]

    with pytest.raises(InputError, match="tensor 'norm.weight' is taken by no line"):
        converted(change, tensors)


def test_names_are_written_in_a_table_as_the_file_has_them(ours, tmp_path):
    """What comes before names that happen to be ours is part of them: nothing is left off where a table says all."""
    _, arrays = ours
    np.savez(tmp_path / "m.npz", **{f"x/{name}": array for name, array in arrays.items()})
    lines = {
        name.replace("blocks.0.", "blocks.{n}."): f"x/{name}".replace("0.", "{n}.") for name in arrays if "s.1." not in name
    }
    content = {"layout": "in out", "norm_first": True, "config": CONFIG, "tensors": lines}
    (tmp_path / "map.json").write_text(json.dumps(content))
    same(convert(tmp_path / "m.npz", rename=tmp_path / "map.json"), ours)


def test_a_config_of_hugging_faces_form_is_read(converted, ours, tmp_path):
    keys = {"num_attention_heads": "heads", "hidden_act": "activation", "layer_norm_eps": "eps"}
    file = tmp_path / "config.json"
    values = {theirs: CONFIG[mine] for theirs, mine in keys.items()}
    file.write_text(json.dumps({**values, "id2label": {str(n): f"class {n}" for n in range(4)}, "dropout": 0.1}))

    def change(content):
        content["config"] = {key: value for key, value in CONFIG.items() if key not in keys.values()}

    checkpoint = converted(change, config=file)
    same(checkpoint, ours)
    assert checkpoint.labels == [f"class {n}" for n in range(4)]
    assert "the rest is not (dropout)" in " ".join(checkpoint.notes)
    with pytest.raises(InputError, match="hidden_act 'mish' is not one of"):
        file.write_text(json.dumps({**values, "hidden_act": "mish"}))
        converted(change, config=file)


def test_labels_and_preprocessing_lie_in_the_table(converted):
    hugging_face = {"do_resize": True, "size": {"height": 8, "width": 12}, "resample": 2, "do_rescale": True,
                    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3,
                    "image_std": [0.5] * 3}  # fmt: skip
    spelt = dict(resize="squash", size=[8, 12], resample="bilinear", scale=1 / 255, mean=[0.5] * 3, std=[0.5] * 3)
    found = [converted(lambda content, p=p: content.update(labels=list("abcd"), preprocess=p)) for p in (hugging_face, spelt)]
    assert found[0].labels == list("abcd")
    assert found[0].preprocess == found[1].preprocess and found[0].preprocess.size == (8, 12)
    assert converted(lambda content: content.update(preprocess="deit")).preprocess.crop == (8, 12)
    for change, message in (
        ({"labels": ["a"]}, "1 labels for 4 classes"),
        ({"labels": "abcd"}, "labels must be a list of names"),
        ({"preprocess": 3}, "map.json: preprocess: give the fields"),
        ({"preprocess": {"sise": 3}}, "map.json: preprocess: .*unknown field 'sise'"),
    ):
        with pytest.raises(InputError, match=message):
            converted(lambda content, change=change: content.update(change))


def test_labels_and_preprocessing_of_a_converted_file_are_changed(converted, tmp_path, run):
    file, again = tmp_path / "m.safetensors", tmp_path / "again.safetensors"
    write_converted(file, converted())
    (tmp_path / "labels.txt").write_text("ant\nbee\n\nfly\nwasp\n")
    status, _, stderr = run("convert", file, "--labels", tmp_path / "labels.txt", "--preprocessor", "deit", "-o", again)
    assert status == 0, stderr
    before, after = read_converted(file), read_converted(again)
    assert (after.config, after.labels, after.preprocess.crop) == (before.config, ["ant", "bee", "fly", "wasp"], (8, 12))
    assert all(np.array_equal(tensor.data, after.tensors[name].data) for name, tensor in before.tensors.items())
    for words, message in (
        ([], "already a converted file (give labels or a preprocessor"),
        (["heads=3", "--preprocessor", "deit"], "only its labels and preprocessing can be changed"),
        (["--labels", tmp_path / "absent"], "absent: no such file"),
    ):
        status, _, stderr = run("convert", file, *words, "-o", again)
        assert status == 2 and message in stderr and stderr.count("\n") == 1
    for names in (["a"], [], {"0": "a", "2": "b"}, 3, [1, 2, 3, 4]):
        (tmp_path / "labels.json").write_text(json.dumps(names))
        with pytest.raises(InputError, match="label|names"):
            convert(file, labels=tmp_path / "labels.json")
    (tmp_path / "labels.json").write_text(json.dumps({"id2label": {str(n): f"class {n}" for n in range(4)}}))
    assert converted(labels=tmp_path / "labels.json").labels == [f"class {n}" for n in range(4)]
