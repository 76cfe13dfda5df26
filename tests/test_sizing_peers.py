"""Pictures of any size against transformers' own image processors: `pytest -m peers` (extra `peers`).

Plans are compared with what the processors' functions say of 300 random sizes each; pixels on real pictures of twenty shapes.
Three processors (Kimi's, LFM2-VL's and Llama 4's) exist for torchvision alone. Their own code runs here too, on tensors, with
Pillow resizing in torchvision's place: all but the filter is theirs.
"""

import importlib
import sys
import types

import numpy as np
import pytest
from PIL import Image

from numpy_vit import InputError, Preprocess
from numpy_vit.convert.preprocessing import ANY_SIZE, read_preprocessor

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

# name -> (transformers' class, what a preprocessor_config.json says beyond it, the text-and-picture processor)
CASES = {
    "Qwen2-VL, the class's": ("Qwen2VL", {}),
    "Qwen2.5-VL": ("Qwen2VL", {"min_pixels": 3136, "max_pixels": 12845056}),
    "Qwen3-VL": (
        "Qwen2VL",
        {
            "size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16, "temporal_patch_size": 2,
            "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        },
    ),
    "VideoLLaMA 3": ("VideoLlama3", {"merge_size": 2}),
    "PaddleOCR-VL": (
        "PaddleOCRVL", {"min_pixels": 147384, "max_pixels": 2822400, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ),
    "GLM-4V": ("Glm4v", {}),
    "GLM-4.6V": ("Glm46V", {"size": {"shortest_edge": 12544, "longest_edge": 1000000}}),
    "Pixtral": ("Pixtral", {}),
    "Mistral 3": ("Pixtral", {"size": {"longest_edge": 1540}, "patch_size": 28}),
    "SigLIP 2": ("Siglip2", {}),
    "SigLIP 2, 1024": ("Siglip2", {"max_num_patches": 1024, "patch_size": 14}),
    "Gemma 4": ("Gemma4", {}),
    "Gemma 4, 70": ("Gemma4", {"max_soft_tokens": 70}),
    "Kimi": ("Kimi_K25", {}),
    "Kimi, small": ("Kimi_K25", {"max_patches": 900, "size": {"max_height": 40, "max_width": 40}}),
    "Idefics 2": ("Idefics2", {}),
    "Idefics 2, split": ("Idefics2", {"do_image_splitting": True}),
    "Idefics 3": ("Idefics3", {}),
    "Idefics 3, not split": ("Idefics3", {"do_image_splitting": False}),
    "SmolVLM": ("SmolVLM", {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}),
    "SmolVLM2": ("SmolVLM", {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}}),
    "LFM2-VL": ("Lfm2Vl", {}),
    "LFM2-VL, not split": ("Lfm2Vl", {"do_image_splitting": False, "max_image_tokens": 128}),
    "LFM2-VL, no thumbnail": ("Lfm2Vl", {"use_thumbnail": False, "max_tiles": 6, "max_pixels_tolerance": 1.5}),
    "InternVL": ("GotOcr2", {"size": {"height": 448, "width": 448}, "crop_to_patches": True}),
    "InternVL, 3 to 7": ("GotOcr2", {"min_patches": 3, "max_patches": 7, "crop_to_patches": True}),
    "GOT-OCR 2": ("GotOcr2", {}),
    "Llama 4": ("Llama4", {}),
    "Llama 4, largest": ("Llama4", {"resize_to_max_canvas": True, "max_patches": 9}),
    "Llama 3.2 Vision": ("Mllama", {"size": {"height": 560, "width": 560}}),
    "Llama 3.2 Vision, 6": ("Mllama", {"max_image_tiles": 6}),
    "Gemma 3": ("Gemma3", {"size": {"height": 896, "width": 896}}),
    "Gemma 3, pan and scan": (
        "Gemma3",
        {
            "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 256, "pan_and_scan_max_num_crops": 4,
            "pan_and_scan_min_ratio_to_activate": 1.2, "size": {"height": 896, "width": 896},
        },
    ),
}  # fmt: skip
TENSORS = {"Kimi_K25": "kimi_k25", "Lfm2Vl": "lfm2_vl", "Llama4": "llama4"}  # only for torchvision


def test_every_class_is_compared():
    assert {kind for kind, _ in CASES.values()} == set(ANY_SIZE)


@pytest.fixture
def their_processor(monkeypatch):
    """(class, its options, "sizes" or "pixels") -> transformers' processor on Pillow, and the list of sizes it resizes to."""
    resized = []

    def make(kind, options, of):
        import transformers
        from transformers import image_processing_backends as backends

        if kind not in TENSORS:
            backend, found = backends.PilBackend, getattr(transformers, f"{kind}ImageProcessorPil")
        else:
            backend, found = backends.TorchvisionBackend, of_tensors(monkeypatch, backends, kind)
        own = {"pixels": pillow_resize_of_tensors, "sizes": blank_tensors}[of] if kind in TENSORS else backend.resize

        def resize(self, image, size, *args, **keywords):
            resized.append((size.height, size.width))
            return own(self, image, size, *args, **keywords)

        monkeypatch.setattr(backend, "resize", resize)
        return found(**options), resized

    return make


def of_tensors(monkeypatch, backends, kind):
    """A class that transformers has for torchvision only, with the few of its functions that it calls made here."""
    import torch

    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.v2", "torchvision.transforms.v2.functional"):
        module = types.ModuleType(name)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    functional = sys.modules["torchvision.transforms.v2.functional"]
    functional.pad = lambda image, padding, fill=0, padding_mode="constant": torch.nn.functional.pad(
        image, (padding[0], padding[2], padding[1], padding[3])
    )
    functional.normalize = lambda image, mean, std, inplace=False: (
        (image - torch.as_tensor(mean, dtype=image.dtype)[:, None, None])
        / torch.as_tensor(std, dtype=image.dtype)[:, None, None]
    )
    functional.InterpolationMode = types.SimpleNamespace(BILINEAR=2, BICUBIC=3, LANCZOS=1)
    sys.modules["torchvision.transforms.v2"].functional = functional
    monkeypatch.setattr(backends, "tvF", functional, raising=False)
    name = f"transformers.models.{TENSORS[kind]}.image_processing_{TENSORS[kind]}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.setitem(sys.modules, name, module)  # forgotten at the end, with what stands in for torchvision
    return getattr(module, f"{kind}ImageProcessor")


def blank_tensors(self, image, size, resample=None, **_):
    return image[..., :1, :1].expand(*image.shape[:-2], size.height, size.width)


def pillow_resize_of_tensors(self, image, size, resample=None, **_):
    import torch

    pictures = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in image.reshape(-1, *image.shape[-3:])]
    done = [np.asarray(one.resize((size.width, size.height), int(resample))) for one in pictures]
    return torch.tensor(np.stack(done)).permute(0, 3, 1, 2).reshape(*image.shape[:-2], size.height, size.width)


