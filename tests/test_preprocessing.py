"""Every family's preprocessing: what its own code made of drawn pictures (stored), and how its files are read.

The stored arrays are of tests/make_preprocessing_arrays.py. The tests marked `peers` ask transformers itself.
"""

import json

import numpy as np
import PIL
import pytest
from PIL import Image

from numpy_vit import InputError, Preprocess
from numpy_vit.convert.preprocessing import (
    ANY_SIZE,
    IMAGENET,
    POLICIES,
    PROCESSORS,
    from_open_clip,
    from_timm,
    policy,
    read_preprocessor,
)
from numpy_vit.pictures.images import center_crop, resize_as_tensorflow, resize_as_torch

import pictures
from conftest import DATA

STORED = np.load(DATA / "preprocessing_families.npz")
CASES = [json.loads(line) for line in STORED["cases"]]
LABELS = [f"{case['kind']} {next(iter(case['values'].values()))} {case['shape']}" for case in CASES]
OLD_PILLOW = int(PIL.__version__.split(".")[0]) < 13
BARE = dict(channels=3, resize="none", size=None, resample="bilinear", crop=None, scale=None, mean=None, std=None)


def read(kind, values):
    """The policy as our readers understand what upstream was told."""
    if kind == "transformers":
        return read_preprocessor(values, 3, [])
    if kind == "timm":
        return from_timm(values, 3, [])
    if kind == "open_clip":
        image = values["size"] if isinstance(values["size"], list) else [values["size"]] * 2
        return from_open_clip(values, tuple(image), 3, [])
    return policy(values["name"], tuple(values["image"]), 3)


@pytest.mark.parametrize("case", CASES, ids=LABELS)
def test_equals_the_familys_own_code(case):
    preprocess = read(case["kind"], case["values"])
    picture = pictures.draw(*case["shape"])

    def kept(stage, ours):
        step = case["steps"][stage]
        return ours[:, ::step, ::step], STORED[case[stage]]

    if "levels" in case or "floats" in case:
        stage = "levels" if "levels" in case else "floats"
        ours, theirs = kept(stage, preprocess.resize_and_crop(picture).transpose(2, 0, 1))
        assert ours.dtype == theirs.dtype == (np.uint8 if stage == "levels" else np.float32)
        if OLD_PILLOW and preprocess.arithmetic == "pillow":
            # before 13, Pillow resized the two directions in another order and rounded between
            assert ours.shape == theirs.shape and np.abs(ours.astype(int) - theirs).max() <= 1
        else:
            assert np.array_equal(ours, theirs)
    if "pixels" in case and not (OLD_PILLOW and preprocess.arithmetic == "pillow"):
        ours, theirs = kept("pixels", preprocess(picture)[0])
        allowed = 1e-6
        if "pixels64" in case:  # torch's float32 resizing is up to 1e-5 from its float64, which is compared below
            allowed += np.max(np.abs(theirs - STORED[case["pixels64"]]))
        assert ours.shape == theirs.shape and np.max(np.abs(ours - theirs)) <= allowed
    if "pixels64" in case:
        ours, theirs = kept("pixels64", preprocess(picture, "float64")[0])
        assert ours.shape == theirs.shape and np.max(np.abs(ours - theirs)) <= 1e-12


def test_every_policy_and_every_processor_is_compared():
    named = {case["values"]["name"] for case in CASES if case["kind"].startswith("policy")}
    others = {"dinov3", "dinov3_satellite", "siglip"}  # as DINOv3's and SigLIP's processors, and open_clip's squash
    assert named | others == set(POLICIES)
    kinds = " ".join(str(case["values"]) for case in CASES if case["kind"] == "transformers")
    plain = set(PROCESSORS) - set(ANY_SIZE) - {"Blip"}  # the others are in test_sizing_peers.py and test_spellings_peers.py
    assert all(f"'{name}ImageProcessor" in kinds for name in plain)


