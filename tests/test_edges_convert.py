"""Edges of the converters: constants against their source, what comes before what, what a shape cannot say."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from test_torchfile import checkpoint, tensor

from numpy_vit import InputError
from numpy_vit.convert import convert, timm_models
from numpy_vit.convert.converting import FAMILIES
from numpy_vit.convert.hub import weight_map
from numpy_vit.convert.multimodal import any_image
from numpy_vit.convert.preprocessing import policy
from numpy_vit.convert.torchfile import Storage, read_torch, rebuild_tensor
from numpy_vit.files.tensorfile import tensor_of, write

from conftest import DATA

WIDTH = 240  # a multiple of every number of heads


def timm_tensors(width=WIDTH, class_token=True, registers=0, positions=None, channels=3, fc_norm=False):
    """The tensors of a timm ViT of one block and 2 x 2 patches of 4 x 4 pixels; all zeros, of which nobody minds."""
    D, tokens = width, 4 + class_token
    shapes = {
        "patch_embed.proj.weight": (D, channels, 4, 4), "patch_embed.proj.bias": (D,),
        "pos_embed": (1, tokens if positions is None else positions, D),
        "blocks.0.attn.qkv.weight": (3 * D, D), "blocks.0.attn.qkv.bias": (3 * D,),
        "blocks.0.attn.proj.weight": (D, D), "blocks.0.attn.proj.bias": (D,),
        "blocks.0.mlp.fc1.weight": (D, D), "blocks.0.mlp.fc1.bias": (D,),
        "blocks.0.mlp.fc2.weight": (D, D), "blocks.0.mlp.fc2.bias": (D,),
        "head.weight": (3, D), "head.bias": (3,),
    }  # fmt: skip
    norms = ("blocks.0.norm1", "blocks.0.norm2", "fc_norm" if fc_norm else "norm")
    shapes |= {f"{norm}.{part}": (D,) for norm in norms for part in ("weight", "bias")}
    shapes |= {"cls_token": (1, 1, D)} if class_token else {}
    shapes |= {"reg_token": (1, registers, D)} if registers else {}
    return {name: tensor_of(np.zeros(shape, np.float32)) for name, shape in shapes.items()}


def saved(folder, tensors, config=None):
    folder.mkdir(exist_ok=True)
    write(folder / "model.safetensors", tensors, {})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def folder(tmp_path):
    """A copy of the stored transformers checkpoint."""
    return shutil.copytree(DATA / "classifier", tmp_path / "model")


# Constants


# timm/models/vision_transformer.py, num_heads of the functions at its end
HEADS = {
    "vit_tiny_patch16_224": 3,
    "vit_small_patch16_224": 6,
    "vit_medium_patch16_gap_256": 8,
    "vit_base_patch16_224": 12,
    "vit_base_patch16_gap_224": 16,
    "vit_large_patch16_224": 16,
    "vit_so400m_patch14_siglip_224": 16,
    "deit3_small_patch16_224": 6,
    "vit_huge_patch14_224": 16,
    "vit_giant_patch14_dinov2": 24,
    "vit_giant_patch14_reg4_dinov2": 24,
}


def test_heads_by_timms_names():
    for name, heads in HEADS.items():
        assert timm_models.fields({"architecture": name}, [])[0]["heads"] == heads, name


# the same, act_layer of the SigLIPs
GELUS = {
    "vit_base_patch16_siglip_224": "gelu",
    "vit_base_patch32_siglip_256": "gelu_tanh",
    "vit_large_patch16_siglip_256": "gelu",
    "vit_large_patch16_siglip_384": "gelu",
    "vit_large_patch16_siglip_512": "gelu_tanh",
    "vit_large_patch16_siglip_gap_256": "gelu",
    "vit_large_patch16_siglip_gap_512": "gelu_tanh",
    "vit_so400m_patch14_siglip_224": "gelu",
    "vit_so400m_patch16_siglip_256": "gelu_tanh",
}


def test_activations_of_timms_siglips():
    for name, activation in GELUS.items():
        assert timm_models.fields({"architecture": name}, [])[0]["activation"] == activation, name


def test_statistics_as_published():
    """facebookresearch/dinov3, README.md, for SAT-493M; openai/CLIP, clip/clip.py; torchvision's of ImageNet."""
    satellite = policy("dinov3_satellite", (224, 224), 3)
    assert (satellite.mean, satellite.std) == ((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
    clip = policy("clip", (224, 224), 3)
    assert clip.mean == (0.48145466, 0.4578275, 0.40821073) and clip.std == (0.26862954, 0.26130258, 0.27577711)
    imagenet = policy("dinov2", (224, 224), 3)
    assert imagenet.mean == (0.485, 0.456, 0.406) and imagenet.std == (0.229, 0.224, 0.225)
    assert policy("big_vision", (224, 224), 1).mean == (0.5,)


@pytest.mark.parametrize(
    "name, size, resized",
    [
        ("beit", 368, 420), ("beit", 384, 384), ("beit2", 368, 420), ("beit2", 384, 384), ("mae", 224, 256), ("mae", 225, 225),
        ("deit", 384, 438), ("torchvision_l_16", 224, 242), ("deit3", 384, 384),
    ],
)  # fmt: skip
def test_from_which_size_on_nothing_is_cut_off(name, size, resized):
    found = policy(name, (size, size), 3)
    assert found.crop == (size, size) and found.size == resized


# What comes before what


def test_what_is_told_comes_before_what_the_file_says(folder):
    said = convert(folder).config
    told = convert(folder, told={"eps": 1e-3, "activation": "relu"}).config
    assert (said.eps, said.activation) == (1e-12, "gelu") and (told.eps, told.activation) == (1e-3, "relu")


def test_positions_that_are_told_are_not_put_right_in_silence(tmp_path):
    source, told = saved(tmp_path / "timm", timm_tensors()), {"heads": 4, "image": (8, 8)}
    assert convert(source, told=told).config.positions == "all"
    assert convert(source, told={**told, "positions": "all"}).config.positions == "all"
    with pytest.raises(InputError, match="positions"):
        convert(source, told={**told, "positions": "patches"})


def test_a_tensor_with_and_without_a_prefix_is_there_twice(tmp_path):
    tensors = timm_tensors()
    tensors["module.norm.bias"] = tensors["norm.bias"]
    with pytest.raises(InputError, match="there twice, with and without a prefix: 'norm.bias'"):
        convert(saved(tmp_path / "timm", tensors), told={"heads": 4})


@pytest.mark.parametrize(
    "options, pooling",
    [(dict(class_token=False), "mean"), (dict(), "class"), (dict(fc_norm=True), "mean")],
)
def test_pooling_where_nothing_says_it(tmp_path, options, pooling):
    assert convert(saved(tmp_path / "timm", timm_tensors(**options)), told={"heads": 4}).config.pooling == pooling


def test_registers_with_positions_of_their_own_are_refused(tmp_path):
    told = {"heads": 4, "image": (8, 8)}
    assert convert(saved(tmp_path / "timm", timm_tensors(registers=2)), told=told).config.registers == 2
    with pytest.raises(InputError, match="its registers have positions of their own"):
        convert(saved(tmp_path / "timm", timm_tensors(registers=2, positions=7)), told=told)


def test_a_grey_model_has_no_statistics_of_colours(tmp_path):
    tensors = timm_tensors(channels=1)
    found = convert(saved(tmp_path / "mae", tensors), family="mae", told={"heads": 4})
    assert found.preprocess is None and any("--preprocessor" in note for note in found.notes)
    coloured = convert(saved(tmp_path / "mae", timm_tensors()), family="mae", told={"heads": 4})
    assert coloured.preprocess.mean == (0.485, 0.456, 0.406)


# PyTorch's files


@pytest.mark.parametrize("offset, size, stride, fits", [
    (0, (4,), (1,), True), (1, (3,), (1,), True), (1, (4,), (1,), False), (4, (1,), (1,), False), (0, (2, 2), (2, 1), True),
    (0, (2, 2), (3, 1), False), (3, (1,), (9,), True),
])  # fmt: skip
def test_the_last_number_of_a_storage_may_be_read_and_none_beyond(tmp_path, offset, size, stride, fits):
    numbers = np.arange(4, dtype="<f4")
    path = checkpoint(tmp_path / "x.pt", {"w": tensor("0", 4, size, stride, offset)}, {"0": numbers.tobytes()})
    if fits:
        index = offset + np.tensordot(np.indices(size), stride, axes=(0, 0))
        assert np.array_equal(read_torch(path)["w"].data, numbers[index])
    else:
        with pytest.raises(InputError, match="leaves its storage"):
            read_torch(path)


@pytest.mark.parametrize("order", [b"little", b"big"])
def test_the_byte_order_of_the_machine_it_was_saved_on(tmp_path, order):
    path = checkpoint(tmp_path / "x.pt", {"w": tensor("0", 2, (2,), (1,))}, {"0": np.arange(2, dtype="<f4").tobytes()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/byteorder", order)
    if order == b"little":
        assert read_torch(path)["w"].data.tolist() == [0, 1]
    else:
        with pytest.raises(InputError, match="big-endian"):
            read_torch(path)


@pytest.mark.parametrize("wrong", [0, 2, 3])
def test_a_tensor_of_torchs_has_a_storage_a_size_and_a_stride(wrong):
    """Each by itself of another kind."""
    right = [Storage("<f4", "0"), 0, (2,), (1,)]
    assert rebuild_tensor(*right).size == (2,)
    for other in (None, 1, [1], "x"):
        with pytest.raises(InputError, match="not built as torch builds them"):
            rebuild_tensor(*right[:wrong], other, *right[wrong + 1 :])


# timm's arguments

DISTILLED = {"architecture": "deit_base_distilled_patch16_224"}
EVA = {"architecture": "eva02_base_patch14_224"}


@pytest.mark.parametrize("config, argument, value", [
    (DISTILLED, "global_pool", "avg"), (DISTILLED, "fc_norm", True), (DISTILLED, "reg_tokens", 1),
    (DISTILLED, "no_embed_class", True), (DISTILLED, "num_classes", 0), (EVA, "attn_only_layer_scale", True),
    (EVA, "attn_type", "xyz"), (EVA, "num_kv_heads", 3), (EVA, "global_pool", "max"),
])  # fmt: skip
def test_an_argument_of_timms_that_would_change_the_model_is_refused(config, argument, value):
    timm_models.fields(config, [])
    with pytest.raises(InputError, match=argument):
        timm_models.fields({**config, "model_args": {argument: value}}, [])


@pytest.mark.parametrize("config, argument, field, none", [(EVA, "num_reg_tokens", "registers", 0)])
def test_an_argument_of_timms_that_is_null_is_none(config, argument, field, none):
    for value in (None, 0):
        assert timm_models.fields({**config, "model_args": {argument: value}}, [])[0][field] == none
    assert timm_models.fields({**config, "model_args": {argument: 3}}, [])[0][field] == 3


# Which of several models


def test_of_several_towers_the_one_with_most_of_the_familys_names_is_meant(tmp_path):
    """However many names of others there are beside it: of another kind, or with names that the family does not know."""
    tensors = timm_tensors()
    few = {name: tensor for name, tensor in tensors.items() if name.startswith("patch_embed")}
    others = {f"a.x{n}": tensor_of(np.zeros(2, np.float32)) for n in range(40)}
    whole = {f"z.{name}": tensor for name, tensor in tensors.items()} | {f"a.{name}": tensor for name, tensor in few.items()}
    timm = FAMILIES["timm"]
    assert timm.prefix({**whole, **others}) == "z."
    assert timm.prefix({name.replace("z.", ""): tensor for name, tensor in {**whole, **others}.items()}) == ""


# Pictures of any size


@pytest.mark.parametrize("multiple", [1, 14, 28, 32, 56, 300, 448, 700, 2000])
def test_a_model_of_any_size_is_shown_at_about_448_pixels(multiple):
    """The nearest multiple, and one at least."""
    side, other = any_image(multiple)
    assert side == other and side % multiple == 0 and side >= multiple
    assert abs(side - 448) <= multiple / 2 or side == multiple


@pytest.mark.parametrize("name", ["", ".", "..", "../x.safetensors", "a/b.safetensors", "/x.safetensors", "x.safetensors/"])
def test_an_index_names_files_beside_it_alone(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "x.safetensors", "b": name}}))
    with pytest.raises(InputError, match="points outside the folder"):
        weight_map(index)
    index.write_text(json.dumps({"weight_map": {"a": "x.safetensors", "b": "..x"}}))
    assert weight_map(index) == {"a": "x.safetensors", "b": "..x"}
