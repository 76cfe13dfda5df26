"""Pictures: what transformers' PIL processors made of the same ones (stored), and every kind of file a user has."""

import dataclasses
import io
import os
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps, features

from numpy_vit import InputError, Preprocess
from numpy_vit.cli import main
from numpy_vit.convert.preprocessing import read_preprocessor
from numpy_vit.pictures.images import upright
from numpy_vit.pictures.overheard import complaints

import pictures
from conftest import DATA

SQUASH = Preprocess(
    channels=3, resize="squash", size=(24, 40), resample="bilinear", crop=None, scale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3
)


@pytest.mark.parametrize("policy", pictures.POLICIES)
@pytest.mark.parametrize("shape", pictures.SHAPES)
def test_equals_transformers(policy, shape):
    stored = np.load(DATA / "preprocessing.npz")
    options = {"image_processor_type": "ViTImageProcessor", **pictures.POLICIES[policy]}
    preprocess = read_preprocessor(options, 3, [])
    picture = pictures.draw(*shape)
    key = f"{policy}.{shape[0]}x{shape[1]}"
    levels = preprocess.resize_and_crop(picture).transpose(2, 0, 1).astype(int) - stored[f"{key}.uint8"]
    pixels = preprocess(picture)
    assert pixels.dtype == np.float32 and pixels.shape[0] == 1
    if int(PIL.__version__.split(".")[0]) >= 13:
        assert not levels.any()
        assert np.max(np.abs(pixels[0] - stored[f"{key}.pixels"])) < 1e-6
    else:  # before 13, Pillow resized the two directions in another order and rounded between
        assert np.abs(levels).max() <= (1 if shape == (90, 37) else 0)


def save(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_formats_and_modes(tmp_path):
    rgb = pictures.draw(30, 50)
    grey = rgb.convert("L")
    as_rgb = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    assert np.array_equal(upright(save(tmp_path, rgb, "a.png")), rgb)
    assert np.array_equal(upright(save(tmp_path, rgb, "a.webp", lossless=True)), rgb)
    assert np.array_equal(upright(save(tmp_path, rgb, "a.bmp")), rgb)
    assert (
        np.abs(np.asarray(upright(save(tmp_path, rgb, "a.jpg", quality=95, subsampling=0)), int) - np.asarray(rgb)).mean() < 4
    )
    assert np.array_equal(upright(save(tmp_path, grey, "grey.png")), as_rgb)
    assert np.array_equal(upright(rgb, channels=1), grey)
    palette = rgb.quantize(16)
    assert np.array_equal(upright(save(tmp_path, palette, "palette.png")), palette.convert("RGB"))
    bits = rgb.convert("1")
    assert np.array_equal(upright(save(tmp_path, bits, "bits.png")), bits.convert("RGB"))
    cmyk = rgb.convert("CMYK")
    assert upright(save(tmp_path, cmyk, "cmyk.tif")).mode == "RGB"
    assert np.array_equal(upright(np.asarray(rgb)), rgb)
    assert np.array_equal(upright(np.asarray(grey)), as_rgb)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    path = save(tmp_path, Image.fromarray(values), "deep.png")
    assert np.array_equal(np.asarray(upright(path))[0, :, 0], [0, 1, 128, 255])
    assert np.array_equal(np.asarray(upright(Image.fromarray(values.astype(np.int32))))[0, :, 0], [0, 1, 128, 255])


def test_transparent_becomes_white(tmp_path):
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    expected = [[200, 0, 0], [255, 255, 255]]
    assert np.array_equal(np.asarray(upright(save(tmp_path, rgba, "a.png")))[0], expected)
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 200, 0, 0])
    palette.putdata([1, 0])
    assert np.array_equal(np.asarray(upright(save(tmp_path, palette, "p.png", transparency=0)))[0], expected)
    grey_alpha = Image.new("LA", (1, 1), (0, 0))
    assert np.array_equal(np.asarray(upright(grey_alpha))[0, 0], [255, 255, 255])


