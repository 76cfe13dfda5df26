"""What is shown, to the pixel and to the word: drawings, the SVG of a trace, the page's sentences, messages, progress."""

import itertools
import signal
import threading
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageChops

import numpy_vit
from numpy_vit import InputError, errors
from numpy_vit.arithmetic import parallel
from numpy_vit.cli import main, terminated_politely
from numpy_vit.cli.golden import diagnosed
from numpy_vit.cli.trace import selected
from numpy_vit.explain.page import Kept, packed, pooling_in_words, positions_in_words, preparation, special_tokens
from numpy_vit.files.arrays import array_of
from numpy_vit.golden import report
from numpy_vit.golden.checking import Result
from numpy_vit.golden.recording import record
from numpy_vit.pictures import draw, images
from numpy_vit.pictures.images import Preprocess
from numpy_vit.tracing import render
from numpy_vit.writing.text import fitted

from conftest import crooked_config, crooked_pixels


def plain(width, height, colour="red"):
    return Image.new("RGB", (width, height), colour)


def pasted(size, *places):
    """White paper of a size, with pictures at their left upper corners."""
    sheet = Image.new("RGB", size, "white")
    for image, corner in places:
        sheet.paste(image, corner)
    return sheet


def same(a, b):
    return a.size == b.size and ImageChops.difference(a.convert("RGB"), b.convert("RGB")).getbbox() is None


# Drawings


def test_pictures_in_rows_and_beside_each_other():
    """A gap all around every picture, and no row more than is needed."""
    red, green, blue = (plain(10, 6, colour) for colour in ("red", "green", "blue"))
    two = pasted((28, 20), (red, (2, 2)), (green, (14, 2)), (blue, (2, 10)))
    assert same(draw.in_rows([red, green, blue], 2, gap=2), pasted((26, 18), (two.crop((0, 0, 26, 18)), (0, 0))))
    assert draw.in_rows([red, green], 2, gap=2).size == (26, 10) and draw.in_rows([red] * 5, 2).size == (38, 42)
    tall = plain(4, 9, "blue")
    assert same(draw.beside([red, tall], gap=3), pasted((23, 15), (red, (3, 3)), (tall, (16, 3))))
    assert draw.beside([red]).size == (34, 30)


@pytest.mark.parametrize("width, size", [(10, 12), (143, 12), (156, 13), (240, 20), (600, 20)])
def test_a_label_stands_above_the_picture(width, size):
    labelled = draw.labelled(plain(width, 30), "block")
    assert labelled.height == 30 + size + 8 and labelled.width >= width
    assert same(labelled.crop((0, size + 8, width, size + 38)), plain(width, 30))
    above = ImageChops.difference(labelled, plain(*labelled.size, "white")).crop((0, 0, labelled.width, size + 8)).getbbox()
    assert above[0] >= 4 and above[1] >= 2 and above[2] <= labelled.width - 3
    if draw.font(size).getlength("block") + 8 < width:
        assert labelled.width == width
    else:
        assert labelled.width == int(draw.font(size).getlength("block")) + 8


@pytest.mark.parametrize(
    "size, grid, side", [((10, 10), (2, 4), 56), ((224, 30), (2, 4), 56), ((225, 30), (2, 4), 57), ((30, 500), (5, 1), 100)]
)
def test_a_picture_is_enlarged_to_whole_patches(size, grid, side):
    image, found = draw.enlarged(plain(*size), grid)
    assert (found, image.size) == (side, (grid[1] * side, grid[0] * side))
    assert draw.enlarged(plain(*size), (4096, 1))[1] == draw.enlarged(plain(*size), (9000, 1))[1] == 1


