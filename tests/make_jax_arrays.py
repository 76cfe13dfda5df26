"""Make the stored test cases of Google's checkpoints from Google's own JAX code.

    python tests/make_jax_arrays.py --vision-transformer PATH --big-vision PATH [CASE ...]

PATH is a checkout of google-research/vision_transformer and of google-research/big_vision, at COMMITS. Writes a folder
tests/data/families/<case> for every case, or for those named: weights.npz, named and laid out as upstream's saver does or did;
expected.npz, what upstream's model computes from it in float64; about.json, what the file does not say. The case
big_vision_resize has a picture instead, and what big_vision's preprocessing makes of it. Needs jax, flax, optax, einops,
ml_collections, scipy, pandas, tqdm and tensorflow-cpu. The same versions give the same bytes.
"""

import argparse
import functools
import inspect
import json
import os
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow's greetings
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import tensorflow as tf
from flax.training.checkpoints import convert_pre_linen

FAMILIES = Path(__file__).parent / "data" / "families"
COMMITS = {
    "vision_transformer": "c6de1e5378c9831a8477feb30994971bdc409e46",
    "big_vision": "0127fb6b337ee2a27bf4e54dea79cff176527356",
}
IMAGE = (12, 16)  # Y != X, so that the patches differ per axis
PATCH, WIDTH, DEPTH, HEADS, MLP, CLASSES = 4, 24, 2, 3, 10, 5
TEXT = {"width": 4, "depth": 1, "mlp_dim": 3, "num_heads": 2, "vocab_size": 5}
WORDS = 3
PICTURE = (23, 31)
RESIZED = {"down": (12, 16), "up": (40, 33)}


class Case(NamedTuple):
    """One checkpoint.

    options   what the model's constructor is given besides the sizes above
    names     the names in the file, or what else lies in it: one of NAMES
    note      what is surprising in upstream's code
    """

    seed: int
    model: str
    options: dict
    names: str
    pooling: str
    note: str


CASES = {
    "augreg": Case(
        201, "vision_transformer", {"classifier": "token"}, "numbered_through", "class",
        "Named as the published files are: the modules of a block numbered through, as Flax did before Linen; upstream's "
        "checkpoint.load renames them (flax's convert_pre_linen). Class token first, then pos_embedding (1, 1 + patches, D) is "
        "added to all. No pre_logits (an identity).",
    ),
    "augreg_prelogits": Case(
        202, "vision_transformer", {"classifier": "token", "representation_size": 16}, "optimizer", "class",
        "pre_logits: tanh(dense(class token)), 24 -> 16, before the head. In opt/target/ as flax.optim's optimizers were "
        "saved, with opt/state/step (upstream also saves opt/state/param_states/..., left out here). Read by big_vision's "
        "load_params; vision_transformer's own load does not know opt/target/.",
    ),
    "augreg_gap": Case(
        203, "vision_transformer", {"classifier": "gap"}, "plain", "mean",
        "No class token: pos_embedding (1, patches, D), the head sees the mean of the normed tokens. Named as the current "
        "code names them: each kind of module of a block numbered for itself, but Transformer/posembed_input as ever.",
    ),
    "big_vision": Case(
        204, "big_vision", {"pool_type": "tok"}, "training", "class",
        "pos_embedding (1, patches, D) is added to the patches, then cls is put before them. A whole checkpoint of training: "
        "params/..., opt/... (optax, here Adam of head/bias alone) and chrono/... (numbers without axes).",
    ),
    "big_vision_gap": Case(
        205, "big_vision", {"pool_type": "gap"}, "plain", "mean",
        "No class token; norm, then the mean of all tokens. The bare parameters, without params/.",
    ),
    "big_vision_map": Case(
        206, "big_vision", {"pool_type": "map"}, "params", "map",
        "No class token. MAPHead_0 sees the normed tokens: its attention has the probe as the one query; y = attention(probe), "
        "then y + mlp(norm(y)): the probe is not added. Heads and MLP width are those of the blocks. Upstream's MLP there "
        "always computes in float32; here it is told float64.",
    ),
    "big_vision_scan": Case(
        207, "big_vision", {"pool_type": "tok", "scan": True, "dtype_mm": "bfloat16"}, "params", "class",
        "All blocks in one array each, the first axis is the block. Made as a model of dtype_mm bfloat16, whose cls and "
        "pos_embedding are bfloat16, which np.savez writes as raw 2-byte '<V2' and np.load gives as '|V2'; the first kernel "
        "of the blocks' MLPs is made bfloat16 too. Computed in float64 from these numbers.",
    ),
    "big_vision_sincos": Case(
        208, "big_vision", {"pool_type": "gap", "posemb": "sincos2d", "rep_size": True}, "params", "mean",
        "As the published vit_s16_i1k models: positions are no parameter but computed, as MoCo v3 does: for patch (y, x) sin(x "
        "w), cos(x w), sin(y w), cos(y w) in this order, w[i] = 10000 ** (-i / (D / 4 - 1)), i < D / 4; y, x count patches "
        "from 0. rep_size True: pre_logits, tanh(dense), D -> D, after the mean.",
    ),
    "siglip": Case(
        209, "two_towers", {"pool_type": "map"}, "params", "map",
        "Two towers; told out_dim (None, 6), so params/img has no head: the picture's vector is the MAP head's output. "
        "Upstream then divides it by (its length + 1e-8): not so in `pooled`. params/t is the logarithm of the temperature. "
        "The text tower has an Encoder_0/encoderblock_0 of its own.",
    ),
}  # fmt: skip