def test_exif_rotation(tmp_path):
    rgb = pictures.draw(30, 50)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    turned = upright(save(tmp_path, rgb, "turned.png", exif=exif))
    assert np.array_equal(turned, rgb.transpose(Image.Transpose.ROTATE_270))


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def broken_pictures(tmp_path):
    """Files that are no pictures, written to tmp_path: name -> what the error must say."""
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png, jpg = io.BytesIO(), io.BytesIO()
    pictures.draw(60, 60).save(png, "PNG")
    pictures.draw(60, 60).save(jpg, "JPEG")
    files = {
        "empty.png": (b"", "the file is empty"),
        "text.png": (b"this is no picture\n" * 20, "not a picture that Pillow can read"),
        "cut.png": (png.getvalue()[:600], "a damaged or unsupported picture"),
        "cut.jpg": (jpg.getvalue()[:900], "a damaged or unsupported picture"),
        "header.jpg": (jpg.getvalue()[:20], "picture"),
        # A PNG header that claims 60,000 x 60,000 pixels.
        "bomb.png": (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", size) + png_chunk(b"IDAT", zlib.compress(b"\0")), "too large"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    return {name: message for name, (_, message) in files.items()}


def test_broken_pictures_name_the_file(tmp_path):
    for name, message in broken_pictures(tmp_path).items():
        with pytest.raises(InputError, match=message) as error:
            SQUASH(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    for path, message in ((tmp_path / "absent.png", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=message):
            SQUASH(path)


def test_what_is_no_picture():
    for what in (3, None, [3], np.zeros((4, 4)), np.zeros((4,), np.uint8)):
        with pytest.raises(InputError):
            SQUASH(what)
    with pytest.raises(InputError, match="floating-point"):
        SQUASH(Image.fromarray(np.zeros((4, 4), np.float32)))
    with pytest.raises(InputError, match="no picture"):
        SQUASH([])


def test_extreme_proportions():
    edge = dataclasses.replace(SQUASH, resize="shortest_edge", size=224, crop=(24, 40))
    assert SQUASH(Image.new("RGB", (1, 1))).shape == (1, 3, 24, 40)
    assert SQUASH(Image.new("RGB", (3000, 1))).shape == (1, 3, 24, 40)
    with pytest.raises(InputError, match="too narrow"):
        edge(Image.new("RGB", (3000, 1)))


def test_a_list_is_a_batch():
    images = [pictures.draw(30, 50), pictures.draw(20, 20)]
    assert np.array_equal(SQUASH(images)[1], SQUASH(images[1])[0])
    plain = dataclasses.replace(SQUASH, resize="none", size=None)
    with pytest.raises(InputError, match="different sizes"):
        plain(images)


def test_another_size_keeps_the_policy():
    edge = dataclasses.replace(SQUASH, resize="shortest_edge", size=256, crop=(224, 224))
    assert edge.at_image_size((448, 448)).size == 512 and edge.at_image_size((448, 448)).crop == (448, 448)
    assert SQUASH.at_image_size((32, 64)).size == (32, 64)
    assert edge.at_image_size((64, 96))(pictures.draw(50, 50)).shape == (1, 3, 64, 96)


QUIET = """
import sys, warnings
from concurrent.futures import ThreadPoolExecutor
from numpy_vit import load
from numpy_vit.pictures.images import upright
from PIL import Image, ImageOps

model = load()
before = list(warnings.filters)
with ThreadPoolExecutor(4) as pool:
    pixels = list(pool.map(model.preprocess, sys.argv[1:] * 20))
assert warnings.filters == before
Image.MAX_IMAGE_PIXELS = 1000  # and so it warns of 30 x 50 pixels
upright(sys.argv[1])
warnings.warn("other warnings are shown", UserWarning)
"""


def test_threads_leave_the_warnings_of_the_process_alone(tmp_path):
    """Four at a time, of damaged EXIF data and large pictures: nothing is said of Pillow's, and all is said of others'."""
    damaged = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"
    paths = [save(tmp_path, pictures.draw(30, 50), f"{n}.jpg", exif=damaged) for n in range(4)]
    with pytest.warns(UserWarning):  # which says what, by its version
        ImageOps.exif_transpose(Image.open(paths[0]))
    done = subprocess.run([sys.executable, "-c", QUIET, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "other warnings are shown" in done.stderr and done.stderr.count("Warning") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 3},
        {"size": (0, 3)},
        {"resample": "bilinera"},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": None},
        {"crop": 3},
        {"scale": 0},
    ],
)
def test_senseless_policies_are_refused(changes):
    with pytest.raises(InputError, match="preprocess: "):
        dataclasses.replace(SQUASH, **changes)


def damaged_fax(compression):
    """A picture in black and white as fax codes, and the same with eight of its bytes gone."""
    file = io.BytesIO()
    dots = np.random.default_rng(0).integers(0, 2, (90, 140)).astype(bool)
    Image.fromarray(dots).save(file, "TIFF", compression=compression)
    content = bytearray(file.getvalue())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(8)
    return dots, file.getvalue(), bytes(content)


@pytest.mark.skipif(not features.check("libtiff"), reason="this Pillow has no libtiff")
@pytest.mark.parametrize("compression", ["group4", "tiff_ccitt"])  # of group3, a bad row is a warning, which Pillow silences
def test_what_libtiff_decodes_in_part_is_refused(compression, tmp_path, capfd):
    """libtiff goes on after a bad code, and says so on stderr alone."""
    dots, whole, damaged = damaged_fax(compression)
    (tmp_path / "whole.tif").write_bytes(whole)
    (tmp_path / "a.tif").write_bytes(damaged)
    assert np.array_equal(np.asarray(upright(tmp_path / "whole.tif"))[..., 0] == 255, dots)
    with Image.open(tmp_path / "a.tif") as opened:
        for given in (tmp_path / "a.tif", opened):
            with pytest.raises(InputError, match=r"a damaged picture \(Fax\w+: .*ad code word at line \d+"):
                upright(given)
    assert capfd.readouterr().err == ""
    assert main(["predict", str(tmp_path / "whole.tif"), str(tmp_path / "a.tif")]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") <= 2 and "a.tif: a damaged picture" in err


def test_stderr_belongs_to_everybody(capfd):
    """What others write there meanwhile comes through; more than a pipe holds blocks nobody; threads take turns."""
    with complaints() as heard:
        os.write(2, b"Fax3Decode1D: Bad code word.\nnumpy-vit: note: mine.\n\r3/20 pictures")
    assert heard == ["Fax3Decode1D: Bad code word."] and capfd.readouterr().err == "numpy-vit: note: mine.\n\r3/20 pictures"
    with complaints() as heard:
        os.write(2, b"Fax3Decode1D: Bad code word.\n" * 100_000)
    assert 100 < len(heard) < 10_000 and set(heard[:-1]) == {"Fax3Decode1D: Bad code word."}
    results = {}

    def say(n):
        with complaints() as heard:
            os.write(2, b"Line: is %d.\n" % n)
        results[n] = heard

    threads = [threading.Thread(target=say, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [f"Line: is {n}."] for n in range(20)}
    with pytest.raises(KeyError), complaints():
        raise KeyError
    print("there", file=sys.__stderr__, flush=True)
    os.write(2, b"still there\n")
    assert capfd.readouterr().err.endswith("still there\n")
