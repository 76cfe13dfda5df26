"""The live comparison with the upstream libraries: `pytest -m peers` (extra `peers`)."""

import math

import numpy as np
import pytest
from test_forward import resized

import numpy_vit
from numpy_vit import ops
from numpy_vit.convert.preprocessing import read_preprocessor
from numpy_vit.parameters import parameter_count

from conftest import relative_error

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
EPS32 = np.finfo(np.float32).eps

CROOKED = [
    dict(image_size=[24, 40], patch_size=8, num_channels=3, hidden_size=30, num_hidden_layers=3, num_attention_heads=5,
         intermediate_size=44, hidden_act=activation, layer_norm_eps=eps, qkv_bias=bias)
    for activation, eps, bias in (
        ("gelu", 1e-12, True), ("gelu_pytorch_tanh", 1e-6, False), ("gelu_new", 1e-6, True), ("quick_gelu", 1e-5, True),
        ("relu", 1e-3, False), ("silu", 1e-6, True), ("swish", 1e-6, True), ("gelu_python", 1e-6, True),
    )
]  # fmt: skip
BASE = dict(image_size=224, patch_size=16)


def compare(model, folder, pixels, **options):
    """Every number transformers shows, in float64, against ours; and our float32 against our float64."""
    import upstream

    model.save_pretrained(folder)
    accurate = numpy_vit.load(folder, dtype="float64")
    ours = accurate(pixels, record=True, strict=True, resize_positions=bool(options)).steps
    shown = upstream.run(model, pixels, **options)
    for name, value in shown.items():
        assert relative_error(ours[name], value) < 1e-12, name
    for name, value in upstream.run(model, pixels, attention="sdpa", **options).items():  # transformers' own, untouched
        assert relative_error(ours[name], value) < 1e-12, f"sdpa {name}"
    fast = numpy_vit.load(folder)(pixels.astype(np.float32), record=True, strict=True, resize_positions=bool(options)).steps
    same_input = accurate(pixels.astype(np.float32), record=list(fast), resize_positions=bool(options)).steps
    worst = max((relative_error(fast[name], value), name) for name, value in same_input.items())
    assert worst[0] <= 32 * EPS32, worst
    return len(shown)


@pytest.mark.parametrize("n", range(len(CROOKED)))
@pytest.mark.parametrize("head", [True, False])
def test_crooked_models(tmp_path, n, head):
    import upstream

    pixels = np.random.default_rng(n).normal(size=(3, 3, 24, 40))
    compared = compare(upstream.make(n, head, labels=4 if head else 0, **CROOKED[n]), tmp_path, pixels)
    assert compared == 2 * 3 + 3


def test_full_size(tmp_path):
    """ViT-B/16 at 224, batch 2: 12 attention maps, 13 hidden states, the last norm, pooler or logits."""
    import upstream

    pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224))
    assert compare(upstream.make(5, True, labels=1000, **BASE), tmp_path / "head", pixels) == 2 * 12 + 3
    assert compare(upstream.make(6, False, **BASE), tmp_path / "pooler", pixels) == 2 * 12 + 3


@pytest.mark.parametrize("size", [(24, 40), (64, 32), (16, 16), (40, 56)])
def test_other_image_sizes(tmp_path, size):
    """interpolate_pos_encoding=True upstream (which wants a square of positions to start from)."""
    import upstream

    pixels = np.random.default_rng(1).normal(size=(2, 3, *size))
    square = {**CROOKED[0], "image_size": 32}
    compare(upstream.make(7, True, labels=4, **square), tmp_path, pixels, interpolate_pos_encoding=True)


def test_the_trained_models_of_others_live(foreign, tmp_path):
    import torch
    from transformers import ViTForImageClassification

    for name in ("libaohang_cifar10", "researchase_mnist_3class"):
        model = ViTForImageClassification.from_pretrained(foreign / name / "hf", dtype=torch.float64).eval()
        pixels = np.load(foreign / name / "golden.npz")["pixel_values_f64"]
        with torch.inference_mode():
            theirs = model(torch.from_numpy(pixels)).logits.numpy()
        assert relative_error(numpy_vit.load(foreign / name / "hf", dtype="float64")(pixels).logits, theirs) < 1e-12