def ours_of(kind, options) -> Preprocess:
    found = read_preprocessor({"image_processor_type": f"{kind}ImageProcessorFast", **options}, 3, [])
    assert found is not None
    return found


# Sizes


def sizes(seed):
    """300 (height, width): of all magnitudes, and, half of them, where ties and roundings are."""
    generator = np.random.default_rng(seed)
    for n in range(300):
        if n % 2:
            yield tuple(int(side) for side in np.exp(generator.uniform(0, np.log(6000), 2)))
        else:
            unit = int(generator.choice([14, 16, 28, 32, 48, 336, 364, 384, 448, 512, 560]))
            yield tuple(
                int(side) for side in generator.integers(1, max(2, 5000 // unit), 2) * unit + generator.choice([0, 0, 1, -1])
            )


def blank(height, width):
    """A picture of zeros, (3, Y, X), that takes no memory."""
    return np.broadcast_to(np.zeros((), np.uint8), (3, height, width))


def own_plan(kind, processor, module, height, width):
    """What upstream's functions say: sizes it resizes to, tiles (rows, columns), sizes of the pictures."""
    p, say = processor, lambda *size: ([tuple(size)], (1, 1), [tuple(size)])
    if kind in ("Qwen2VL", "VideoLlama3", "PaddleOCRVL"):
        size = p.size
        return say(*module.smart_resize(
            height, width, p.patch_size * p.merge_size, size.shortest_edge, size.longest_edge
        ))  # fmt: skip
    if kind in ("Glm4v", "Glm46V"):
        return say(*module.smart_resize(
            p.temporal_patch_size, height, width, p.temporal_patch_size, p.patch_size * p.merge_size,
            p.size.shortest_edge, p.size.longest_edge,
        ))  # fmt: skip
    if kind == "Pixtral":
        patch = p.patch_size if isinstance(p.patch_size, int) else p.patch_size["height"]
        return say(*module.get_resize_output_image_size(blank(height, width), p.size.longest_edge, patch))
    if kind == "Siglip2":
        return say(*module.get_image_size_for_max_num_patches(height, width, p.patch_size, p.max_num_patches))
    if kind == "Gemma4":
        most = p.max_soft_tokens * p.pooling_kernel_size**2
        return say(*module.get_aspect_ratio_preserving_size(height, width, p.patch_size, most, p.pooling_kernel_size))
    if kind == "Kimi_K25":
        resized, padded = module.navit_resize(
            height, width, p.patch_size, p.merge_size, p.max_patches, p.size.max_height
        )  # fmt: skip
        return [resized], (1, 1), [padded]
    raise NotImplementedError(kind)


def run_plan(kind, processor, resized, height, width):
    """The same, where the processor's own methods must be run, on a blank picture."""
    p, image = processor, blank(height, width)
    del resized[:]
    if kind == "Idefics2":
        parts = p.split_images(image) if p.do_image_splitting else [image]
        pictures = [p.resize(part, p.size, p.resample).shape[1:] for part in parts]
        return [pictures[-1]], (2, 2) if len(parts) > 1 else (1, 1), pictures
    if kind in ("Idefics3", "SmolVLM"):
        image = p.resize(image, p.size, p.resample)
        tile = p.max_image_size["longest_edge"]
        if not p.do_image_splitting:
            p.resize(image, type(p.size)(height=tile, width=tile), resample=p.resample)
            return resized[:2], (1, 1), [(tile, tile)]
        image = p.resize_for_vision_encoder(image, tile, resample=p.resample)
        frames, rows, columns = p.split_images(image, p.max_image_size, resample=p.resample)
        return resized[:2], (rows or 1, columns or 1), [frame.shape[1:] for frame in frames]
    if kind == "GotOcr2" and p.crop_to_patches:
        parts = p.crop_image_to_patches(image, p.min_patches, p.max_patches, patch_size=p.size, resample=p.resample)
        (Y, X), side = resized[0], p.size.height
        return resized[:1], (Y // side, X // side), [part.shape[1:] for part in parts]
    if kind == "Mllama":
        image, grid = p.resize(image, p.size, p.max_image_tiles, p.resample)
        side = p.size.height
        return [image.shape[1:]], tuple(int(n) for n in grid), [(side, side)] * (grid[0] * grid[1])
    if kind == "Gemma3" and p.do_pan_and_scan:
        names = ("min_crop_size", "max_num_crops", "min_ratio_to_activate")
        crops = p.pan_and_scan(image, *(getattr(p, f"pan_and_scan_{name}") for name in names))
        grid = (1, max(len(crops), 1)) if width >= height else (max(len(crops), 1), 1)
        side = p.size.height
        return [(side, side)], grid, [(side, side)] * (1 + len(crops))
    if kind in ("GotOcr2", "Gemma3"):
        return [(p.size.height, p.size.width)], (1, 1), [(p.size.height, p.size.width)]
    raise NotImplementedError(kind)


def run_tensors(kind, processor, resized, height, width):
    """The same of the processors on tensors: all of `preprocess`, without the arithmetic."""
    import torch

    p, picture = processor, torch.zeros((3, 1, 1), dtype=torch.uint8).expand(3, height, width)
    del resized[:]
    if kind == "Llama4":
        found = p(picture, do_convert_rgb=False, do_rescale=False, do_normalize=False, return_tensors="pt")
        return resized[:1], tuple(found["aspect_ratios"][0].tolist()), [tuple(one.shape[1:]) for one in found["pixel_values"]]
    names = (
        "downsample_factor", "min_tiles", "max_tiles", "use_thumbnail", "min_image_tokens", "max_image_tokens",
        "encoder_patch_size", "tile_size", "max_pixels_tolerance", "resample",
    )  # fmt: skip
    numbers = {name: getattr(p, name) for name in names} | ({} if p.do_image_splitting else {"min_tiles": 1, "max_tiles": 1})
    images, rows, columns, _ = p.resize_and_split(picture[None], **numbers)  # what its _preprocess does with them
    return resized[:1], (rows[0], columns[0]), [tuple(one.shape[-2:]) for one in images[0]]


@pytest.mark.parametrize("name", CASES)
def test_plans_of_random_sizes(name, their_processor, monkeypatch):
    kind, options = CASES[name]
    ours = ours_of(kind, options)
    processor, resized = their_processor(kind, options, "sizes")
    module = sys.modules[type(processor).__module__]
    if kind in ("Idefics2", "Idefics3", "SmolVLM", "GotOcr2", "Mllama", "Gemma3"):  # sizes alone
        from transformers import image_processing_backends as backends

        monkeypatch.setattr(backends, "np_resize", lambda image, size, **_: checked_blank(image, *size))
    refused = 0
    for height, width in sizes(len(name)):
        try:
            if kind in ("Llama4", "Lfm2Vl"):
                theirs = run_tensors(kind, processor, resized, height, width)
            elif kind in ("Idefics2", "Idefics3", "SmolVLM", "GotOcr2", "Mllama", "Gemma3"):
                theirs = run_plan(kind, processor, resized, height, width)
            else:
                theirs = own_plan(kind, processor, module, height, width)
            if any(0 in size for size in theirs[2]):
                raise ValueError("no pixels")
        except (ValueError, ZeroDivisionError):
            refused += 1
            with pytest.raises(InputError):
                ours.sizing.plan(height, width)
            continue
        if ours.sizing is None:
            assert theirs[2] == [ours.size], (height, width)
            continue
        plan = ours.sizing.plan(height, width)
        first = [] if plan.first_resized is None else [plan.first_resized]
        found = ([*first, plan.resized], plan.tiles, list(plan.pictures))
        assert found == tuple(theirs), (height, width)
    assert refused < 100


def checked_blank(image, height, width):
    if 0 in (*image.shape, height, width):
        raise ValueError("height and width must be > 0")  # as Pillow has it
    return blank(height, width)


# Pixels

SHAPES = (
    (480, 640), (640, 427), (333, 500), (500, 333), (224, 224), (225, 224), (100, 700), (700, 100), (31, 57), (57, 31),
    (27, 90), (90, 27), (13, 17), (448, 896), (897, 449), (560, 561), (336, 1008), (1000, 1003), (59, 640), (1081, 300),
)  # fmt: skip


@pytest.fixture(scope="module")
def real_pictures(foreign):
    """Twenty pictures of awkward shapes, of real ones."""
    names = ("coco_000000039769.png", "vitcpp_tench.jpg", "vitcpp_magpie.jpeg", "vitexplain_both.png")
    files = [Image.open(foreign / "images" / name).convert("RGB") for name in names]
    found = []
    for n, (height, width) in enumerate(SHAPES):
        picture = files[n % len(files)]
        if height <= picture.height and width <= picture.width:
            found.append(picture.crop((n, n, n + width, n + height)) if n % 3 else picture.crop((0, 0, width, height)))
        else:
            found.append(picture.resize((width, height), Image.Resampling.HAMMING))
    return found


def put_together(kind, processor, found):
    """transformers' outputs -> (C, Y, X) of each picture, in order."""
    p, values = processor, np.asarray(found["pixel_values"])
    if kind in ("Qwen2VL", "VideoLlama3", "Glm4v", "Glm46V"):
        (_, rows, columns), side, patch, frames = found["image_grid_thw"][0], p.merge_size, p.patch_size, p.temporal_patch_size
        blocks = values.reshape(rows // side, columns // side, side, side, 3, frames, patch, patch)
        assert np.array_equal(blocks[:, :, :, :, :, :1].repeat(frames, axis=5), blocks)
        return [blocks[..., 0, :, :].transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)]
    if kind in ("PaddleOCRVL", "Kimi_K25"):
        (_, rows, columns), patch = np.asarray(found["image_grid_thw"]).reshape(-1, 3)[0], p.patch_size
        blocks = values.reshape(rows, columns, 3, patch, patch)
        return [blocks.transpose(2, 0, 3, 1, 4).reshape(3, rows * patch, columns * patch)]
    if kind in ("Siglip2", "Gemma4", "Lfm2Vl"):
        patch = p.encoder_patch_size if kind == "Lfm2Vl" else p.patch_size
        if kind == "Gemma4":
            shapes = [np.asarray(found["image_position_ids"])[0].max(axis=0)[::-1] + 1]
        else:
            shapes = np.asarray(found["spatial_shapes"])
        return [
            of_picture[: rows * columns].reshape(rows, columns, patch, patch, 3).transpose(4, 0, 2, 1, 3)
            .reshape(3, rows * patch, columns * patch)
            for of_picture, (rows, columns) in zip(values, shapes, strict=True)
        ]  # fmt: skip
    if kind in ("Idefics2", "Idefics3", "SmolVLM"):
        masks = np.asarray(found["pixel_attention_mask"])[0]
        return [one[:, : mask[:, 0].sum(), : mask[0].sum()] for one, mask in zip(values[0], masks, strict=True)]
    if kind == "Mllama":
        return list(values[0, 0, : found["num_tiles"][0][0]])
    return list(values)


@pytest.mark.parametrize("name", [name for name in CASES if name != "SmolVLM"])  # SmolVLM2's with tiles twice as large: slow
def test_pixels_of_real_pictures(name, their_processor, real_pictures):
    """The 8-bit stage is equal; what comes of it within 1e-6 (transformers computes in float32, Llama 4's in bfloat16)."""
    kind, options = CASES[name]
    ours = ours_of(kind, options)
    bare, _ = their_processor(kind, {**options, "do_rescale": False, "do_normalize": False}, "pixels")
    whole, _ = their_processor(kind, options, "pixels")
    worst = 0.0
    for picture in real_pictures:
        tensors = "pt" if kind in TENSORS else "np"
        theirs = put_together(kind, bare, numbers(bare(picture, return_tensors=tensors)))
        levels = ours.levels(picture)
        assert [one.shape for one in levels] == [(*one.shape[1:], 3) for one in theirs], picture.size
        for one, their in zip(levels, theirs, strict=True):
            assert one.dtype == np.uint8 and np.array_equal(one.transpose(2, 0, 1), their), picture.size
        theirs = put_together(kind, whole, numbers(whole(picture, return_tensors=tensors)))
        pixels = ours.each(picture, "float64")
        worst = max(worst, *(np.abs(one - their).max() for one, their in zip(pixels, theirs, strict=True)))
    assert worst <= (2**-8 if kind == "Llama4" else 1e-6)


def numbers(found):
    """A processor's outputs as NumPy arrays, of bfloat16 as float32."""
    return {
        key: value.float().numpy() if str(getattr(value, "dtype", "")) == "torch.bfloat16" else value
        for key, value in found.items()
    }