def upstream(vision_transformer, big_vision):
    """The modules of the two checkouts that are used here."""
    sys.path[:0] = [vision_transformer, big_vision]
    import big_vision.pp.ops_general
    import big_vision.pp.ops_image
    from big_vision import utils
    from big_vision.models import vit
    from big_vision.models.proj.image_text import two_towers
    from big_vision.pp import builder
    from vit_jax import checkpoint, models_vit

    here = {"utils": utils, "vit": vit, "two_towers": two_towers, "checkpoint": checkpoint, "models_vit": models_vit}
    return SimpleNamespace(preprocess_fn=builder.get_preprocess_fn, **here)


def told_float64(ups):
    """Where upstream says float32 whatever the numbers are: the defaults of these modules, which nothing passes on."""
    ups.models_vit.Encoder1DBlock = functools.partial(ups.models_vit.Encoder1DBlock, dtype=jnp.float64)
    ups.vit.MlpBlock = functools.partial(ups.vit.MlpBlock, dtype_mm="float64")  # MAPHead's


def make(ups, case, **more):
    """The case's model, and its inputs besides the picture."""
    options = {**case.options, **more}
    if case.model == "vision_transformer":
        blocks = {"mlp_dim": MLP, "num_heads": HEADS, "num_layers": DEPTH}
        patches = SimpleNamespace(size=(PATCH, PATCH))
        model = ups.models_vit.VisionTransformer
        return model(num_classes=CLASSES, patches=patches, transformer=blocks, hidden_size=WIDTH, **options)
    options |= {"patch_size": (PATCH, PATCH), "width": WIDTH, "depth": DEPTH, "mlp_dim": MLP, "num_heads": HEADS}
    if case.model == "big_vision":
        return ups.vit.Model(CLASSES, **options)
    return ups.two_towers.Model(image=options, text=TEXT, out_dim=(None, 6), bias_init=-10.0, temperature_init=10.0)


def shapes(model, case):
    """The parameters that upstream makes, and their number types where JAX has no float64 as by default, as a tree."""
    inputs = [jnp.zeros((1, *IMAGE, 3), jnp.float32)]
    if case.model == "two_towers":
        inputs.append(jnp.zeros((1, WORDS), jnp.int32))
    more = {"train": False} if case.model == "vision_transformer" else {}
    with jax.enable_x64(False):
        return jax.eval_shape(functools.partial(model.init, **more), jax.random.key(0), *inputs)["params"]


def crooked(tree, seed):
    """Random numbers for every parameter: no zeros, no ones, every bias and scale matters."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        values, kind = rng.normal(size=leaf.shape), path[-1].key
        if kind == "scale":
            values = 1 + 0.1 * values
        elif kind == "bias":
            values = 0.1 * values
        else:  # kernels; tokens, positions
            values = values * (WIDTH**-0.5 if kind == "kernel" else 0.5)
        return values.astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, tree)


def mlp_to_bfloat16(params):
    first = params["Transformer"]["encoderblock"]["MlpBlock_0"]["Dense_0"]
    first["kernel"] = first["kernel"].astype(jnp.bfloat16)


def numbered_through(name):
    """A name of today -> as before Linen, where a block's modules were numbered through, whatever their kind."""
    for new, old in (
        ("LayerNorm_1", "LayerNorm_2"),
        ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
        ("MlpBlock_0", "MlpBlock_3"),
    ):
        name = re.sub(f"(encoderblock_[0-9]+)/{new}/", f"\\1/{old}/", name)
    return name


def training(ups, params):
    """What big_vision's train.py saved: the optimizer's numbers (of one parameter, to be small) and the clock's too."""
    chosen = jax.tree_util.tree_map_with_path(lambda path, _: [key.key for key in path] == ["head", "bias"], params)
    optimizer = optax.masked(optax.scale_by_adam(), chosen).init(params)
    return {"params": params, "opt": optimizer, "chrono": ups.utils.chrono.save()}