def test_the_patches_of_a_picture_are_cut_out_whole():
    config = crooked_config(image=(12, 20), patch=4)
    _, side = draw.enlarged(plain(20, 12), config.grid)
    sheet = draw.patch_grid(plain(20, 12), config, gap=3)
    rows, columns = config.grid
    top = sheet.height - rows * (side + 3) - 3
    assert sheet.width >= columns * (side + 3) + 3 and top == draw.labelled(plain(columns * (side + 3) + 3, 5), "").height - 5
    for y, x in itertools.product(range(rows), range(columns)):
        left, upper = 3 + x * (side + 3), top + 3 + y * (side + 3)
        corners = [(left + side - 1, upper), (left, upper + side - 1), (left + side - 1, upper + side - 1)]
        assert all(sheet.getpixel(corner) == (255, 0, 0) for corner in corners), (y, x)
        assert sheet.getpixel((left + side, upper + side)) == (255, 255, 255)
        number = sheet.crop((left, upper, left + side, upper + side))
        assert ImageChops.difference(number, plain(side, side)).getbbox() is not None  # its number
    small = draw.patch_grid(plain(20, 12), crooked_config(image=(40, 80), patch=4), gap=3)
    assert {colour for _, colour in small.crop((0, 60, *small.size)).getcolors()} == {(255, 0, 0), (255, 255, 255)}  # no room


def test_colours_between_the_limits():
    ramp = np.array(draw.RAMP)
    assert draw.coloured([0, 1, 2, 3, 4]).tolist() == ramp.tolist()
    assert draw.coloured([0.0, 2.0], low=-2.0).tolist() == ramp[[2, 4]].tolist()
    assert draw.coloured([0.0, 2.0], high=4.0).tolist() == ramp[[0, 2]].tolist()
    assert draw.coloured([-9.0, 9.0], -1.0, 1.0).tolist() == ramp[[0, 4]].tolist()
    assert draw.coloured([3.0, 3.0]).tolist() == ramp[[2, 2]].tolist()
    assert draw.coloured([0.5]).dtype == np.uint8


def test_a_matrix_is_drawn_cell_by_cell():
    values = np.array([[1.0, 0.0, -1.0], [0.0, 0.5, 1.0]])
    drawn = np.asarray(draw.similarity_matrix(values, cell=5))
    assert np.array_equal(drawn, draw.coloured(values, -1, 1).repeat(5, axis=0).repeat(5, axis=1))
    assert draw.similarity_matrix(values).size == (399, 266) and draw.similarity_matrix(np.zeros((1, 401))).size == (401, 1)
    assert draw.similarity_matrix(values, "label", cell=5).height == 30
    for bad in (np.zeros(3), np.zeros((0, 3)), np.zeros((3, 0)), np.zeros((1, 2, 3))):
        with pytest.raises(InputError, match="a matrix"):
            draw.similarity_matrix(bad)