@pytest.mark.parametrize(("name", "processor"), [("dinov3", "DINOv3ViT"), ("siglip", "Siglip")])
def test_policies_that_are_processors(name, processor):
    kind = f"{processor}ImageProcessor"
    found = read_preprocessor({"image_processor_type": kind, "size": {"height": 24, "width": 40}}, 3, [])
    assert policy(name, (24, 40), 3) == found


def test_policies_at_other_sizes():
    """Square: the edge as upstream computes it; oblong: timm's and open_clip's way."""
    edges = {
        ("deit", 384): 438, ("mae", 224): 256, ("mae", 225): 225, ("dinov2", 518): 592, ("torchvision_l_16", 448): 484,
        ("beit", 383): 437, ("beit", 384): 384, ("beit2", 512): 512, ("eva02", 448): 448, ("clip", 336): 336,
    }  # fmt: skip
    for (name, side), edge in edges.items():
        found = policy(name, (side, side), 3)
        assert (found.resize, found.size, found.crop) == ("shortest_edge", edge, (side, side)), name
    oblong = policy("deit", (112, 224), 3)
    assert (oblong.resize, oblong.size, oblong.crop) == ("cover", (128, 256), (112, 224))
    assert oblong(pictures.draw(50, 50)).shape == (1, 3, 112, 224)
    assert policy("big_vision", (12, 20), 1).mean == (0.5,)
    assert all(policy(name, (48, 48), 3)(pictures.draw(70, 51)).shape == (1, 3, 48, 48) for name in POLICIES)
    with pytest.raises(InputError, match="'dinov4' is no known preprocessing; did you mean 'dinov3'"):
        policy("dinov4", (224, 224), 3)
    with pytest.raises(InputError, match="preprocessing 'deit': .*give 1 numbers"):
        policy("deit", (224, 224), 1)


# Arithmetic


def test_tensorflow_keeps_what_is_flat_and_what_has_the_size():
    for level in range(0, 256, 5):
        flat = np.full((7, 11, 3), level, np.uint8)
        assert np.array_equal(resize_as_tensorflow(flat, (13, 29)), np.full((13, 29, 3), level))
    picture = np.asarray(pictures.draw(9, 14))
    assert np.array_equal(resize_as_tensorflow(picture, (9, 14)), picture)
    assert resize_as_tensorflow(picture, (1, 1)).shape == (1, 1, 3)


@pytest.mark.parametrize("way", ["down", "up"])
def test_equals_big_visions_whole_preprocessing(way):
    """Its own preprocess_fn, of tests/make_jax_arrays.py."""
    stored = np.load(DATA / "families" / "big_vision_resize" / "expected.npz")
    size = stored[way].shape[:2]
    ours = policy("big_vision", size, 3)
    assert np.array_equal(ours.resize_and_crop(stored["image"]), stored[way])
    assert np.max(np.abs(ours(stored["image"])[0].transpose(1, 2, 0) - stored[f"{way}_range"])) <= 1e-6
    assert np.array_equal(policy("augreg", size, 3).resize_and_crop(stored["image"]), stored[f"{way}_float32"])


def test_torch_keeps_what_is_flat_and_what_has_the_size():
    for rule in ("bilinear", "bicubic"):
        flat = np.full((7, 11, 1), 100, np.uint8)
        assert np.max(np.abs(resize_as_torch(flat, (3, 29), rule) - 100)) < 1e-12
        picture = np.asarray(pictures.draw(9, 14))
        assert np.max(np.abs(resize_as_torch(picture, (9, 14), rule) - picture)) < 1e-12


@pytest.mark.parametrize("arithmetic", ["tensorflow", "tensorflow_uint8", "torch"])
def test_arithmetic_keeps_to_its_own(arithmetic):
    grey = Preprocess(**{**BARE, "channels": 1, "resize": "shortest_edge", "size": 20, "crop": (15, 24)}, arithmetic=arithmetic)
    assert grey(pictures.draw(40, 60)).shape == (1, 1, 15, 24)
    as_it_is = Preprocess(**BARE, arithmetic=arithmetic)
    assert np.array_equal(as_it_is.resize_and_crop(pictures.draw(5, 6)), np.asarray(pictures.draw(5, 6)))
    with pytest.raises(InputError, match=f"preprocess: resample 'lanczos' with arithmetic '{arithmetic}': only bilinear"):
        Preprocess(**{**BARE, "resample": "lanczos"}, arithmetic=arithmetic)