NAMES = {
    "plain": lambda ups, params: params,
    "numbered_through": lambda ups, params: params,
    "optimizer": lambda ups, params: {"opt": {"target": params, "state": {"step": np.int32(7)}}},
    "params": lambda ups, params: {"params": params},
    "training": training,
}


def save(ups, params, case, file):
    """As vision_transformer's `checkpoint.save` and big_vision's `save_checkpoint` did before they went: in these two lines."""
    named, _ = ups.utils.tree_flatten_with_names(NAMES[case.names](ups, params))
    if case.names in ("numbered_through", "optimizer"):
        named = sorted((numbered_through(name), value) for name, value in named)
    np.savez(file, **{name: np.asarray(value) for name, value in named})


def load(ups, case, file):
    """The parameters as upstream's own loader makes them of the file."""
    if case.names == "optimizer":
        return convert_pre_linen(ups.utils.load_params(str(file)))
    if case.model == "vision_transformer":
        return ups.checkpoint.load(str(file))
    if case.model == "big_vision":
        return ups.vit.load(None, str(file), case.options)
    return ups.two_towers.load(None, str(file), ml_collections.ConfigDict({"image": {}, "text": {}, "bias_init": -10.0}))


def run(model, case, params, pixels):
    """pixels (B, C, Y, X) -> name -> array, and the eps of all layer norms."""
    seen, eps = {}, set()

    def record(call, args, kwargs, context):
        output = call(*args, **kwargs)
        if context.method_name == "__call__":
            seen["/".join(context.module.path)] = args, output
            if isinstance(context.module, nn.LayerNorm):
                eps.add(context.module.epsilon)
        return output

    inputs = jnp.asarray(pixels.transpose(0, 2, 3, 1))
    more = {"train": False} if case.model == "vision_transformer" else {}
    with nn.intercept_methods(record):
        result = model.apply({"params": params}, inputs, **more)
    if case.model == "vision_transformer":
        arrays = {"hidden.0": seen["Transformer/posembed_input"][1]}
        arrays |= {f"hidden.{n + 1}": seen[f"Transformer/encoderblock_{n}"][1] for n in range(DEPTH)}
        arrays |= {"tokens": seen["Transformer"][1], "pooled": seen["head"][0][0], "logits": result}
    else:
        tower, out = ("img/", result[-1]) if case.model == "two_towers" else ("", result[-1])
        arrays = {"hidden.0": seen[tower + "Transformer"][0][0]}
        arrays |= {f"hidden.{n + 1}": out[tower + "encoder"][f"block{n:02d}"]["+mlp"] for n in range(DEPTH)}
        arrays |= {"tokens": out[tower + "encoded"], "pooled": out[tower + "pre_logits"]}
        if "logits" in out:
            arrays["logits"] = out["logits"]
    return arrays, eps


def only_float64(jaxpr):
    """Fails where any step of the computation, or of one inside it, has floating-point numbers other than float64."""
    for step in jaxpr.eqns:
        for variable in (*step.invars, *step.outvars):
            dtype = variable.aval.dtype
            assert not jnp.issubdtype(dtype, jnp.floating) or dtype == jnp.float64, f"{step.primitive} has {dtype}"
        for inner in jax.tree.leaves(list(step.params.values()), is_leaf=lambda leaf: hasattr(leaf, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                only_float64(inner)


def as_type(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf).astype(dtype)), tree)


def dtype(case, name):
    """The option for it: vision_transformer's model has none."""
    return {} if case.model == "vision_transformer" else {"dtype_mm": name}


def expected(ups, case, params, pixels):
    """What upstream computes in float64 of the stored numbers."""
    model, params = make(ups, case, **dtype(case, "float64")), as_type(params, "float64")
    only_float64(jax.make_jaxpr(lambda *args: run(model, case, *args)[0])(params, pixels).jaxpr)
    arrays, eps = run(model, case, params, pixels)
    return {name: np.asarray(value) for name, value in arrays.items()}, eps


def about(case, eps):
    approximate = inspect.signature(nn.gelu).parameters["approximate"].default
    repository = "vision_transformer" if case.model == "vision_transformer" else "big_vision"
    assert len(eps) == 1, "one eps for all norms"
    return {
        "upstream": f"{commit(repository)}; flax {version('flax')}, jax {version('jax')}",
        "seed": case.seed,
        "told": {"image": list(IMAGE)},
        "upstream_says": {
            "heads": HEADS,
            "eps": eps.pop(),
            "activation": "gelu_tanh" if approximate else "gelu",
            "pooling": case.pooling,
        },
        "note": case.note,
    }