def test_the_patch_that_asks_has_a_frame_of_its_size():
    config = crooked_config(image=(12, 20), patch=4)
    image, weights = plain(20, 12, "black"), np.linspace(0, 0.5, 15)
    bare = draw.attention_overlay(image, weights, config)
    assert same(bare, draw.attention_overlay(image, np.concatenate([[9.0], weights]), config))
    side = bare.width // 5
    for row, column in [(0, 0), (2, 4), (1, 3)]:
        framed = draw.attention_overlay(image, weights, config, query=(row, column))
        box = (column * side, row * side, (column + 1) * side, (row + 1) * side)
        assert ImageChops.difference(bare, framed).getbbox() == box
        line = np.asarray(framed)[row * side + side // 2, column * side : (column + 1) * side] == 255
        assert line.all(axis=1).sum() == 2 * max(2, side // 8)
    for outside in [(-1, 0), (3, 0), (0, -1), (0, 5)]:
        with pytest.raises(InputError, match="there is no patch"):
            draw.attention_overlay(image, weights, config, query=outside)
    brightest = bare.getpixel((bare.width - 1, bare.height - 1))
    assert np.allclose(brightest, 0.65 * np.array(draw.RAMP[-1]), atol=1)  # the largest weight is yellow
    halfway = draw.attention_overlay(image, weights, config, high=1.0, strength=1.0)
    assert halfway.getpixel((bare.width - 1, bare.height - 1)) == draw.RAMP[2]
    for query in (-1, config.tokens):
        with pytest.raises(InputError, match="there is no token"):
            draw.head_gallery(image, np.ones((2, config.tokens, config.tokens)), config, query)


# The SVG of a trace


@pytest.mark.parametrize("changes", [{}, {"class_token": False, "pooling": "map"}])
def test_wires_of_the_svg_go_from_box_to_box(changes):
    """Boxes stand in columns with a gap, text within them; wires begin at an edge and end 2 pixels before another's."""
    traced = numpy_vit.trace("ViT-S/16", **changes)
    picture = ElementTree.fromstring(render.svg(traced, "it"))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [
        tuple(int(r.get(k)) for k in ("x", "y", "width", "height")) for r in picture.iter(f"{space}rect") if r.get("rx") == "7"
    ]
    assert {(w, h) for _, _, w, h in boxes} == {(300, 46)} and min(boxes)[:2] == (30, 152)
    columns = [sorted(y for x, y, _, _ in boxes if x == left) for left in sorted({x for x, *_ in boxes})]
    assert len(columns) == 4 and all(column == list(range(152, 152 + 60 * len(column), 60)) for column in columns)
    arrived = {}
    for path in picture.iter(f"{space}path"):
        if not path.get("marker-end"):
            continue
        points = [tuple(map(int, pair.split(","))) for pair in path.get("d")[1:].split(" L")]
        (x1, y1), (x2, y2) = points[0], points[-1]
        if len(points) == 2:  # from the middle of a box straight down to the next
            assert x1 == x2 and (x1 - 150, y1 - 46, 300, 46) in boxes and (x2 - 150, y2 + 2, 300, 46) in boxes
            continue
        assert (x1 - 300, y1 - 36, 300, 46) in boxes  # out of the right edge, near the bottom
        lane = points[1][0]
        assert points[1:3] == [(lane, y1), (lane, y2)] and lane >= x1 + 20
        into = [b for b in boxes if b[1] < y2 < b[1] + 46 and (x2 == b[0] + 302 or x2 == b[0] - 2)]
        assert len(into) == 1 and (lane >= x2 + 18 if x2 == into[0][0] + 302 else lane <= x2 - 18)
        arrived.setdefault(into[0], []).append(y2 - into[0][1])
    assert arrived and all(heights == [10, 18, 26][: len(heights)] for heights in arrived.values())
    lefts = sorted({x for x, *_ in boxes})
    for text in picture.iter(f"{space}text"):
        x, y = float(text.get("x")), float(text.get("y"))
        if any(top < y < top + 46 for column in columns for top in column):
            assert any(left + 10 == x or left + 290 == x for left in lefts), "".join(text.itertext())
    frame = next(r for r in picture.iter(f"{space}rect") if r.get("stroke-dasharray"))
    x, y, w, h = (int(frame.get(k)) for k in ("x", "y", "width", "height"))
    assert (x, x + w) == (lefts[1] - 22, lefts[2] + 312) and (y, h) == (100, int(picture.get("height")) - 150)


# The page of explain


def test_weights_are_kept_to_half_a_step_of_their_largest():
    import base64

    rows = np.random.default_rng(0).random((3, 7))
    rows[1] = 0
    for size, levels in ((1, 255), (2, 65535)):
        content = base64.b64decode(packed(rows, Kept(True, size)))
        scales, codes = np.frombuffer(content[:12], "<f4"), np.frombuffer(content[12:], f"<u{size}").reshape(3, 7)
        assert codes.max(axis=1).tolist() == [levels, 0, levels] and scales[1] == 1
        assert abs(codes * scales[:, None] - rows).max() <= 0.51 * rows.max() / levels


def test_whose_positions_are_said_in_both_languages():
    def said(resized=False, **changes):
        return [(english.split()[0:3], chinese) for english, chinese in positions_in_words(crooked_config(**changes), resized)]

    assert said()[0][1] == "每个词元加上一个可学习的位置向量。"
    assert said(registers=1)[0][1] == "每个图块和类别词元加上一个可学习的位置向量。"
    assert said(positions="patches")[0][1] == "每个图块词元加上一个可学习的位置向量。"
    assert [words for words, _ in said(resized=True)] == [["To", "every", "token"], ["The", "grid", "of"]]
    assert said(positions="none") == []
    tokens = special_tokens(crooked_config(distillation_token=True, registers=2))
    assert [english for english, _ in tokens] == ["class token", "distillation token", "register 1", "register 2"]
    assert special_tokens(crooked_config(class_token=False, pooling="mean")) == []
    assert pooling_in_words(crooked_config())[0] == "The class token stands for the picture."


def test_what_is_done_to_a_picture_is_said_and_nothing_else():
    def said(original=(30, 20), used=(20, 12), **changes):
        policy = dict(
            channels=3, resize="squash", size=(12, 20), resample="bilinear", crop=None, scale=None, mean=None, std=None
        )
        seen = plain(20, 12)
        return [text for text, _ in preparation(Preprocess(**{**policy, **changes}), plain(*original), seen, plain(*used))]

    read = "Read, turned upright, made RGB."
    squashed = "Resized to 12 x 20 (bilinear), whatever the proportions were."
    assert said() == [read, squashed]
    assert said(original=(20, 12)) == [read, "It has the right size already: 12 x 20."]
    assert said(original=(12, 20))[1] == squashed
    assert said(used=(16, 12))[2] == "Only the 12 x 16 that whole patches cover are used."
    assert said(scale=1 / 255)[2] == "Each value, 0 to 255, times 1/255."
    normalised = said(mean=(0.5, 0.25, 0.125), std=(1.0, 2.0, 3.0))
    assert normalised[2:] == ["Minus the mean (0.5, 0.25, 0.125), divided by the standard deviation (1, 2, 3)."]
    assert said(channels=1)[0] == "Read, turned upright, made grey."


# Messages


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "None"),
        (10**30 - 1, "9" * 30),
        (10**30, "a number of many digits"),
        (-(10**30), "a number of many digits"),
        ((1, "a", 2.5, 4), "(1, 'a', 2.5, 4)"),
        ((1, 2, 3, 4, 5), "a tuple"),
        ([1, None], "a list"),
        ([], "[]"),
        ({1}, "a set"),
        ({"a": 1}, "a dict"),
        (object(), "an object"),
        (np.zeros((2, 3), np.float32), "a numpy.ndarray (2, 3) of float32"),
        ("x" * 58, repr("x" * 58)),
        ("x" * 59, "'" + "x" * 39 + " [...] " + "x" * 14 + "'"),
        (SimpleNamespace(), "a types.SimpleNamespace"),
    ],
)
def test_what_was_given_in_a_few_words(value, words):
    assert errors.in_words(value) == words


