"""Of what size models of any picture size see a picture: stored numbers, and what must hold whatever the numbers.

The stored numbers were computed with transformers 5.24; test_sizing_peers.py compares with it live.
"""

import json

import numpy as np
import pytest
from PIL import Image

from numpy_vit import InputError, Preprocess
from numpy_vit.convert.preprocessing import ANY_SIZE, PROCESSORS, read_preprocessor
from numpy_vit.convert.sources import preprocessor_of
from numpy_vit.pictures.sizing import RULES, Plan, Sizing

import pictures


def sizing(rule, **numbers):
    return Sizing(rule=rule, numbers=numbers)


QWEN = sizing("pixel_range", multiple=28, min_pixels=56 * 56, max_pixels=1280 * 28 * 28)
QWEN_LARGE = QWEN.changed(min_pixels=3136, max_pixels=12845056)
QWEN_3 = sizing("pixel_range", multiple=32, min_pixels=65536, max_pixels=16777216)
PADDLE = sizing("pixel_range_enlarged", multiple=28, min_pixels=147384, max_pixels=2822400)
GLM = sizing("pixel_range_of_frames", multiple=28, min_pixels=112**2, max_pixels=28 * 28 * 15000, frames=2)
PIXTRAL = sizing("longest_edge", multiple=16, longest=1024)
MISTRAL = sizing("longest_edge", multiple=28, longest=1540)
NAFLEX = sizing("patch_budget", patch=16, max_patches=256)
GEMMA_4 = sizing("token_budget", patch=16, merge=3, max_tokens=280)
KIMI = sizing("padded_patch_budget", patch=14, merge=2, max_patches=16384, max_side=512)
IDEFICS_2 = sizing("edges", shortest=378, longest=980, quarters=False)
IDEFICS_3 = sizing("tiles_of_longest_edge", longest=1456, tile=364, split=True)
LFM2 = sizing(
    "pixel_range_or_tiles", patch=16, merge=2, min_tokens=64, max_tokens=256, tolerance=2.0,
    tile=512, min_tiles=2, max_tiles=10, split=True, thumbnail=True,
)  # fmt: skip
INTERNVL = sizing("tiles", tile=448, min_tiles=1, max_tiles=12)
LLAMA_3 = sizing("canvas", tile=560, max_tiles=4)
LLAMA_4 = sizing("canvas_and_thumbnail", tile=336, max_tiles=16, largest=False)
GEMMA_3 = sizing("pan_and_scan", size=896, min_crop=256, max_crops=4, min_ratio=1.2)
ALL = [
    QWEN, QWEN_LARGE, QWEN_3, PADDLE, GLM, PIXTRAL, MISTRAL, NAFLEX, GEMMA_4, KIMI, IDEFICS_2, IDEFICS_2.changed(quarters=True),
    IDEFICS_3, IDEFICS_3.changed(split=False), LFM2, INTERNVL, LLAMA_3, LLAMA_4, LLAMA_4.changed(largest=True), GEMMA_3,
]  # fmt: skip