def commit(repository):
    return f"google-research/{repository} {COMMITS[repository]}"


def write(folder, arrays, facts):
    np.savez_compressed(folder / "expected.npz", **arrays)
    (folder / "about.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(folder.name, sum(path.stat().st_size for path in folder.iterdir()), "bytes")


def fresh(name):
    folder = FAMILIES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def picture():
    """Slopes, an edge in each direction and noise: (Y, X, C) uint8."""
    y, x = np.mgrid[: PICTURE[0], : PICTURE[1]]
    slopes = np.stack([8 * x, 255 - 11 * y, 5 * (x + y)], axis=-1)
    slopes[5:14, 9:20] = (250, 3, 128)
    noise = np.random.default_rng(210).integers(-20, 21, size=slopes.shape)
    return np.clip(slopes + noise, 0, 255).astype(np.uint8)


def make_resize(ups):
    """What big_vision's preprocessing makes of a picture, and tf.image.resize before anything is cut to 8 bits."""
    image, arrays = picture(), {}
    arrays["image"] = image
    for name, size in RESIZED.items():
        for suffix, steps in {"": f"resize({size})", "_range": f"resize({size})|value_range(-1, 1)"}.items():
            arrays[name + suffix] = apply(ups, steps, image)
        arrays[name + "_float32"] = tf.image.resize(image, size, method="bilinear", antialias=False).numpy()
    arrays["small"] = apply(ups, "resize_small(14)", image)
    arrays["small_crop"] = apply(ups, "resize_small(14)|central_crop(12)", image)
    facts = {
        "upstream": f"{commit('big_vision')}; tensorflow-cpu {version('tensorflow-cpu')}",
        "seed": 210,
        "steps": {
            "down, up": "resize(size): bilinear, not antialiased, half-pixel centres, to (Y, X) whatever the proportions; cut "
            "off (not rounded) to uint8. SigLIP and SigLIP 2",
            "down_range, up_range": "|value_range(-1, 1): -1 + value / 255 * 2 in float32",
            "down_float32, up_float32": "tf.image.resize(image, size) alone. vision_transformer's input_pipeline stops here, "
            "without uint8, and then computes (value - 127.5) / 127.5",
            "small, small_crop": "resize_small(14)|central_crop(12): the shorter side to 14, the longer in proportion, rounded "
            "half to even; tf's 'area' (means of rectangles, not bilinear), cut off to uint8; then the middle, corner rounded "
            "down. vit_i1k, vit_s16_i1k and vit_i21k say resize_small(256)|central_crop(224)",
        },
    }
    write(fresh("big_vision_resize"), arrays, facts)


def apply(ups, steps, image):
    return ups.preprocess_fn(steps, log_data=False)({"image": tf.constant(image)})["image"].numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vision-transformer", metavar="PATH", required=True)
    parser.add_argument("--big-vision", metavar="PATH", required=True)
    parser.add_argument("cases", metavar="CASE", nargs="*", help="default: all")
    args = parser.parse_args()
    ups = upstream(args.vision_transformer, args.big_vision)
    names = args.cases or [*CASES, "big_vision_resize"]
    if "big_vision_resize" in names:
        names.remove("big_vision_resize")
        make_resize(ups)
    pixels, rough = {}, {}
    for name in names:
        case, file = CASES[name], fresh(name) / "weights.npz"
        tree = shapes(make(ups, case), case)
        params = crooked(tree, case.seed)
        if name == "big_vision_scan":
            mlp_to_bfloat16(params)
        save(ups, params, case, file)
        # in steps of 1/64, so that they pack well and are the same numbers in float32
        pixels[name] = np.round(64 * np.random.default_rng(case.seed + 1000).normal(size=(2, 3, *IMAGE))) / 64
        loaded = load(ups, case, file)
        assert jax.tree.structure(loaded) == jax.tree.structure(tree), f"{name}: upstream reads other parameters"
        model = make(ups, case, **dtype(case, "float32"))
        rough[name], _ = run(model, case, as_type(loaded, "float32"), pixels[name].astype("float32"))
    told_float64(ups)
    for name in names:
        case, folder = CASES[name], FAMILIES / name
        arrays, eps = expected(ups, case, load(ups, case, folder / "weights.npz"), pixels[name])
        for step, value in arrays.items():  # nothing was replaced but the number type
            assert np.abs(rough[name][step] - value).max() < 1e-5 * np.abs(value).max(), (name, step)
        write(folder, {"pixels": pixels[name], **arrays}, about(case, eps))


if __name__ == "__main__":
    main()