def test_a_message_is_short_and_of_one_line():
    text = "a" * 999 + "b"
    assert errors.one_line(text) == text and errors.one_line("a\nb\r\nc") == "a b c" and errors.printable("a\x1b") == "a\\x1b"
    assert errors.one_line(text + "c") == "a" * 666 + " [...] " + "a" * 248 + "bc"


def test_the_nearest_name():
    assert errors.nearest("Depth", ["depths", "depth"]) == "; did you mean 'depth'?"
    assert errors.nearest("dept", ["depth", "heads"]) == "; did you mean 'depth'?" and errors.nearest("zzz", ["depth"]) == ""
    assert errors.nearest("a" * 200, ["a" * 199]) and not errors.nearest("a" * 201, ["a" * 199])
    assert errors.nearest("depth", ["depth"] * 20_000) and not errors.nearest("depth", ["depth"] * 20_001)


def test_what_an_array_file_claims():
    def content(shape, size=3):
        import io

        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return np.frombuffer(file.getvalue() + bytes(4 * size), np.uint8)

    assert array_of(content((3,)), "it").data.tolist() == [0, 0, 0]
    for shape, said in [((4,), "4 numbers"), ((2,), "2 numbers"), ((2**62, 4), "more than 2"), ((1000, 5), "5,000 numbers")]:
        with pytest.raises(InputError, match=f"'it' claims {said}.* and has 12 bytes"):
            array_of(content(shape), "it")
    for shape in ((-3,), (-1, -3)):
        with pytest.raises(InputError, match="no possible shape"):
            array_of(content(shape), "it")