# (height, width) of the picture, of what it is resized to, of the first picture for the encoder; tiles (rows, columns)
STORED = [
    (QWEN, (1080, 1920), (728, 1316), (728, 1316), (1, 1), 1),
    (QWEN, (480, 640), (476, 644), (476, 644), (1, 1), 1),
    (QWEN, (42, 70), (56, 56), (56, 56), (1, 1), 1),  # 1.5 and 2.5 multiples: half to even
    (QWEN, (10, 10), (56, 56), (56, 56), (1, 1), 1),
    (QWEN_LARGE, (1080, 1920), (1092, 1932), (1092, 1932), (1, 1), 1),
    (QWEN_3, (1080, 1920), (1088, 1920), (1088, 1920), (1, 1), 1),
    (QWEN_3, (480, 640), (480, 640), (480, 640), (1, 1), 1),
    (PADDLE, (1080, 1920), (1092, 1932), (1092, 1932), (1, 1), 1),
    (PADDLE, (9, 30), (224, 700), (224, 700), (1, 1), 1),
    (GLM, (1080, 1920), (1092, 1932), (1092, 1932), (1, 1), 1),
    (GLM, (480, 640), (476, 644), (476, 644), (1, 1), 1),
    (GLM, (3000, 3000), (2408, 2408), (2408, 2408), (1, 1), 1),
    (GLM, (20, 300), (28, 420), (28, 420), (1, 1), 1),  # 308 if it were not scaled up first
    (PIXTRAL, (1080, 1920), (576, 1024), (576, 1024), (1, 1), 1),
    (PIXTRAL, (480, 640), (480, 640), (480, 640), (1, 1), 1),
    (MISTRAL, (1080, 1920), (868, 1540), (868, 1540), (1, 1), 1),
    (MISTRAL, (480, 640), (504, 644), (504, 644), (1, 1), 1),
    (NAFLEX, (1080, 1920), (192, 336), (192, 336), (1, 1), 1),
    (NAFLEX, (480, 640), (224, 288), (224, 288), (1, 1), 1),
    (NAFLEX, (500, 500), (256, 256), (256, 256), (1, 1), 1),  # all of the budget
    (NAFLEX.changed(max_patches=1024), (1080, 1920), (384, 672), (384, 672), (1, 1), 1),
    (NAFLEX.changed(max_patches=1024), (480, 640), (432, 576), (432, 576), (1, 1), 1),
    (GEMMA_4, (1080, 1920), (576, 1056), (576, 1056), (1, 1), 1),
    (GEMMA_4, (480, 640), (672, 912), (672, 912), (1, 1), 1),
    (GEMMA_4, (2, 1200), (48, 13440), (48, 13440), (1, 1), 1),
    (KIMI, (1080, 1920), (1080, 1920), (1092, 1932), (1, 1), 1),
    (KIMI, (480, 640), (480, 640), (504, 644), (1, 1), 1),
    (KIMI, (100, 9000), (79, 7168), (84, 7168), (1, 1), 1),
    (KIMI, (9000, 200), (7168, 159), (7168, 168), (1, 1), 1),
    (KIMI, (3000, 3000), (1794, 1794), (1820, 1820), (1, 1), 1),
    (IDEFICS_2, (1080, 1920), (551, 980), (551, 980), (1, 1), 1),
    (IDEFICS_2, (100, 300), (378, 378), (378, 378), (1, 1), 1),
    (IDEFICS_2.changed(quarters=True), (1080, 1920), (551, 980), (540, 960), (2, 2), 5),
    (IDEFICS_3, (1080, 1920), (1092, 1456), (364, 364), (3, 4), 13),
    (IDEFICS_3, (480, 640), (1092, 1456), (364, 364), (3, 4), 13),
    (IDEFICS_3, (1000, 3000), (728, 1456), (364, 364), (2, 4), 9),
    (IDEFICS_3.changed(longest=5000, tile=500), (200, 300), (3000, 4500), (500, 500), (6, 9), 55),
    (IDEFICS_3.changed(split=False), (480, 640), (364, 364), (364, 364), (1, 1), 1),
    (LFM2, (1080, 1920), (1024, 2048), (512, 512), (2, 4), 9),
    (LFM2, (480, 640), (416, 576), (416, 576), (1, 1), 1),
    (LFM2, (8, 1000), (32, 2880), (32, 2880), (1, 1), 1),
    (LFM2, (8, 3000), (32, 3008), (32, 3008), (1, 1), 1),
    (INTERNVL, (1080, 1920), (896, 1792), (448, 448), (2, 4), 9),
    (INTERNVL, (480, 640), (1344, 1792), (448, 448), (3, 4), 13),
    (INTERNVL, (300, 300), (448, 448), (448, 448), (1, 1), 1),
    (INTERNVL, (900, 900), (896, 896), (448, 448), (2, 2), 5),  # 1x1, 2x2 and 3x3 are equally near: by its area
    (INTERNVL, (1000, 1000), (1344, 1344), (448, 448), (3, 3), 10),
    (INTERNVL, (600, 600), (448, 448), (448, 448), (1, 1), 1),
    (LLAMA_3, (1080, 1920), (630, 1120), (560, 560), (2, 2), 4),
    (LLAMA_3, (480, 640), (480, 640), (560, 560), (1, 2), 2),
    (LLAMA_3, (900, 1700), (592, 1120), (560, 560), (2, 2), 4),  # 592.9
    (LLAMA_3, (100, 150), (373, 560), (560, 560), (1, 1), 1),
    (LLAMA_4, (1080, 1920), (945, 1680), (336, 336), (3, 5), 16),
    (LLAMA_4, (480, 640), (480, 640), (336, 336), (2, 2), 5),
    (LLAMA_4, (1081, 1840), (987, 1680), (336, 336), (3, 5), 16),  # 986 in float64
    (LLAMA_4, (1848, 2926), (1008, 1596), (336, 336), (3, 5), 16),  # 1595
    (LLAMA_4, (100, 100), (336, 336), (336, 336), (1, 1), 1),
    (LLAMA_4.changed(largest=True), (100, 100), (1344, 1344), (336, 336), (4, 4), 17),
    (GEMMA_3, (1080, 1920), (896, 896), (896, 896), (1, 2), 3),
    (GEMMA_3, (1000, 1100), (896, 896), (896, 896), (1, 1), 1),
    (GEMMA_3, (2000, 600), (896, 896), (896, 896), (3, 1), 4),
    (GEMMA_3, (500, 1300), (896, 896), (896, 896), (1, 3), 4),  # 2.6 crops
    (GEMMA_3, (200, 2000), (896, 896), (896, 896), (1, 1), 1),  # the crops would be too small
]