@pytest.mark.parametrize("name", ["vit-base-patch16-224", "vit-large-patch32-384", "vit-huge-patch14-224-in21k"])
def test_parameter_counts_of_variants(name):
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    ours = numpy_vit.variant(name)
    config = ViTConfig(
        image_size=ours.image[0], patch_size=ours.patch, hidden_size=ours.width, num_hidden_layers=ours.depth,
        num_attention_heads=ours.heads, intermediate_size=ours.mlp, num_labels=ours.classes or 2,
    )  # fmt: skip
    with torch.device("meta"):
        model = ViTForImageClassification(config) if ours.classes else ViTModel(config)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(ours)


PROCESSORS = {
    "as the hub's ViT": {"size": {"height": 224, "width": 224}},
    "bicubic": {"size": {"height": 256, "width": 192}, "resample": 3},
    "edge and crop": {
        "size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    },
    "odd crop": {"size": {"shortest_edge": 111}, "do_center_crop": True, "crop_size": {"height": 77, "width": 130}},
    "lanczos, not normalised": {"size": {"height": 99, "width": 101}, "resample": 1, "do_normalize": False},
    "as it is": {"do_resize": False},
}  # fmt: skip


@pytest.mark.parametrize("options", PROCESSORS)
def test_preprocessing_of_real_pictures(foreign, options):
    from transformers import ViTImageProcessorPil
    from transformers.image_utils import load_image

    found = [p for p in sorted((foreign / "images").iterdir()) if p.suffix in (".png", ".jpg", ".jpeg")]
    assert len(found) >= 4
    for path in found:
        values = PROCESSORS[options]
        processor = ViTImageProcessorPil(**values)
        picture = load_image(str(path))
        ours = read_preprocessor({"image_processor_type": "ViTImageProcessor", **values}, 3, [])
        uint8 = ViTImageProcessorPil(**values | {"do_rescale": False, "do_normalize": False})
        theirs = uint8(picture, return_tensors="np", do_convert_rgb=True).pixel_values[0]
        assert np.array_equal(ours.resize_and_crop(path).transpose(2, 0, 1), theirs), path.name
        theirs = processor(picture, return_tensors="np", do_convert_rgb=True).pixel_values
        assert np.max(np.abs(ours(path) - theirs)) < 1e-6, path.name


def test_colour_modes_as_transformers_converts_them():
    from PIL import Image
    from transformers.image_transforms import convert_to_rgb

    from numpy_vit.pictures.images import upright

    import pictures

    rgb = pictures.draw(40, 50)
    rgba = rgb.convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(rgb.size))
    for image in (rgb, rgba, rgb.convert("L"), rgba.convert("LA"), rgb.quantize(20), rgb.convert("CMYK"), rgb.convert("1")):
        assert np.array_equal(np.asarray(upright(image)), convert_to_rgb(image, return_numpy=True)), image.mode


def multiple_precision_points(count, low, high, seed):
    return np.random.default_rng(seed).uniform(low, high, count)


@pytest.mark.parametrize(("low", "high"), [(-38.6, -8), (-8, -1.5), (-1.5, -0.5), (-0.5, 0.5), (0.5, 8)])
def test_gelu_and_erf_against_multiple_precision(low, high):
    """mpmath, 40 digits, 20,000 random points a range: within 4 ulp."""
    import mpmath as mp

    mp.mp.dps = 40
    x = multiple_precision_points(20_000, low, high, 1)
    root = mp.sqrt(2)
    for ours, true in (
        (ops.gelu(x), lambda v: v * mp.erfc(-v / root) / 2),
        (ops.erf(x), mp.erf),
    ):
        for got, v in zip(ours, map(mp.mpf, map(float, x)), strict=True):
            value = true(v)
            assert abs(mp.mpf(float(got)) - value) <= 4 * math.ulp(float(value)), float(v)


def test_activations_agree_with_torch():
    import torch
    from transformers.activations import ACT2FN

    x = np.random.default_rng(0).normal(size=100_000) * 4
    for ours, theirs in (
        ("gelu", "gelu"), ("gelu_tanh", "gelu_pytorch_tanh"), ("gelu_tanh", "gelu_new"), ("quick_gelu", "quick_gelu"),
        ("relu", "relu"), ("silu", "silu"),
    ):  # fmt: skip
        assert relative_error(ops.ACTIVATIONS[ours](x), ACT2FN[theirs](torch.from_numpy(x)).numpy()) < 1e-15, ours