def test_odd_rows_go_to_either_side():
    array = np.arange(10)[:, None, None] * np.ones((1, 1, 1))
    cut = {(length, rounding): int(center_crop(array, (length, 1), rounding)[0, 0, 0])
           for length in (3, 5, 7, 9) for rounding in ("down", "even")}  # fmt: skip
    assert cut == {(3, "down"): 3, (3, "even"): 4, (5, "down"): 2, (5, "even"): 2,
                   (7, "down"): 1, (7, "even"): 2, (9, "down"): 0, (9, "even"): 0}  # fmt: skip
    ones = np.ones((2, 1, 1))
    assert center_crop(ones, (5, 1), "down")[:, 0, 0].tolist() == [0, 0, 1, 1, 0]
    assert center_crop(ones, (5, 1), "even")[:, 0, 0].tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"arithmetic": "numpy"},
        {"arithmetic": ["torch"]},
        {"crop_rounding": "up"},
        {"resize": "cover", "size": 3},
        {"resize": "longest_edge", "size": 3},
    ],
)
def test_senseless_policies_are_refused(changes):
    with pytest.raises(InputError, match="preprocess: "):
        Preprocess(**{**BARE, **changes})


def test_cover_of_a_narrow_picture_is_refused():
    with pytest.raises(InputError, match="too narrow"):
        policy("clip", (30, 40), 3)(Image.new("RGB", (1, 5000)))


def test_plain_data_without_the_new_fields():
    """Files converted before these fields existed have none of them, and files that need none do without."""
    old = Preprocess(**BARE)
    assert "arithmetic" not in old.to_dict() and "crop_rounding" not in old.to_dict()
    assert Preprocess.from_dict(old.to_dict()) == old
    new = policy("dinov3", (24, 40), 3)
    assert new.to_dict()["arithmetic"] == "torch"
    assert Preprocess.from_dict(json.loads(json.dumps(new.to_dict()))) == new


def test_another_size_keeps_what_is_new():
    oblong = from_timm({"input_size": [3, 20, 40], "crop_pct": 0.5, **statistics()}, 3, [])
    larger = oblong.at_image_size((30, 40))
    assert (larger.resize, larger.size, larger.crop, larger.crop_rounding) == ("cover", (60, 80), (30, 40), "even")
    assert policy("big_vision", (20, 20), 3).at_image_size((24, 32)) == policy("big_vision", (24, 32), 3)


# Files


def statistics():
    return {"mean": list(IMAGENET.mean), "std": list(IMAGENET.std)}


def test_defaults_of_processors_are_said():
    notes = []
    found = read_preprocessor({"image_processor_type": "CLIPImageProcessorFast", "size": 30, "resample": None}, 3, notes)
    assert (found.resize, found.size, found.resample, found.crop) == ("shortest_edge", 30, "bicubic", (224, 224))
    said = {note.split(" does not say ")[1].split(":")[0] for note in notes}
    assert said == {"resample", "do_resize", "do_center_crop", "crop_size", "do_normalize", "image_mean", "image_std"}
    assert all(note.endswith("transformers' default, is used") for note in notes)
    for name in PROCESSORS:
        for kind in (f"{name}ImageProcessor", f"{name}ImageProcessorFast", f"{name}FeatureExtractor"):
            assert read_preprocessor({"image_processor_type": kind}, 3, []) is not None