def test_eight_steps_are_named_and_then_dots(monkeypatch):
    monkeypatch.setattr(report, "distance_text", lambda error: "far")
    best = SimpleNamespace(error=None, broken=())
    for count, said in [(2, "s0, s1"), (8, "s0, s1, s2, s3, s4, s5, s6, s7"), (9, "s0, s1, s2, s3, s4, s5, s6, s7, ...")]:
        steps = [f"s{n}" for n in range(count)]
        finding = SimpleNamespace(tried=1, before=None, best=best, steps=steps, equals=[], nearest=[], place="")
        assert report.evidence(finding)[1] == f"shows in {said}"
    finding.steps = ["s0"]
    assert len(report.evidence(finding)) == 1
    finding.place = "in block 3"
    assert report.evidence(finding)[1:] == ["shows in block 3"]
    best.broken = ("s1", "s2")
    assert report.evidence(finding)[2:] == ["though it would show in s1, s2 too, and does not"]
    assert (Result("a", "B", (1,), "ok").nan, Result("a", "B", (1,), "ok").inf) == (0, 0)


# What goes on meanwhile


def test_what_takes_long_when_a_golden_is_recorded_is_said():
    model, said = numpy_vit.random_model(crooked_config(), dtype="float64"), []
    record(model, crooked_pixels(model.config, batch=1), noise=("float32",), progress=said.append)
    assert list(dict.fromkeys(text.split(":")[0] for text in said)) == [
        "running in float64",
        "measuring the noise floor of float32",
    ]
    shares = [int(text.split()[-2].rstrip("%")) for text in said]
    assert shares == sorted(shares) and shares[-1] == 100 and len(said) <= 101


def test_a_command_in_a_thread_leaves_signals_alone():
    before, problems = signal.getsignal(signal.SIGTERM), []

    def inside():
        try:
            with terminated_politely():
                problems.extend([signal.getsignal(signal.SIGTERM)] if signal.getsignal(signal.SIGTERM) is not before else [])
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert not problems
    with terminated_politely(), pytest.raises(SystemExit) as ended:
        signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)
    assert ended.value.code == 143 and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("own, products, free", [(True, True, 3), (True, False, 3), (False, True, 1), (False, False, 3)])
def test_products_are_divided_only_where_they_are_our_own(own, products, free):
    workers = parallel.Threads()
    workers.count, workers.own_products = 3, own
    assert workers.free(products) == free
    workers.inside.working = True
    assert workers.free(products) == 1


def test_resizing_adds_no_more_numbers_than_there_are(monkeypatch):
    """Of 400 points each new one uses at most a few: as many additions, and not 400."""
    weights, taken = images.RULES["bilinear_antialias"](400, 100), []
    take = np.take_along_axis
    monkeypatch.setattr(np, "take_along_axis", lambda *a, **k: taken.append(1) or take(*a, **k))
    images.weighted_sums(weights, np.ones((400, 1, 1)))
    assert len(taken) == (weights != 0).sum(axis=1).max()


# What a trace shows


def asked(traced, **words):
    return [row.name for row in selected(traced, SimpleNamespace(**{"block": None, "only": None, **words}))]


def test_a_block_of_a_trace_is_one_that_there_is():
    traced = numpy_vit.trace(crooked_config(depth=3))
    rows = [row.name for row in traced]
    assert asked(traced) == rows
    for block in range(3):
        assert asked(traced, block=block) == [name for name in rows if name.startswith(f"blocks.{block}.")] != []
    for block in (-1, 3):
        with pytest.raises(InputError, match=f"--block {block}: the model has blocks 0 to 2"):
            asked(traced, block=block)
    assert (
        asked(traced, block=1, only="gelu") == ["blocks.1.mlp.gelu"] and asked(traced, only="*.gelu")[0] == "blocks.0.mlp.gelu"
    )
    with pytest.raises(InputError, match="--only gelo: no step has that in its name; did you mean 'gelu'"):
        asked(traced, only="gelo")


