"""What surrounds the commands: file modes, names, sizes of pictures, what is kept after an interruption, what is shown."""

import io
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from test_embed import interrupt

import numpy_vit
from numpy_vit import Embedder, InputError
from numpy_vit.cli import common, main, running
from numpy_vit.explain.page import MAX_CHARACTERS, Kept, positions_in_words, preparation, what_fits
from numpy_vit.files.converted import Checkpoint, read_converted, write_converted
from numpy_vit.files.tensorfile import replacing, tensor_of
from numpy_vit.models import embedder, loading
from numpy_vit.pictures import draw
from numpy_vit.pictures.images import Preprocess, upright

from conftest import DATA, crooked_config

CLASSIFIER = DATA / "classifier"
PLAIN = dict(channels=3, resize="squash", size=(12, 20), resample="bilinear", crop=None, scale=1 / 255, mean=None, std=None)


def pictures(folder, count, size=(40, 24), suffix=".bmp"):
    """Pictures (width, height) of random pixels, which take as much room as any others."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(count)
    for n in range(count):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(folder / f"{n:02}{suffix}")
    return folder


def model_without_resizing(path, **changes):
    """A file of a seeded model that takes its pictures as they are."""
    config = crooked_config(**changes)
    tensors = {name: tensor_of(array) for name, array in numpy_vit.random_model(config).tensors.items()}
    preprocess = Preprocess(**{**PLAIN, "resize": "none", "size": None})
    write_converted(path, Checkpoint(config, tensors, preprocess, None, {"family": "random"}))
    return path


# Names and messages


def test_an_error_cannot_steer_the_terminal(run, tmp_path):
    (tmp_path / "\x1b[31mred\x07.png").write_text("no picture")
    status, _, error = run("predict", tmp_path / "\x1b[31mred\x07.png")
    assert status == 2 and "\\x1b[31mred\\x07.png" in error and "\x1b" not in error and "\x07" not in error
    assert error.count("\n") == 1


def test_suffixes_in_upper_case_are_pictures_too(run, tmp_path):
    pictures(tmp_path / "folder", 1, suffix=".PNG")
    pictures(tmp_path / "folder", 2, suffix=".Jpeg")
    (tmp_path / "folder" / "notes.TXT").write_text("")
    status, out, _ = run("predict", tmp_path / "folder", "--weights", CLASSIFIER, "--json")
    assert status == 0 and len(re.findall(r"00\.PNG|0[01]\.Jpeg", out)) >= 3 and "TXT" not in out


def test_time_left(monkeypatch):
    """20 of 60 pictures in 10 s leave 20 s; what an earlier run did says nothing of the pace."""
    clock = [0.0]
    monkeypatch.setattr(common.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    screen.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for begun, done, shown in (
        (0, 20, "20/60 pictures, 2 pictures/s, 20 s left"),
        (20, 40, "40/60 pictures, 2 pictures/s, 10 s left"),
    ):
        clock[0] = 0.0
        progress = common.Progress(60, begun)
        clock[0] = 10.0
        progress.show(done)
        assert screen.getvalue().split("\r\x1b[K")[-1] == shown


# Pictures of several sizes


def test_a_batch_is_of_one_size():
    sizes = [5, 5, 6, 6, 6, 5]
    found = running.in_batches((n, np.zeros((1, 3, size, 4))) for n, size in enumerate(sizes))
    assert [(paths, [x.shape[2] for x in several]) for paths, several in found] == [
        ([0, 1], [5, 5]), ([2, 3, 4], [6, 6, 6]), ([5], [5]),
    ]  # fmt: skip
    many = running.in_batches((n, np.zeros((1, 3, 5, 4))) for n in range(2 * common.BATCH + 1))
    assert [len(paths) for paths, _ in many] == [common.BATCH, common.BATCH, 1]


def test_pictures_of_other_sizes_are_the_users_matter(run, tmp_path):
    model = model_without_resizing(tmp_path / "model.safetensors")
    pictures(tmp_path / "a", 2, (20, 12))
    pictures(tmp_path / "b", 1, (24, 16))
    assert run("predict", tmp_path / "a", "--weights", model)[0] == 0
    status, _, error = run("predict", tmp_path / "a", tmp_path / "b", "--weights", model)
    assert status == 2 and "pixels are 16x24, the model takes 12x20" in error


# Files


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def test_a_file_has_the_mode_that_the_umask_says(tmp_path, umask):
    for _ in range(2):  # new, and replaced
        with replacing(tmp_path / "file") as file:
            file.write(b"content")
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    now = os.umask(umask)
    assert now == umask


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="no /dev/fd on this system")
def test_an_open_file_of_dev_is_written_to_and_not_replaced(tmp_path):
    """As `-o /dev/stdout > file` names it."""
    with open(tmp_path / "file", "w+b") as opened:
        with replacing(f"/dev/fd/{opened.fileno()}") as file:
            file.write(b"content")
        assert os.pread(opened.fileno(), 100, 0) == b"content"
        assert os.path.samestat(os.fstat(opened.fileno()), os.stat(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_no_weight_may_be_infinite(tmp_path, bad):
    config = crooked_config()
    for dtype in ("float32", "float64"):
        tensors = {name: tensor_of(array) for name, array in numpy_vit.random_model(config, dtype=dtype).tensors.items()}
        tensors["head.bias"].data[3] = bad
        with pytest.raises(InputError, match="tensor 'head.bias' has NaN or infinite values"):
            write_converted(tmp_path / "model.safetensors", Checkpoint(config, tensors, None, None, {}))
    assert os.listdir(tmp_path) == []


def test_pictures_and_model_have_as_many_channels(tmp_path):
    config = crooked_config(channels=1)
    tensors = {name: tensor_of(array) for name, array in numpy_vit.random_model(config).tensors.items()}
    for channels in (1, 3):
        checkpoint = Checkpoint(config, tensors, Preprocess(**{**PLAIN, "channels": channels}), None, {})
        if channels == 1:
            write_converted(tmp_path / "model.safetensors", checkpoint)
            assert read_converted(tmp_path / "model.safetensors").preprocess.channels == 1
        else:
            with pytest.raises(InputError, match="prepared with 3 channels, the model takes 1"):
                write_converted(tmp_path / "model.safetensors", checkpoint)


# What embed keeps


@pytest.fixture
def small_batches(monkeypatch):
    for module in ("common", "running", "embed", "partial"):
        monkeypatch.setattr(f"numpy_vit.cli.{module}.BATCH", 4)


def embed(folder, target):
    return main(["embed", str(folder), "-o", str(target), "--weights", str(CLASSIFIER)])


@pytest.mark.parametrize("count, kept", [(4, False), (5, True), (8, True)])
def test_from_the_second_batch_on_there_is_something_to_keep(count, kept, tmp_path, small_batches, monkeypatch):
    pictures(tmp_path / "folder", count)
    interrupt(monkeypatch, after=1 if kept else 0)
    assert embed(tmp_path / "folder", tmp_path / "o.npz") == 130
    assert (tmp_path / "o.npz.partial").exists() is kept


def test_a_picture_that_was_written_again_is_computed_again(tmp_path, small_batches, monkeypatch):
    """Though it has the same name and the same size."""
    folder = pictures(tmp_path / "folder", 9)
    interrupt(monkeypatch, after=2)
    assert embed(folder, tmp_path / "o.npz") == 130
    first = sorted(folder.iterdir())[0]
    before = first.stat()
    Image.new("RGB", (40, 24), "red").save(first)
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert first.stat().st_size == before.st_size
    assert embed(folder, tmp_path / "o.npz") == 0 and embed(folder, tmp_path / "fresh.npz") == 0
    assert (tmp_path / "o.npz").read_bytes() == (tmp_path / "fresh.npz").read_bytes()


def test_an_unreadable_picture_is_written_down_once(tmp_path, small_batches, monkeypatch):
    folder = pictures(tmp_path / "folder", 13)
    (folder / "00.bmp").write_text("no picture")
    interrupt(monkeypatch, after=2)
    assert embed(folder, tmp_path / "o.npz") == 130
    journal = (tmp_path / "o.npz.partial" / "journal").read_text()
    assert journal.count("\n") == 3 and journal.count("not a picture that Pillow can read") == 1


def test_after_an_error_nothing_more_is_read():
    read = []

    def slowly(path):
        time.sleep(0.01)
        read.append(path)

    reading = running.read_ahead(slowly, range(running.AHEAD + 1))
    next(reading)
    reading.close()
    assert len(read) <= running.READERS + 2


# Embedder


def test_a_preprocessor_is_kept_by_its_absolute_path_too(tmp_path, monkeypatch):
    monkeypatch.chdir(CLASSIFIER)
    embed = Embedder("model.safetensors", preprocessor="preprocessor_config.json")
    assert embed.preprocessor == str(CLASSIFIER / "preprocessor_config.json")
    monkeypatch.chdir(tmp_path)
    assert embed == Embedder(CLASSIFIER / "model.safetensors", preprocessor=CLASSIFIER / "preprocessor_config.json")


def test_who_asks_while_a_model_is_loading_waits_for_it(monkeypatch):
    loads = []
    model = numpy_vit.load(CLASSIFIER)

    def slowly(*words, **options):
        loads.append(words)
        time.sleep(0.05)
        return model

    embedder.loaded.cache_clear()
    monkeypatch.setattr(loading, "load", slowly)
    together = threading.Barrier(4)

    def ask(_):
        together.wait(5)
        return Embedder(CLASSIFIER).model

    with ThreadPoolExecutor(4) as pool:
        assert all(found is model for found in pool.map(ask, range(4)))
    embedder.loaded.cache_clear()
    assert len(loads) == 1


# Pictures


def test_an_oblong_image_is_covered_by_what_the_shorter_edge_gives():
    policy = Preprocess(**{**PLAIN, "resize": "shortest_edge", "size": 256, "crop": (224, 224)})
    for size, edge in (((224, 448), 512), ((448, 224), 512), ((112, 224), 256), ((225, 224), 258)):
        found = policy.at_image_size(size)
        assert found.size == edge and found.crop == size


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), True, "1"])
def test_what_scales_pictures_must_be_a_number(bad):
    for changes in (
        dict(scale=bad),
        dict(mean=(bad, 0.5, 0.5), std=(1.0, 1, 1)),
        dict(mean=(0.5, 0.5, 0.5), std=(1.0, bad, 1)),
    ):
        with pytest.raises(InputError, match="preprocess: (scale|mean|std) is"):
            Preprocess(**{**PLAIN, **changes})


def test_grey_with_premultiplied_alpha():
    """Mode "La" of Pillow: half covered black on white is middle grey."""
    picture = Image.new("LA", (2, 1), (0, 128))
    assert abs(np.asarray(upright(picture.convert("La"))).astype(int) - np.asarray(upright(picture))).max() <= 1
    assert abs(int(np.asarray(upright(picture.convert("La"), channels=1))[0, 0]) - 127) <= 1


def test_large_pictures_give_no_warning(tmp_path):
    """Pillow warns from 89 million pixels on; here from 15, which it refuses from twice as many on."""
    Image.new("L", (5, 4)).save(tmp_path / "large.png")
    code = (
        "import sys, numpy_vit.pictures.images as images; images.Image.MAX_IMAGE_PIXELS = 15;"
        "print(images.upright(sys.argv[1]).size)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "large.png")], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("(5, 4)\n", "")


# Drawings of oblong grids


OBLONG = dict(image=(12, 20), patch=4)  # 3 x 5 patches


def test_the_patch_that_asks_is_framed_where_it_is():
    config = crooked_config(**OBLONG)
    image, rng = Image.new("RGB", (20, 12)), np.random.default_rng(0)
    probs = rng.random((2, config.tokens, config.tokens))
    for query in (0, 1, 5, 6, 11, 15):
        framed = divmod(query - 1, 5) if query else None
        singles = [
            draw.attention_overlay(image, head[query], config, f"head {n}: at most {head[query, 1:].max():.2f}", query=framed)
            for n, head in enumerate(probs)
        ]
        assert np.array_equal(draw.head_gallery(image, probs, config, query), draw.in_rows(singles, 2)), query


def test_the_class_tokens_position_is_no_patchs():
    config = crooked_config(**OBLONG, distillation_token=True)
    positions = np.random.default_rng(1).normal(size=(config.tokens, 6))
    assert np.array_equal(draw.position_similarity(positions, config), draw.position_similarity(positions[2:], config))


# The page of explain


def test_what_fits_on_a_page():
    """Every weight takes one or two bytes and every row a scale of four, as base64: four characters for three bytes."""

    def characters(config, kept):
        rows = (config.depth * (config.heads if kept.heads else 1) + 1) * config.tokens
        return 4 * -(-rows * (config.tokens * kept.bytes + 4) // 3)

    order = [Kept(True, 2), Kept(True, 1), Kept(False, 2), Kept(False, 1)]
    found = set()
    for side in range(8, 200):
        config = crooked_config(image=(4 * side, 4 * side), width=12, heads=6, depth=2)
        fitting = [kept for kept in order if characters(config, kept) <= MAX_CHARACTERS]
        if abs(characters(config, order[0]) / MAX_CHARACTERS - 1) < 1e-3:
            continue
        if not fitting:
            with pytest.raises(InputError, match="too many for a page"):
                what_fits(config)
            break
        found.add(what_fits(config))
        assert what_fits(config) == fitting[0], side
    assert found == set(order)


def test_whose_positions_are_said():
    def said(**changes):
        return positions_in_words(crooked_config(**changes), False)[0][0]

    assert said() == "To every token the learned vector of its position is added."
    assert said(registers=2) == "To every patch and class token the learned vector of its position is added."
    assert said(positions="patches") == "To every patch token the learned vector of its position is added."


def test_zeros_are_said_where_a_picture_is_smaller_than_the_crop():
    image = Image.new("RGB", (30, 30))

    def said(crop):
        policy = Preprocess(**{**PLAIN, "size": (20, 30), "crop": crop})
        return next((text for text, _ in preparation(policy, image, image, image) if "middle" in text), None)

    assert said((20, 30)) is None
    assert said((20, 31)) == "The middle 20 x 31 is taken, with zeros around."
    assert said((21, 30)) == "The middle 21 x 30 is taken, with zeros around."
    assert said((19, 30)) == "The middle 19 x 30 is taken."


@pytest.mark.parametrize("seconds, words", [
    (0.4, "0 s"), (99.4, "99 s"), (99.99, "100 s"), (100, "2 min"), (149, "2 min"), (151, "3 min"), (99 * 60, "99 min"),
    (100 * 60, "1 h 40 min"), (185 * 60, "3 h 05 min"),
])  # fmt: skip
def test_a_duration_in_one_or_two_units(seconds, words):
    assert common.duration(seconds) == words


@pytest.mark.parametrize("rate, words", [(9.94, "9.9 pictures/s"), (10, "10 pictures/s"), (0.314, "0.31 pictures/s")])
def test_a_speed_in_two_digits(rate, words):
    assert common.speed(rate) == words


def test_a_complaint_stands_on_a_line_of_its_own(tmp_path, small_batches, monkeypatch):
    """On a terminal nothing of the line that shows progress is left before it."""
    folder = pictures(tmp_path / "folder", 13)
    (folder / "07.bmp").write_text("no picture")
    monkeypatch.setattr(sys, "stderr", screen := io.StringIO())
    screen.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    assert embed(folder, tmp_path / "o.npz") == 2
    before, said, _ = screen.getvalue().partition(str(folder / "07.bmp"))
    assert said and "pictures" in before
    assert before.rpartition("\n")[2].rpartition("\r\x1b[K")[2] in ("", "numpy-vit: error: "), before[-60:]