def test_a_whole_file_leaves_nothing_to_say():
    nulls = ("crop_size", "device", "disable_grouping", "do_center_crop", "do_convert_rgb", "return_tensors")
    values = {
        **dict.fromkeys(nulls), "data_format": "channels_first", "default_to_square": True, "do_normalize": True,
        "do_rescale": True, "do_resize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        "image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 2, "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224},
    }  # fmt: skip
    notes = []
    found = read_preprocessor(values, 3, notes)
    assert not notes and found == policy("dinov3", (224, 224), 3)
    with pytest.raises(InputError, match="^preprocessor_config.json: do_center_crop is not supported for 'DINOv3"):
        read_preprocessor({**values, "do_center_crop": True, "crop_size": 24}, 3, [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_processor_type": "LlavaNextImageProcessorFast"}, "in a way of its own"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "in a way of its own"),
        ({"image_processor_type": "TimmWrapperImageProcessor"}, "in a way of its own"),
        ({"image_processor_type": ["ViTImageProcessor"]}, "in a way of its own"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 30}}, "size .* is not supported"),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 3, "longest_edge": 30}}, "size .* is not"),
        ({"image_processor_type": "ViTImageProcessor", "do_pad": True}, "do_pad True is not supported"),
        (
            {"image_processor_type": "ViTImageProcessor", "crop_sise": 3},
            "crop_sise 3 is not supported; did you mean",
        ),
        ({"image_processor_type": "ViTImageProcessor", "do_center_crop": True}, "crop_size None has no height and width"),
        ({"image_processor_type": "DINOv3ViTImageProcessor", "resample": 1}, "resample 'lanczos' with arithmetic 'torch'"),
        ({"image_processor_type": "MobileNetV2ImageProcessor"}, "does not say do_resize, and of type 'MobileNetV2"),
        ({"do_resize": True, "size": 30}, "a square or the shorter edge"),
        ({}, "does not say do_resize, and of type None"),
    ],
)
def test_processors_that_are_refused(values, message):
    with pytest.raises(InputError, match=f"^preprocessor_config.json.*{message}") as error:
        read_preprocessor(values, 3, [])
    assert "\n" not in str(error.value)


def test_timm_defaults_and_test_sizes_are_said():
    notes = []
    found = from_timm({"test_input_size": [3, 288, 288], "test_crop_pct": 1.0}, 3, notes)
    assert (found.size, found.crop, found.resample, found.mean) == (256, (224, 224), "bicubic", IMAGENET.mean)
    assert [note.split(":")[1].split()[4] for note in notes if "default" in note] == [
        "input_size", "crop_pct", "interpolation", "mean", "std",
    ]  # fmt: skip
    assert any("also says test_input_size [3, 288, 288], test_crop_pct 1.0: not used" in note for note in notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_mode": "border"},
        {"crop_mode": "sqash"},
        {"interpolation": "random"},
        {"input_size": [3, 224]},
        {"input_size": "224"},
        {"input_size": [3, 224, -1]},
        {"crop_pct": "0.9"},
        {"crop_pct": -1},
        {"crop_pct": float("nan")},
        {"mean": [0.5]},
        {"std": 3},
        {"std": [0.5, 0.5, 0]},
    ],
)
def test_timm_files_that_are_refused(changes):
    values = {"input_size": [3, 24, 24], "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "center", **statistics()}
    if changes == {"std": 3}:  # a number goes for all channels
        assert from_timm({**values, **changes}, 3, []).std == (3, 3, 3)
        return
    with pytest.raises(InputError, match="^config.json: pretrained_cfg") as error:
        from_timm({**values, **changes}, 3, [])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [{"resize_mode": "longest"}, {"interpolation": "nearest"}, {"mode": "L"}, {"mean": [1]}, {"std": "x"}, {"resize_mode": []}],
)
def test_open_clip_files_that_are_refused(values):
    with pytest.raises(InputError, match="^open_clip_config.json: preprocess_cfg"):
        if values == {"resize_mode": []}:  # an empty value is none, to open_clip
            assert from_open_clip(values, (24, 24), 3, []).resize == "shortest_edge"
            values = {"resize_mode": ["squash"]}
        from_open_clip(values, (24, 24), 3, [])