def test_one_block_is_shown_under_its_own_name_and_all_folded(capsys):
    def shown(*words):
        assert main(["trace", *words]) == 0
        return capsys.readouterr().out

    for words in (["ViT-Ti/16"], ["--diff", "ViT-Ti/16", "ViT-S/16"]):
        assert "blocks.3." in shown(*words, "--block", "3"), words
        assert "blocks.3." in shown(*words, "--no-fold") and "blocks.3." not in shown(*words)


def test_seeded_numbers_are_of_the_size_that_is_said():
    """Linear weights within 2**-4, biases 2**-6, norms' scales 1 +- 2**-3, whatever else 2**-3: and nearly fill it."""
    config = crooked_config(width=48, heads=3, layer_scale=True, registers=2, pooler=48)
    for name, array in numpy_vit.random_model(config, dtype="float64").tensors.items():
        norm = "norm" in name and name.endswith("weight")
        most = 2.0 ** (-3 if norm else -6 if name.endswith("bias") else -4 if name.endswith("weight") else -3)
        size = abs(array - norm).max()
        assert size <= most and (array.size < 40 or size > 0.8 * most), name
        assert (array != norm).all(), name


def test_columns_fit_to_the_last_character():
    """Columns of 3 and 4 and two blanks between them need 9; in 8 each row takes several lines. A third needs 2 + 2 more."""
    columns = {"a": ("one", ["xx"], False), "b": ("four", ["1"], True), "c": ("cc", ["y"], False)}
    left_out = []
    assert fitted(columns, ["a", "b", "c"], 13, left_out=left_out) == ["one  four  cc", "xx      1  y"] and not left_out
    assert fitted(columns, ["a", "b", "c"], 12, left_out=left_out) == ["one  four", "xx      1"] and left_out == ["cc"]
    assert fitted(columns, ["a", "b", "c"], 9) == ["one  four", "xx      1"]
    assert fitted(columns, ["a", "b", "c"], 8) == ["one\n    four", "xx\n    1"]


def test_an_array_is_the_picture_it_is():
    array = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    assert np.array_equal(images.upright(array), array)
    for grey in (array[..., 0], array[..., :1]):
        assert np.array_equal(images.upright(grey), np.repeat(array[..., :1], 3, axis=2))
        assert np.array_equal(images.upright(grey, channels=1), array[..., 0])


@pytest.mark.parametrize(
    "found, passed, said", [([], True, None), ([], False, "why"), ([1], False, None), ([1, None], 1, "why")]
)
def test_a_narrower_format_is_suspected_only_where_something_is_unexplained(found, passed, said, monkeypatch):
    from numpy_vit.golden import diagnosing

    findings = [SimpleNamespace(best=best) for best in found]
    monkeypatch.setattr(diagnosing, "diagnose", lambda checked, progress: findings)
    monkeypatch.setattr(diagnosing, "suspicion", lambda checked: "why")
    assert diagnosed(SimpleNamespace(passed=passed)) == (findings, said)


def test_the_columns_of_a_diff_stand_below_each_other():
    """Every cell begins (numbers: ends) where its heading does."""
    entries = [
        {"differs": True, "step": "a", "x": {"output": "B N", "times": 0, "operation": "o", "macs": 5, "parameters": 12345},
         "y": None},
        {"differs": False, "step": "blocks", "x": None,
         "y": {"output": "B N D = 1 2 3", "times": 2, "operation": "o", "macs": 1234567, "parameters": 0}},
    ]  # fmt: skip
    lines = render.side_by_side(entries, ("x", "y"))
    assert lines == [
        "   step    x    y                 MACs             parameters",
        "*  a       B N  -                    5          -      12,345  -",
        "   blocks  -    B N D = 1 2 3 x2     -  1,234,567           -  0",
    ]