def test_the_shipped_accuracy():
    """All held-out pictures, drawn again: the accuracy that the file's metadata states."""
    import sys

    from conftest import REPOSITORY

    sys.path.insert(0, str(REPOSITORY / "weights" / "training"))
    import digits_pictures

    model = numpy_vit.load()
    _, _, labels, pictures, _ = zip(*digits_pictures.held_out_pictures(), strict=True)
    right = 0
    for start in range(0, len(labels), 64):
        pixels = model.preprocess(list(pictures[start : start + 64]))
        right += int((model(pixels).logits.argmax(axis=-1) == labels[start : start + 64]).sum())
    stated = model.source["accuracy"]
    assert (len(labels), right) == (stated["pictures"], stated["right"])
    assert right / len(labels) >= 0.97


def test_the_stated_figure_of_where_it_looks():
    """Over the first held-out pictures: near what weights/README.md states over all of them."""
    import re
    import sys

    from conftest import REPOSITORY

    sys.path.insert(0, str(REPOSITORY / "weights" / "training"))
    import attention_figure

    text = (REPOSITORY / "weights" / "README.md").read_text(encoding="utf-8")
    for row, found in zip(("the digit's own box", "the box of another picture"), attention_figure.figures(120), strict=True):
        stated = re.search(rf"\| {row}[^|]*\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) % \| ([\d.]+) % \|", text)
        median, least, largest, above_1, above_2 = map(float, stated.groups())
        assert np.median(found) == pytest.approx(median, rel=0.1)
        assert least - 0.005 <= found.min() and found.max() <= largest + 0.005
        assert abs(100 * (found > 1).mean() - above_1) < 8 and abs(100 * (found > 2).mean() - above_2) < 12


@pytest.mark.parametrize("name", [*numpy_vit.variants(), "vit-small-patch32-384", "vit-huge-patch14-224-in21k"])
def test_macs_are_those_that_torch_counts(name):
    """FlopCounterMode on transformers' model with math attention, on the meta device."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import ViTConfig, ViTForImageClassification, ViTModel

    ours = numpy_vit.variant(name)
    config = ViTConfig(
        image_size=ours.image[0], patch_size=ours.patch, hidden_size=ours.width, num_hidden_layers=ours.depth,
        num_attention_heads=ours.heads, intermediate_size=ours.mlp, num_labels=ours.classes or 2, attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        model = (ViTForImageClassification(config) if ours.classes else ViTModel(config)).eval()
        pixels = torch.zeros(2, 3, *ours.image)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode(False), torch.no_grad():
        model(pixels)
    assert counter.get_total_flops() == numpy_vit.trace(name, batch=2).flops


TORCH_RULES = {
    "bicubic": dict(mode="bicubic"),
    "bicubic_antialias": dict(mode="bicubic", antialias=True),
    "bicubic_dino": dict(mode="bicubic"),
    "bicubic_corners": dict(mode="bicubic", align_corners=True),
    "bilinear": dict(mode="bilinear"),
    "bilinear_corners": dict(mode="bilinear", align_corners=True),
    "bilinear_antialias": dict(mode="bilinear", antialias=True),
}


@pytest.mark.parametrize("rule", list(TORCH_RULES))
@pytest.mark.parametrize(
    "old, new", [((14, 14), (24, 24)), ((37, 37), (16, 16)), ((7, 5), (4, 11)), ((5, 6), (1, 7)), ((1, 3), (2, 2))]
)
def test_position_rules_are_torchs_own(rule, old, new):
    """Up and down, square and not, in float64. DINO gives torch a scale: (new + 0.1) / old."""
    import torch

    grid = np.random.default_rng(sum(old)).normal(size=(*old, 6))
    options = dict(TORCH_RULES[rule])
    where = (
        dict(scale_factor=tuple((n + 0.1) / o for n, o in zip(new, old, strict=True)))
        if rule == "bicubic_dino"
        else dict(size=new)
    )
    moved = torch.from_numpy(grid).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(moved, **where, **options)[0].permute(1, 2, 0).numpy()
    assert relative_error(resized(grid, new, rule), expected) < 1e-12


def test_googles_zoom_is_bilinear_with_corners():
    from scipy.ndimage import zoom

    for old, new in (((14, 14), (24, 24)), ((9, 5), (4, 8))):
        grid = np.random.default_rng(1).normal(size=(*old, 3))
        expected = zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
        assert relative_error(resized(grid, new, "bilinear_corners"), expected) < 1e-12
