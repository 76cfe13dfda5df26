"""Make tests/data/preprocessing_families.npz: what every family's own code makes of drawn pictures.

    python tests/make_preprocessing_arrays.py --torchvision FOLDER --open-clip FOLDER --big-vision FOLDER

Needs the extra `peers`, timm and tensorflow-cpu; and three folders: of torchvision an unpacked wheel of the version that goes
with the installed torch (its Python code is enough: nothing compiled is used), of open_clip and big_vision a checkout.

Each case is a line of JSON in the array "cases": what upstream was told ("kind", "values"), and of the results the keys under
which they are stored, (C, Y, X): "levels" (the 8-bit stage), "floats" (where there is none: before normalising), "pixels" (the
end) and "pixels64" (computed in float64). Of each, every so many rows and columns are kept: "steps" says how many.
"""

import argparse
import importlib.util
import json
import platform
import sys
import types
from pathlib import Path

import numpy as np
import PIL
import torch

import pictures

OUT = Path(__file__).parent / "data" / "preprocessing_families.npz"
SHAPES = ((61, 83), (90, 37), (13, 17), (301, 211))  # height, width: odd; landscape and portrait; made larger and smaller

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def image(statistics):
    """In transformers' words."""
    return {f"image_{name}": numbers for name, numbers in statistics.items()}


def size(height, width):
    return {"height": height, "width": width}