@pytest.mark.parametrize("case", STORED, ids=lambda case: f"{case[0].rule} {case[1]}")
def test_stored_plans(case):
    found = case[0].plan(*case[1])
    assert (found.resized, found.pictures[0], found.tiles, len(found.pictures)) == case[2:]


def test_every_rule_has_stored_plans():
    assert {case[0].rule for case in STORED} == set(RULES) == {s.rule for s in ALL}


def test_where_the_thumbnail_is():
    assert INTERNVL.plan(480, 640).thumbnail == "last" and INTERNVL.plan(300, 300).thumbnail is None
    assert GEMMA_3.plan(480, 640).thumbnail == "first" and GEMMA_3.plan(480, 480).thumbnail is None
    assert LLAMA_3.plan(480, 640).thumbnail is None
    large = LFM2.plan(1080, 1920)
    assert large.thumbnail == "last" and large.pictures[-1] == (384, 672) and large.tile == (512, 512)
    assert LFM2.changed(thumbnail=False).plan(1080, 1920).pictures == ((512, 512),) * 8
    assert LFM2.changed(split=False).plan(1080, 1920).pictures == ((384, 672),)
    assert LFM2.changed(tolerance=9.0).plan(1080, 1920).pictures == ((384, 672),)
    assert IDEFICS_3.plan(1080, 1920).first_resized == (820, 1456)  # 819, made even


# What must hold


def some_sizes():
    generator = np.random.default_rng(3)
    return [tuple(int(side) for side in np.exp(generator.uniform(3.5, 8.5, 2))) for _ in range(200)]