def test_open_clip_notes():
    notes = []
    found = from_open_clip({"interpolation": "bilinear", "resize_mod": "squash", "mean": None}, (24, 32), 3, notes)
    assert (found.resize, found.resample, found.mean) == ("cover", "bicubic", policy("clip", (24, 24), 3).mean)
    assert "resize_mod not known to open_clip" in notes[0] and "says bilinear, but open_clip" in notes[1]


# Live


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PROCESSORS)
def test_defaults_are_those_of_transformers(name):
    """Where there is torchvision, all; elsewhere DINOv3's alone cannot be asked."""
    import transformers

    kind = getattr(transformers, f"{name}ImageProcessorPil", None)
    if kind is None:
        pytest.importorskip("torchvision")
        kind = getattr(transformers, f"{name}ImageProcessor")
    for key, value in PROCESSORS[name].items():
        theirs = getattr(kind, key, None)
        if key.startswith("pan_and_scan"):  # which the class leaves to its text-and-picture processor
            theirs = transformers.Gemma3Processor.images_kwargs[key]
        assert (list(theirs) if isinstance(theirs, tuple | list) else theirs or False) == (value or False), key


PUBLISHED = {  # files as these models have them, old and new
    "google/vit-base-patch16-224-in21k": {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2},
    "facebook/deit-base-distilled-patch16-224": {
        "feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    },
    "openai/clip-vit-base-patch32": {
        "feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "resample": 3, "do_center_crop": True, "crop_size": 224,
    },
    "facebook/dinov2-base": {
        "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    },
    "google/siglip-base-patch16-224": {
        "image_processor_type": "SiglipImageProcessor", "size": {"height": 224, "width": 224}, "resample": 3,
    },
    "microsoft/beit-base-patch16-384": {
        "feature_extractor_type": "BeitFeatureExtractor", "size": 384, "resample": 3, "do_center_crop": False, "crop_size": 384,
    },
    "facebook/vit-mae-base": {
        "feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 3, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
}  # fmt: skip


def crooked_pictures(folder):
    """Drawn ones, and real ones where there are some."""
    found = [path for path in sorted((folder / "images").iterdir()) if path.suffix in (".png", ".jpg", ".jpeg")]
    drawn = [pictures.draw(*shape) for shape in ((301, 457), (457, 300), (99, 41), (224, 225), (1, 7))]
    return drawn + [Image.open(path).convert("RGB") for path in found[:4]]


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_live(foreign, name):
    import transformers

    values = PUBLISHED[name]
    kind = values.get("image_processor_type") or values["feature_extractor_type"]
    options = {key: value for key, value in values.items() if not key.endswith("_type")}
    theirs = getattr(transformers, kind.replace("FeatureExtractor", "ImageProcessor") + "Pil")
    ours = read_preprocessor(values, 3, [])
    for picture in crooked_pictures(foreign):
        levels = theirs(**options, do_rescale=False, do_normalize=False)(picture, return_tensors="np").pixel_values[0]
        assert np.array_equal(ours.resize_and_crop(picture).transpose(2, 0, 1), levels)
        pixels = theirs(**options)(picture, return_tensors="np").pixel_values
        assert np.max(np.abs(ours(picture) - pixels)) <= 1e-6


@pytest.mark.peers
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_dinov3s_resizing_live(foreign, resample):
    """DINOv3's processor itself needs torchvision; this is what torchvision's resize asks of torch, for float tensors."""
    import torch

    for picture in crooked_pictures(foreign):
        array = np.array(picture)
        for size in ((224, 224), (31, 140), (518, 77)):
            scaled = torch.from_numpy(array).permute(2, 0, 1)[None].double() / 255
            theirs = torch.nn.functional.interpolate(scaled, size=size, mode=resample, antialias=True)
            ours = resize_as_torch(array, size, resample).transpose(2, 0, 1) / 255
            assert np.max(np.abs(ours - theirs[0].numpy())) <= 1e-12
