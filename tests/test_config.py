"""Configs: the published variants, and what is refused."""

import pytest

import numpy_vit
from numpy_vit.parameters import parameter_count, parameter_shapes

from conftest import crooked_config

# google-research/vision_transformer's own tests, 1,000 classes.
PUBLISHED = {
    "ViT-Ti/16": 5_717_416,
    "ViT-S/16": 22_050_664,
    "ViT-S/32": 22_878_952,
    "ViT-B/8": 86_576_872,
    "ViT-B/16": 86_567_656,
    "ViT-B/32": 88_224_232,
    "ViT-L/16": 304_326_632,
    "ViT-L/32": 306_535_400,
    "ViT-H/14": 632_045_800,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    assert parameter_count(numpy_vit.variant(name)) == PUBLISHED[name]


def test_parameter_count_is_the_sum_of_the_shapes():
    import math

    config = crooked_config()
    assert parameter_count(config) == sum(math.prod(shape) for shape in parameter_shapes(config).values())


def test_both_styles_of_names():
    assert numpy_vit.variant("ViT-B/16") == numpy_vit.variant("vit-base-patch16-224")
    assert numpy_vit.variant("ViT-L/16@384") == numpy_vit.variant("google/vit-large-patch16-384")
    assert numpy_vit.variant("ViT-H/14").depth == 32
    assert numpy_vit.variant("ViT-G/14").width == 1664 and numpy_vit.variant("vit-giant-patch14-224").width == 1408
    backbone = numpy_vit.variant("google/vit-base-patch16-224-in21k")
    assert (backbone.classes, backbone.pooler, parameter_count(backbone)) == (0, 768, 86_389_248)  # ViTModel's own count
    for name in numpy_vit.variants():
        numpy_vit.variant(name)


@pytest.mark.parametrize(
    ("name", "hint"), [("ViT-B/61", "ViT-B/16"), ("vit-bas-patch16-224", "vit-base-patch16-224"), ("ViT-b/16", "ViT-B/16")]
)
def test_unknown_variants_get_the_nearest_name(name, hint):
    with pytest.raises(numpy_vit.InputError, match=f"did you mean '{hint}'"):
        numpy_vit.variant(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 4}, "4 heads do not divide the width 15"),
        ({"image": 3}, "image height 3 is less than a patch of 4"),
        ({"image": (12, 2)}, "image width 2 is less than a patch"),
        ({"image": "12"}, "image is '12'"),
        ({"width": 0}, "width is 0: it must be a whole number"),
        ({"depth": -1}, "depth is -1"),
        ({"mlp": 10**12}, "mlp is 1000000000000"),
        ({"patch": True}, "patch is True"),
        ({"patch": 4.0}, "patch is 4.0"),
        ({"eps": 0}, "eps is 0"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"activation": "gellu"}, "activation 'gellu' is not one of gelu"),
        ({"pooling": "max"}, "pooling 'max'"),
        ({"qkv_bias": 1}, "qkv_bias is 1"),
        ({"widht": 3}, "unknown field 'widht'; did you mean 'width'"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(numpy_vit.InputError, match=message):
        crooked_config().replace(**changes)


def test_nothing_has_a_default():
    with pytest.raises(TypeError, match="eps"):
        values = {k: v for k, v in vars(crooked_config()).items() if k != "eps"}
        numpy_vit.ViTConfig(**values)