@pytest.mark.parametrize("rule", ALL, ids=lambda s: s.rule)
def test_properties(rule):
    n, planned = rule.numbers, 0
    for height, width in some_sizes():
        try:
            plan = rule.plan(height, width)
        except InputError:
            continue
        planned += 1
        assert len(plan.pictures) == plan.tiles[0] * plan.tiles[1] + (plan.thumbnail is not None)
        assert all(Y % rule.multiple == X % rule.multiple == 0 and Y > 0 and X > 0 for Y, X in plan.pictures)
        if not plan.boxes:
            assert all(whole >= part for whole, part in zip(plan.canvas, plan.resized, strict=True))
            assert len(set(plan.of_tiles)) == 1
        Y, X = plan.pictures[-1]
        if "max_pixels" in n and min(Y, X) > rule.multiple:
            assert Y * X * n.get("frames", 1) <= n["max_pixels"]
        if "min_pixels" in n:
            assert Y * X * n.get("frames", 1) >= n["min_pixels"]
        if rule is NAFLEX:
            assert (Y // 16) * (X // 16) <= 256
        if "max_tokens" in n and min(Y, X) > rule.multiple:
            assert Y * X // rule.multiple**2 <= n["max_tokens"]
        if "max_tiles" in n:
            assert plan.tiles[0] * plan.tiles[1] <= n["max_tiles"]
        other = rule.plan(width, height)  # lying on its side
        mirrored = {tuple(reversed(size)) for size in other.pictures}
        if rule.rule not in ("tiles", "pixel_range_or_tiles", "canvas", "canvas_and_thumbnail", "edges"):
            assert mirrored == set(plan.pictures)
    assert planned > 150


@pytest.mark.parametrize(("rule", "name"), [(QWEN, "max_pixels"), (GLM, "max_pixels"), (NAFLEX, "max_patches"),
                                            (GEMMA_4, "max_tokens"), (PIXTRAL, "longest"), (KIMI, "max_patches")])  # fmt: skip
def test_a_larger_budget_never_gives_less(rule, name):
    for height, width in some_sizes()[:40]:
        if max(height, width) > 100 * min(height, width):
            continue
        budgets = [rule.numbers[name] * n // 10 for n in range(1, 11)]
        areas = [np.prod(rule.changed(**{name: budget}).plan(height, width).pictures[0]) for budget in budgets]
        assert areas == sorted(areas)


# Errors


@pytest.mark.parametrize(
    ("rule", "size", "message"),
    [
        (QWEN, (10, 2001), "200 times"),
        (PADDLE, (1000, 4), "200 times"),
        (GLM, (4, 1000), "200 times"),
        (GEMMA_4.changed(max_tokens=1), (17, 17), "neither side would be 48 pixels long"),
        (IDEFICS_2.changed(quarters=True), (1, 50), "quarters"),
        (IDEFICS_3.changed(longest=49, tile=7), (5000, 1), "no pixels"),  # 49 * (1 / 49) is below 1
    ],
)
def test_too_narrow(rule, size, message):
    with pytest.raises(InputError, match=f"^a picture of {size[0]}x{size[1]} pixels .*{message}") as error:
        rule.plan(*size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (5, 2.5), (5, 10**9), (True, 5), ("5", 5)])
def test_sizes_that_are_none(size):
    with pytest.raises(InputError, match="^picture (height|width) is "):
        QWEN.plan(*size)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "pixel_rang", "numbers": {}}, "sizing: rule 'pixel_rang' is not one of"),
        ({"rule": "pixel_range"}, "sizing: missing numbers"),
        ({"rule": "pixel_range", "numbers": []}, "sizing: numbers is"),
        ({"rule": "pixel_range", "numbers": {"multiple": 28}}, "sizing: pixel_range also needs min_pixels, max_pixels"),
        ({"rule": "pixel_range", "numbers": {"multiples": 28}}, "no number 'multiples'; did you mean 'multiple'"),
        ({"rule": "patch_budget", "numbers": {"patch": 0, "max_patches": 3}}, "sizing: patch is 0"),
        ({"rule": "patch_budget", "numbers": {"patch": 16, "max_patches": 2.5}}, "sizing: max_patches is 2.5"),
        ({"rule": "edges", "numbers": {"shortest": 1, "longest": 2, "quarters": 1}}, "sizing: quarters is 1"),
        ({"rule": "pan_and_scan", "numbers": {**GEMMA_3.numbers, "min_ratio": float("nan")}}, "sizing: min_ratio is nan"),
        ({"rule": "edges", "numbers": {}, "more": 1}, "sizing: unknown field 'more'"),
    ],
)
def test_sizings_without_meaning(values, message):
    with pytest.raises(InputError, match=f"^{message}" if message.startswith("sizing") else message):
        Sizing.from_dict(values)


# Preprocess