# preprocessor_config.json, new and old; what it does not say is the class's default
TRANSFORMERS = [
    {"image_processor_type": "ViTImageProcessor", "size": size(27, 22)},
    {"image_processor_type": "ViTImageProcessorFast", "size": size(22, 27), "resample": 3, **image(IMAGENET)},
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 23},
    {"image_processor_type": "ViTImageProcessor", "size": [21, 26]},
    {"image_processor_type": "DeiTImageProcessor", "size": size(31, 28), "crop_size": size(26, 23)},
    {"feature_extractor_type": "DeiTFeatureExtractor", "size": 31, "crop_size": 26, **image(IMAGENET)},
    {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 25}, "crop_size": size(22, 23)},
    {"feature_extractor_type": "CLIPFeatureExtractor", "size": 24, "crop_size": 24},
    {"image_processor_type": "CLIPImageProcessor", "size": 21, "crop_size": size(26, 24)},  # larger than the picture
    {"image_processor_type": "SiglipImageProcessor", "size": size(24, 24)},
    {"image_processor_type": "SiglipImageProcessor", "size": 19},
    {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 29}, "crop_size": size(24, 25), **image(IMAGENET)},
    {"image_processor_type": "BitImageProcessor", "size": 25, "crop_size": 20},
    {"image_processor_type": "BeitImageProcessor", "size": size(25, 27), "do_reduce_labels": True},
    {"feature_extractor_type": "BeitFeatureExtractor", "size": 30, "do_center_crop": True, "crop_size": 25},
    {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": size(21, 26)},
    {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": size(70, 18), "resample": 3},
    {"image_processor_type": "DINOv3ViTImageProcessor", "size": {"shortest_edge": 20}},
]
TIMM = [  # pretrained_cfg
    {"input_size": [3, 24, 24], "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "center", **HALF},
    {"input_size": [3, 23, 23], "crop_pct": 0.875, "interpolation": "bilinear", **IMAGENET},
    {"input_size": [3, 22, 31], "crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "center", **CLIP},
    {"input_size": [3, 31, 22], "crop_pct": 0.8, "interpolation": "bilinear", "crop_mode": "center", **HALF},
    {"input_size": [3, 24, 27], "crop_pct": 0.9, "interpolation": "bicubic", "crop_mode": "squash", **IMAGENET},
    {"input_size": [3, 24, 27], "crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "squash", **HALF},
    {"input_size": [3, 25, 25], "crop_pct": 1.2, "interpolation": "lanczos", "crop_mode": "center", **HALF},  # padded
    {"input_size": [3, 25, 25]},
]
OPEN_CLIP = [  # preprocess_cfg
    {"size": 24},
    {"size": [25, 25], "interpolation": "bilinear", "resize_mode": "shortest", **HALF},
    {"size": [23, 30], "interpolation": "bicubic", "resize_mode": "squash", **HALF},
    {"size": [23, 30], "interpolation": "bilinear", "resize_mode": "shortest", **IMAGENET},  # which is then bicubic
    {"size": [30, 23], "interpolation": "random", "resize_mode": "shortest", **CLIP},
]
# The lines of each repository's evaluation: edge of the resized picture, filter, statistics (see POLICIES for the files)
CROPPED = {
    ("deit", 224): (int(224 / 0.875), "bicubic", IMAGENET),
    ("deit", 384): (int(384 / 0.875), "bicubic", IMAGENET),
    ("deit3", 192): (int(192 / 1.0), "bicubic", IMAGENET),
    ("mae", 224): (int(224 / (224 / 256)), "bicubic", IMAGENET),
    ("mae", 448): (int(448 / 1.0), "bicubic", IMAGENET),
    ("dino", 224): (256, "bicubic", IMAGENET),
    ("dinov2", 224): (256, "bicubic", IMAGENET),
    ("torchvision", 224): (256, "bilinear", IMAGENET),
    ("torchvision_l_16", 224): (242, "bilinear", IMAGENET),
    ("torchvision_swag", 384): (384, "bicubic", IMAGENET),
    ("clip", 224): (224, "bicubic", CLIP),
    ("clip", 336): (336, "bicubic", CLIP),
    ("beit", 224): (int(224 / (224 / 256)), "bicubic", HALF),
    ("beit", 384): (int(384 / 1.0), "bicubic", HALF),
    ("beit2", 224): (int(224 / (224 / 256)), "bicubic", IMAGENET),
    ("eva02", 336): (int(336 / 1.0), "bicubic", CLIP),
}
TENSORFLOW = [("augreg", (27, 22)), ("augreg", (19, 70)), ("big_vision", (27, 22)), ("big_vision", (75, 31))]


def bare_package(name, folder, version=None):
    """Make `name` importable from a folder without running its __init__, which wants more than we use."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    package.__spec__ = importlib.util.spec_from_loader(name, None, is_package=True)
    package.__version__ = version
    sys.modules[name] = package


def with_torchvision(folder):
    """torchvision and its version, for those who ask for it."""
    version = next(Path(folder).glob("torchvision-*.dist-info")).stem.split("-")[1]
    bare_package("torchvision", Path(folder) / "torchvision", version)
    sys.path.append(str(folder))  # for importlib.metadata
    return version


def by_transformers(values, picture):
    import transformers

    named = values.get("image_processor_type") or values["feature_extractor_type"]
    family = named.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    options = {key: value for key, value in values.items() if not key.endswith("_type")}
    if family == "DINOv3ViT":
        processor = transformers.DINOv3ViTImageProcessor(**options)
        pixels = processor(picture, return_tensors="pt").pixel_values[0]
        # the same methods on a tensor that is float64 from the start
        double = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).astype(np.float64))[None]
        double = processor.resize(processor.rescale(double, processor.rescale_factor), processor.size, processor.resample)
        double = processor.normalize(double, processor.image_mean, processor.image_std)[0]
        return {"pixels": pixels.numpy(), "pixels64": double.numpy()}
    kind = getattr(transformers, f"{family}ImageProcessorPil")
    levels = kind(**options, do_rescale=False, do_normalize=False)(picture, return_tensors="np").pixel_values[0]
    return {"levels": levels, "pixels": kind(**options)(picture, return_tensors="np").pixel_values[0]}


def by_torchvision(transform, picture, of_pictures):
    """The results of a torchvision Compose, of whose transforms the first few give PIL images."""
    halfway = picture
    for step in transform.transforms[:of_pictures]:
        halfway = step(halfway)
    return {"levels": np.asarray(halfway).transpose(2, 0, 1), "pixels": transform(picture).numpy()}


def by_timm(values, picture):
    from timm.data import create_transform, resolve_data_config

    transform = create_transform(**resolve_data_config(pretrained_cfg=values))
    return by_torchvision(transform, picture, 2 if len(transform.transforms) == 4 else 1)


def by_open_clip(values, picture):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    size = tuple(values["size"]) if isinstance(values["size"], list) else values["size"]
    transform = image_transform_v2(PreprocessCfg(**{**values, "size": size}), is_train=False)
    return by_torchvision(transform, picture, len(transform.transforms) - 3)


def by_its_repository(values, picture):
    from torchvision import transforms

    edge, interpolation, statistics = CROPPED[values["name"], values["image"][0]]
    transform = transforms.Compose(
        [
            transforms.Resize(edge, interpolation=transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(values["image"][0]),
            transforms.ToTensor(),
            transforms.Normalize(**statistics),
        ]
    )
    return by_torchvision(transform, picture, 2)


def by_tensorflow(values, picture):
    import tensorflow as tf
    from big_vision.pp import ops_image

    if values["name"] == "big_vision":
        levels = ops_image.get_resize(values["image"])({"image": tf.constant(np.asarray(picture))})["image"]
        pixels = -1 + tf.cast(levels, tf.float32) / 255.0 * 2  # pp/ops_general.py, get_value_range(-1, 1)
        return {"levels": levels.numpy().transpose(2, 0, 1), "pixels": pixels.numpy().transpose(2, 0, 1)}
    floats = tf.image.resize(np.asarray(picture), values["image"])  # vit_jax/input_pipeline.py, get_data: two lines
    pixels = (floats - 127.5) / 127.5
    return {"floats": floats.numpy().transpose(2, 0, 1), "pixels": pixels.numpy().transpose(2, 0, 1)}


MAKERS = {
    "transformers": (by_transformers, TRANSFORMERS),
    "timm": (by_timm, TIMM),
    "open_clip": (by_open_clip, OPEN_CLIP),
    "policy": (by_its_repository, [{"name": name, "image": [side, side]} for name, side in CROPPED]),
    "policy of tensorflow": (by_tensorflow, [{"name": name, "image": list(size)} for name, size in TENSORFLOW]),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("torchvision", "open-clip", "big-vision"):
        parser.add_argument(f"--{name}", required=True, metavar="FOLDER")
    folders = parser.parse_args()
    version = with_torchvision(folders.torchvision)
    bare_package("open_clip", Path(folders.open_clip) / "src" / "open_clip")
    sys.path.append(folders.big_vision)
    arrays, cases = {}, []
    for kind, (maker, all_values) in MAKERS.items():
        for n, values in enumerate(all_values):
            for m, shape in enumerate(SHAPES):
                case = {"kind": kind, "values": values, "shape": shape, "steps": {}}
                results = maker(values, pictures.draw(*shape))
                for stage, result in results.items():
                    if stage.startswith("pixels") and m != (n + 1) % len(SHAPES):
                        continue  # the floats of one picture do
                    step = 17 if result.shape[1] > 150 else 1
                    step *= 3 if stage == "pixels" and len(results) > 1 and "pixels64" not in results else 1
                    case[stage], case["steps"][stage] = f"{kind}.{n}.{m}.{stage}", step
                    arrays[case[stage]] = result[:, ::step, ::step]
                cases.append(json.dumps(case))
    np.savez_compressed(OUT, cases=np.array(cases), versions=np.array(json.dumps(versions(version))), **arrays)
    print(f"{len(cases)} cases, {OUT.stat().st_size // 1000} kB, versions {versions(version)}")


def versions(torchvision):
    import tensorflow
    import timm
    import transformers

    found = {m.__name__: m.__version__ for m in (torch, transformers, timm, tensorflow, np, PIL)}
    return {"python": platform.python_version(), "torchvision": torchvision, **found}


if __name__ == "__main__":
    main()