def of(rule, **changes):
    plain = dict(
        channels=3, resize="none", size=None, resample="bicubic", crop=None, scale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    return Preprocess(**{**plain, "sizing": rule, **changes})


@pytest.mark.parametrize("rule", ALL, ids=lambda s: s.rule)
def test_plain_data_and_back(rule):
    policy = of(rule)
    again = Preprocess.from_dict(json.loads(json.dumps(policy.to_dict())))
    assert again == policy and hash(again) == hash(policy) and again.sizing.plan(300, 400) == rule.plan(300, 400)
    assert "sizing" not in of(None).to_dict()  # files of models of one size stay as they were


def test_what_does_not_go_with_a_sizing():
    for changes in ({"resize": "squash", "size": (28, 28)}, {"crop": (28, 28)}):
        with pytest.raises(InputError, match="sizing says of what size"):
            of(QWEN, **changes)
    with pytest.raises(InputError, match="sizing goes with arithmetic 'pillow'"):
        of(QWEN, arithmetic="torch")
    with pytest.raises(InputError, match="preprocess: sizing is"):
        of("pixel_range")


@pytest.mark.parametrize("rule", ALL, ids=lambda s: s.rule)
def test_pictures_are_of_the_planned_sizes(rule):
    picture = pictures.draw(301, 420)
    plan, levels = rule.plan(301, 420), of(rule).levels(picture)
    assert [one.shape for one in levels] == [(*size, 3) for size in plan.pictures]
    assert all(one.dtype == np.uint8 for one in levels)
    for one, pixels in zip(levels, of(rule).each(picture, "float64"), strict=True):
        assert np.allclose(pixels, one.transpose(2, 0, 1) / 127.5 - 1, atol=1e-12, rtol=0)


def test_tiles_are_those_of_the_resized_picture():
    """Row by row, and the thumbnail the whole picture once more."""
    picture = pictures.draw(600, 800)
    levels = of(INTERNVL).levels(picture)
    whole = np.asarray(picture.resize((1792, 1344), Image.Resampling.BICUBIC))
    assert len(levels) == 13
    for n in range(12):
        row, column = divmod(n, 4)
        assert np.array_equal(levels[n], whole[row * 448 : row * 448 + 448, column * 448 : column * 448 + 448])
    assert np.array_equal(levels[-1], np.asarray(picture.resize((448, 448), Image.Resampling.BICUBIC)))


def test_zeros_are_below_and_to_the_right():
    picture = Image.new("RGB", (50, 30), "white")
    (kimi,) = of(KIMI).levels(picture)
    assert kimi.shape == (56, 56, 3) and kimi[:30, :50].min() == 255 and not kimi[30:].any() and not kimi[:, 50:].any()
    assert of(KIMI)(picture)[0, 0, -1, -1] == -1  # filled up before normalising
    tile = of(LLAMA_3).levels(Image.new("RGB", (560, 280), "white"))[0]
    assert tile.shape == (560, 560, 3) and tile[:280].min() == 255 and not tile[280:].any()


def test_the_thumbnail_of_a_picture_resized_twice():
    picture = pictures.draw(200, 300)
    twice = picture.resize((1456, 970), Image.Resampling.LANCZOS).resize((1456, 1092), Image.Resampling.LANCZOS)
    found = of(IDEFICS_3, resample="lanczos").levels(picture)[-1]
    assert np.array_equal(found, np.asarray(twice.resize((364, 364), Image.Resampling.LANCZOS)))


def test_pieces_of_the_picture_as_it_is():
    picture = pictures.draw(301, 700)
    found = of(GEMMA_3, resample="bilinear").levels(picture)
    assert np.array_equal(found[0], np.asarray(picture.resize((896, 896), Image.Resampling.BILINEAR)))
    second = picture.crop((350, 0, 700, 301)).resize((896, 896), Image.Resampling.BILINEAR)
    assert np.array_equal(found[2], np.asarray(second))
    quarters = of(IDEFICS_2.changed(quarters=True)).levels(picture)
    fourth = picture.crop((350, 150, 700, 301)).resize((378, 378), Image.Resampling.BICUBIC)
    assert np.array_equal(quarters[3], np.asarray(fourth))


def test_grey_pictures():
    grey = of(IDEFICS_3, channels=1, mean=(0.5,), std=(0.5,))
    assert grey(pictures.draw(90, 60)).shape == (13, 1, 364, 364)


def test_batches():
    alike, other = [pictures.draw(100, 150), pictures.draw(102, 151)], pictures.draw(150, 100)
    assert of(QWEN)(alike).shape == (2, 3, 112, 140)
    assert of(INTERNVL)([alike[0], other]).shape == (2 * 7, 3, 448, 448)  # the tiles of all, in order
    with pytest.raises(InputError, match=r"of different sizes \(112x140, 140x112\): one at a time"):
        of(QWEN)([alike[0], other])
    with pytest.raises(InputError, match=r"of different sizes \(384x672, 512x512\)"):
        of(LFM2)(pictures.draw(1080, 1920))
    assert [one.shape for one in of(QWEN).each([alike[0], other])] == [(3, 112, 140), (3, 140, 112)]
    assert of(QWEN).resize_and_crop(other).shape == (140, 112, 3)
    with pytest.raises(InputError, match="becomes 7 pictures"):
        of(INTERNVL).resize_and_crop(other)


def test_at_a_given_size():
    given = of(QWEN).at_image_size((56, 84))
    assert (given.sizing, given.resize, given.size) == (None, "squash", (56, 84))
    assert given([pictures.draw(100, 30), pictures.draw(30, 40)]).shape == (2, 3, 56, 84)
    with pytest.raises(InputError, match="^image 56x85: this model takes multiples of 28 pixels"):
        of(QWEN).at_image_size((56, 85))
    with pytest.raises(InputError, match="multiples of 48"):
        of(GEMMA_4).at_image_size((48, 64))
    with pytest.raises(InputError, match="multiples of 16"):
        of(NAFLEX).at_image_size((8, 16))


# Files


PUBLISHED = {  # in the form of these models' files
    "Qwen/Qwen2.5-VL-7B-Instruct": (
        {
            "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
        },
        QWEN_LARGE,
    ),
    "Qwen/Qwen2-VL-7B-Instruct": (
        {
            "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
            "size": {"max_pixels": 12845056, "min_pixels": 3136}, "image_processor_type": "Qwen2VLImageProcessor",
        },
        QWEN_LARGE,
    ),
    "Qwen/Qwen3-VL-4B-Instruct": (
        {
            "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2,
            "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "processor_class": "Qwen3VLProcessor",
            "image_processor_type": "Qwen2VLImageProcessorFast",
        },
        QWEN_3,
    ),
    "OpenGVLab/InternVL3-1B-hf": (
        {
            "crop_to_patches": False, "image_processor_type": "GotOcr2ImageProcessorFast", "max_patches": 12, "min_patches": 1,
            "processor_class": "InternVLProcessor", "resample": 3, "size": {"height": 448, "width": 448},
        },
        INTERNVL,
    ),
    "mistral-community/pixtral-12b": (
        {
            "image_processor_type": "PixtralImageProcessor", "patch_size": {"height": 16, "width": 16},
            "size": {"longest_edge": 1024}, "resample": 3, "processor_class": "PixtralProcessor",
        },
        PIXTRAL,
    ),
    "mistralai/Mistral-Small-3.1-24B": (  # of two files
        {
            "processor_class": "PixtralProcessor", "patch_size": 14, "spatial_merge_size": 2,
            "image_processor": {
                "image_processor_type": "PixtralImageProcessor", "patch_size": {"height": 14, "width": 14},
                "size": {"longest_edge": 1540}, "do_center_crop": None, "processor_class": "PixtralProcessor",
            },
        },
        MISTRAL,
    ),
    "google/siglip2-base-patch16-naflex": ({"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 256}, NAFLEX),
    "google/gemma-3-4b-it": (
        {
            "do_pan_and_scan": None, "image_processor_type": "Gemma3ImageProcessor", "image_seq_length": 256,
            "pan_and_scan_max_num_crops": None, "pan_and_scan_min_crop_size": None, "processor_class": "Gemma3Processor",
            "pan_and_scan_min_ratio_to_activate": None, "resample": 2, "size": {"height": 896, "width": 896},
        },
        None,
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": (
        {
            "do_image_splitting": True, "do_pad": True, "image_processor_type": "SmolVLMImageProcessor",
            "max_image_size": {"longest_edge": 384}, "resample": 1, "size": {"longest_edge": 1536},
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 384}},
        },
        IDEFICS_3.changed(longest=1536, tile=384),
    ),
    "LiquidAI/LFM2-VL": (
        {
            "image_processor_type": "Lfm2VlImageProcessorFast", "do_resize": False, "do_image_splitting": True,
            "max_num_patches": 1024, "patch_size": 16, "return_row_col_info": True, "max_pixels_tolerance": 2.0,
        },
        LFM2,
    ),
    "meta-llama/Llama-3.2-11B-Vision": (
        {
            "image_processor_type": "MllamaImageProcessor", "max_image_tiles": 4, "do_pad": True,
            "size": {"height": 560, "width": 560},
        },
        LLAMA_3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name):
    values, expected = PUBLISHED[name]
    for suffix in ("", "Fast", "Pil"):
        kind = (values.get("image_processor") or values)["image_processor_type"].removesuffix("Fast") + suffix
        inner = (
            {"image_processor": {**values["image_processor"], "image_processor_type": kind}}
            if "image_processor" in values
            else {}
        )
        found = read_preprocessor({**values, "image_processor_type": kind, **inner}, 3, [])
        assert found.sizing == expected
        assert found.resize == ("none" if expected else "squash")


def read(kind, notes=None, **values):
    return read_preprocessor({"image_processor_type": f"{kind}ImageProcessor", **values}, 3, [] if notes is None else notes)


def test_what_a_file_leaves_open_is_said():
    for kind in ANY_SIZE:
        notes = []
        found = read(kind, notes)
        said = {note.split(" does not say ")[1].split(":")[0] for note in notes if " does not say " in note}
        assert {"resample", "image_mean"} <= said or not found.mean
        whole = {key: value for key, value in PROCESSORS[kind].items() if value is not None}
        notes = []
        assert read(kind, notes, **whole) == found
        assert not [note for note in notes if " does not say " in note]


def test_what_files_ask_for():
    assert read("Idefics3", do_image_splitting=False).sizing.numbers["split"] is False
    assert read("Idefics2", do_image_splitting=True).sizing.numbers["quarters"] is True
    notes = []
    scanned = read("Gemma3", notes, do_pan_and_scan=True, size={"height": 896, "width": 896}, processor_class="Gemma3Processor")
    assert scanned.sizing == GEMMA_3 and any("though Gemma3Processor" in note for note in notes)
    assert read("GotOcr2").sizing is None and read("GotOcr2", crop_to_patches=True).sizing.rule == "tiles"
    notes = []
    read("GotOcr2", notes, crop_to_patches=False, processor_class="InternVLProcessor")
    assert "preprocessor_config.json says crop_to_patches False, but InternVLProcessor makes it True" in notes
    assert read_preprocessor({}, 3, [], "internvl").sizing.rule == "tiles"
    assert read_preprocessor({}, 3, [], "qwen3_vl").sizing.rule == "pixel_range"
    unresized = read("Qwen2VL", do_resize=False)
    assert (unresized.resize, unresized.sizing) == ("none", None)
    assert read("Qwen2VL", max_pixels=10**6).sizing.numbers == {**QWEN.numbers, "max_pixels": 10**6}
    assert read("Qwen2_5_VL").sizing == QWEN
    notes = []
    assert read("Llama4", notes).sizing == LLAMA_4 and any("bfloat16" in note for note in notes)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("Qwen2VL", {"size": {"height": 3, "width": 3}}, "size .* must have shortest_edge and longest_edge"),
        ("Qwen2VL", {"size": {"max_pixels": 9, "min_pixels": 3}}, "size .* must have shortest_edge"),
        ("Qwen2VL", {"patch_size": "14"}, "patch_size is '14'"),
        ("Qwen2VL", {"min_pixels": -1, "max_pixels": 5}, "min_pixels is -1"),
        ("Qwen2VL", {"do_center_crop": True, "crop_size": 3}, "do_center_crop is not supported"),
        ("Qwen2VL", {"max_pixel": 3}, "max_pixel 3 is not supported; did you mean 'max_pixels'"),
        ("Qwen2VL", {"crop_to_patches": True}, "crop_to_patches True is not supported"),
        ("Glm4v", {"max_pixels": 3}, "max_pixels 3 is not supported"),
        ("Pixtral", {"patch_size": {"height": 16, "width": 14}}, "only squares"),
        ("Gemma4", {"max_soft_tokens": 100}, "takes only 70, 140, 280, 560 and 1120"),
        ("Kimi_K25", {"size": {"max_height": 3, "max_width": 4}}, "must be the same"),
        ("Idefics3", {"do_image_splitting": "no"}, "do_image_splitting is 'no'"),
        ("Idefics3", {"do_resize": False}, "do_resize false is not supported for Idefics3"),
        ("Idefics3", {"size": {"height": 30, "width": 30}}, "size .* must have longest_edge"),
        ("Lfm2Vl", {"min_tiles": 11}, "min_tiles 11 is above max_tiles 10"),
        ("GotOcr2", {"crop_to_patches": True, "size": {"height": 3, "width": 4}}, "only squares"),
        ("Mllama", {"do_pad": False}, "do_pad false is not supported"),
        ("Gemma3", {"do_pan_and_scan": True, "pan_and_scan_min_ratio_to_activate": "x"}, "min_ratio is 'x'"),
        ("Siglip2", {"max_num_patches": 0}, "max_num_patches is 0"),
    ],
)
def test_files_that_are_refused(kind, values, message):
    with pytest.raises(InputError, match=f"^preprocessor_config.json: .*{message}") as error:
        read(kind, **values)
    assert "\n" not in str(error.value)


def test_two_files_in_one_folder(tmp_path):
    """Mistral 3's patch is in one, its merger's side in the other."""
    values, expected = PUBLISHED["mistralai/Mistral-Small-3.1-24B"]
    outer = {key: value for key, value in values.items() if key != "image_processor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values["image_processor"]))
    assert read_preprocessor(preprocessor_of(tmp_path), 3, []).sizing == MISTRAL.changed(multiple=14)
    (tmp_path / "processor_config.json").write_text(json.dumps(outer))
    assert read_preprocessor(preprocessor_of(tmp_path), 3, []).sizing == expected
    own = {"image_processor": {"image_processor_type": "Siglip2ImageProcessor"}}
    (tmp_path / "processor_config.json").write_text(json.dumps(own))  # transformers reads this before the other
    assert read_preprocessor(preprocessor_of(tmp_path), 3, []).sizing == NAFLEX
    (tmp_path / "processor_config.json").write_text(json.dumps({**outer, "spatial_merge_size": 0}))
    with pytest.raises(InputError, match=r"^processor_config.json: patch_size and spatial_merge_size are \(14, 0\)"):
        read_preprocessor(preprocessor_of(tmp_path), 3, [])


def test_a_plan_says_where_its_tiles_are():
    plan = Plan((630, 1120), (2, 2), None, ((560, 560),) * 4)
    assert plan.canvas == (1120, 1120) and plan.tile == (560, 560)


@pytest.mark.parametrize("rule", ALL, ids=lambda s: s.rule)
def test_boxes_cut_a_picture_into_pieces_that_do_not_overlap(rule):
    """Of a plan that cuts the picture as it is: each piece lies in it, and together they are all of it."""
    for height, width in some_sizes():
        try:
            boxes = rule.plan(height, width).boxes
        except InputError:
            continue
        assert all(0 <= top < bottom <= height and 0 <= left < right <= width for top, left, bottom, right in boxes)
        areas = [(bottom - top) * (right - left) for top, left, bottom, right in boxes]
        assert not boxes or sum(areas) == height * width
