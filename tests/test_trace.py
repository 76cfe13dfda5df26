"""The tracer: it must say what a real run does, and count what a closed form counts."""

import contextlib
import csv
import io
import itertools
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import numpy_vit
from numpy_vit import InputError, model, ops
from numpy_vit.arithmetic.shape_only import Ledger, ShapeOnly
from numpy_vit.cli import main
from numpy_vit.parameters import parameter_count
from numpy_vit.tracing import render

import pictures
from conftest import DATA, crooked_config, crooked_pixels

PUBLISHED = numpy_vit.variants()


def closed_form(config, batch=1, size=None):
    """Multiply-accumulates from the architecture's description, written without looking at the code."""
    Y, X = size or config.image
    patches = (Y // config.patch) * (X // config.patch)
    tokens, width = patches + 1, config.width
    projection = patches * config.patch**2 * config.channels * width
    attention = 4 * tokens * width * width + 2 * tokens * tokens * width
    mlp = 2 * tokens * width * config.mlp
    head = width * config.classes + width * config.pooler
    return batch * (projection + config.depth * (attention + mlp) + head)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_variants(name):
    config = numpy_vit.variant(name)
    traced = numpy_vit.trace(name)
    assert traced.parameters == parameter_count(config)
    assert traced.macs == closed_form(config)
    assert traced.flops == 2 * traced.macs


def test_vit_b_16():
    traced = numpy_vit.trace("ViT-B/16")
    assert traced.macs == 17_563_828_224
    both = sum(row.macs for row in traced if row.name.endswith((".scores", ".context")))
    assert both == 12 * 2 * 197 * 197 * 768 == 715_327_488
    scores = next(row for row in traced if row.name == "blocks.5.attention.scores")
    assert (scores.dims, scores.shape, scores.operation) == ("B H N N", (1, 12, 197, 197), "matmul")
    assert [tensor.shape for tensor in scores.inputs] == [(1, 12, 197, 64)] * 2
    assert scores.formula == "197 x 64 @ 64 x 197 * 1/sqrt(64), 12 times"
    hidden = next(row for row in traced if row.name == "blocks.0.mlp.hidden")
    assert [(w.name, w.shape) for w in hidden.weights] == [
        ("blocks.0.mlp.hidden.weight", (768, 3072)),
        ("blocks.0.mlp.hidden.bias", (3072,)),
    ]
    assert hidden.parameters == 768 * 3072 + 3072 and hidden.macs == 197 * 768 * 3072
    assert hidden.read == 4 * (197 * 768 + 768 * 3072 + 3072) and hidden.written == 4 * 197 * 3072


CONFIGS = {
    "plain": {},
    "mean pooling, no head": {"pooling": "mean", "classes": 0},
    "no pooler, no biases": {"pooler": 0, "qkv_bias": False, "activation": "relu"},
    "one channel, deep": {"channels": 1, "depth": 5, "activation": "silu"},
    "one head": {"heads": 1, "activation": "quick_gelu", "image": (4, 24)},
    "tanh gelu": {"heads": 15, "activation": "gelu_tanh"},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [None, (8, 28)])
def test_every_row_is_a_step_of_a_real_run(name, dtype, size):
    config = crooked_config(**CONFIGS[name])
    real = []
    pixels = np.random.default_rng(0).normal(size=(3, config.channels, *(size or config.image)))
    numpy_vit.random_model(config, dtype=dtype)(
        pixels, record=lambda *step: real.append((step[0], step[2], step[1].shape, str(step[1].dtype))), resize_positions=True
    )
    traced = numpy_vit.trace(config, batch=3, dtype=dtype, size=size)
    assert [(row.name, row.dims, row.shape, row.dtype) for row in traced] == real
    assert traced.macs == closed_form(config, 3, size)
    assert traced.parameters == parameter_count(config)
    assert any(row.name == "embed.resized_positions" for row in traced) == (size is not None)
    for row in traced:
        assert row.why and row.why_zh and row.paper and "{" not in row.formula + row.why + row.why_zh


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_peak_memory_is_that_of_a_real_run(dtype):
    """NumPy tells tracemalloc of every array: a heard run's peak, large enough for small objects not to count."""
    config = crooked_config(width=60, heads=6, mlp=240, image=(64, 48), depth=3)
    vit = numpy_vit.random_model(config, dtype=dtype)
    pixels = crooked_pixels(config, batch=4, dtype=dtype)
    vit(pixels)
    tracemalloc.start()
    out = vit(pixels, record=lambda *_: None)
    peak = tracemalloc.get_traced_memory()[1] + pixels.nbytes
    tracemalloc.stop()
    assert out.logits is not None
    traced = numpy_vit.trace(config, batch=4, dtype=dtype).peak_memory
    assert 0.75 <= traced / peak <= 1.25, (traced, peak)


def test_a_planted_mistake_is_named_by_the_tracer(monkeypatch):
    planted = {
        "heads not merged": ("merge_heads", lambda x: x, "in the step after blocks.0.attention.context: matmul: .* do not fit"),
        "heads not split": ("split_heads", lambda x, heads: x, "blocks.0.attention.query"),
        "no class token": ("prepend", lambda token, x: x, "embed.tokens"),
        "patches by channel": ("patchify", lambda x, P: ops.patchify(x, P).swapaxes(1, 2), "embed.patches"),
        "float64 creeps in": ("softmax", lambda x: ops.softmax(x) * np.float64(1), "blocks.0.attention.probs"),
    }
    for name, wrong, where in planted.values():
        with monkeypatch.context() as patch:
            patch.setattr(model, name, wrong)
            if np.lib.NumpyVersion(np.__version__) < "2.0.0" and "probs" in where:
                continue  # NumPy 1 keeps float32 there, and so does the trace
            with pytest.raises(numpy_vit.ShapeError, match=where):
                numpy_vit.trace(crooked_config())


def test_stand_ins_behave_as_arrays_do():
    def stand_in(array):
        return ShapeOnly(array.shape, array.dtype, Ledger())

    a, b = np.ones((2, 3, 4), np.float32), np.ones((4, 5), np.float32)
    for f in (
        lambda a, b: a @ b,
        lambda a, b: a * 2 + 1,
        lambda a, b: a * 0.5,
        lambda a, b: a.mean(axis=-1, keepdims=True),
        lambda a, b: a.max(axis=1),
        lambda a, b: a.sum(axis=-1),
        lambda a, b: a[:, 0],
        lambda a, b: a[:, 1:, None],
        lambda a, b: a.swapaxes(-1, -2).reshape(2, -1),
        lambda a, b: a.transpose(2, 0, 1),
        lambda a, b: np.concatenate([a, a], axis=1),
        lambda a, b: np.broadcast_to(b[0], (2, 3, 5)),
        lambda a, b: a / np.sqrt(a * a + 1e-6),
        lambda a, b: a * np.float64(2),
        lambda a, b: np.maximum(a, 0),
        lambda a, b: ops.gelu(a),
        lambda a, b: ops.erf(a),
        lambda a, b: ops.softmax(a),
        lambda a, b: ops.layer_norm(a, b[:, 0], b[:, 1], 1e-6),
        lambda a, b: ops.linear(a, b, b[0]),
    ):
        real, traced = f(a, b), f(stand_in(a), stand_in(b))
        assert (real.shape, real.dtype) == (traced.shape, traced.dtype)
    for f in (
        lambda a, b: b @ a[0],
        lambda a, b: a + b,
        lambda a, b: a.reshape(5, 5),
        lambda a, b: np.concatenate([a, b[None]], axis=1),
        lambda a, b: np.broadcast_to(a, (2, 3, 5)),
        lambda a, b: a[:, :, :, 0],
        lambda a, b: a.transpose(0, 1),
    ):
        with pytest.raises((ValueError, IndexError)):
            f(a, b)
        with pytest.raises((ValueError, IndexError)):
            f(stand_in(a), stand_in(b))


# The command


def command(*words, COLUMNS="10000"):
    """In this process, as wide as the table wants: a start of its own for each would take most of the tests' time."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("COLUMNS", COLUMNS)
        status = main(["trace", *map(str, words)])
    assert "Traceback" not in err.getvalue()
    return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())


def test_in_a_pipe():
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    words = [sys.executable, "-m", "numpy_vit", "trace", "ViT-S/32"]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == command("ViT-S/32").stdout


def test_table_and_folding():
    done = command("ViT-B/16")
    assert done.returncode == 0 and done.stderr == "" and "\x1b" not in done.stdout
    rows = done.stdout.splitlines()
    assert len([row for row in rows if "x12" in row]) == 14
    assert any(
        re.search(r"blocks\.\*\.attention\.query  x12 .*B H N K = 1 12 197 64 .*590,592 +116,195,328", row) for row in rows
    )
    assert "MACs 17,563,828,224 (17.564 G), FLOPs 35,127,656,448" in done.stdout
    assert "1 MAC = 2 FLOPs" in done.stdout
    assert len(command("ViT-B/16", "--no-fold").stdout.splitlines()) == len(rows) + 11 * 14


@pytest.mark.parametrize("columns", [30, 60, 80, 132, 250])
def test_the_table_fits_the_width(columns):
    diff = ["--diff", "ViT-B/16", "ViT-B/32 eps=1e-6"]
    for words in (["ViT-B/16"], ["ViT-B/16", "--explain"], ["ViT-B/16", "--explain", "--lang", "zh"], diff):
        for row in command(*words, COLUMNS=str(columns)).stdout.splitlines():
            assert render.display_width(row) <= columns, row


@pytest.mark.parametrize("columns", [40, 80])
def test_what_does_not_fit_is_said_and_nothing_is_cut(columns):
    table = command("ViT-B/16", COLUMNS=str(columns)).stdout
    unwrapped = " ".join(table.split())
    assert "B H N N = 1 12 197 197" in table and "B N M = 1 197 3072" in table
    missing = "operation, input, weights, dtype, bytes read, written"
    if columns == 40:
        missing = missing.replace("dtype", "dtype, parameters, MACs")
    assert f"not shown for want of room: {missing} (" in unwrapped
    assert "not shown" not in command("ViT-B/16").stdout
    picture = next((DATA.parent.parent / "weights" / "samples").rglob("*.png"))
    values = " ".join(command("--with-values", "digits", picture, COLUMNS=str(columns)).stdout.split())
    assert re.search(r"not shown for want of room: .*std, nan, inf, .*MACs", values)


@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_diff_has_all_a_wide_one_has(columns):
    models = ["ViT-B/16", "ViT-S/16 activation=relu"]
    wide = command("--diff", *models).stdout
    narrow = " ".join(command("--diff", *models, COLUMNS=str(columns)).stdout.split())
    numbers = re.compile(r"\d+(?:,\d{3})*")
    for line in wide.split("\n\n")[0].splitlines()[1:]:
        assert set(numbers.findall(line)) <= set(numbers.findall(narrow)), line
    for entry in (
        "* blocks.*.mlp.hidden ViT-B/16: B N M = 1 197 3072 x12, 464,781,312 MACs, 2,362,368 parameters "
        "ViT-S/16 activation=relu: B N M = 1 197 1536 x12, 116,195,328 MACs, 591,360 parameters",
        "ViT-S/16 activation=relu: - ",
        "logits ViT-B/16: B O = 1 1000, 768,000 MACs, 769,000 parameters",
        "total ViT-B/16: 17,563,828,224 MACs, 86,567,656 parameters ViT-S/16 activation=relu: ",
    ):
        assert entry in narrow


def test_a_model_and_its_changes_in_quotes():
    apart, quoted = (command(*words, "--json").stdout for words in (["ViT-B/16", "depth=4"], ["ViT-B/16 depth=4"]))
    assert apart == quoted and json.loads(quoted)["config"]["depth"] == 4
    for wrong, message in (
        ("ViT-22B", "'ViT-22B' is no variant"),
        ("'ViT-B/16", "is no variant"),
        ("no such file", "is no variant"),
    ):
        done = command(wrong)
        assert done.returncode == 2 and message in done.stderr and "did you mean 'ViT-B/8'" not in done.stderr


def test_depths_and_selections():
    assert [line.split()[0] for line in command("ViT-S/32", "--depth", "model").stdout.splitlines()[:6]] == [
        "step", "embed", "encoder", "norm", "pool", "logits",
    ]  # fmt: skip
    assert "blocks.*  x12" in command("ViT-S/32", "--depth", "block").stdout
    only = command("ViT-S/32", "--block", 3, "--only", "attention").stdout.splitlines()
    assert len([line for line in only if line.startswith("blocks.3.attention.")]) == 7
    assert len([line for line in command("--only", "*.scores").stdout.splitlines() if "scores" in line]) == 1
    for words, message in (
        (["--block", 12], "--block 12: the model has blocks 0 to 11"),
        (["--only", "atention"], "no step has that in its name; did you mean 'attention'"),
    ):
        done = command(*words)
        assert done.returncode == 2 and message in done.stderr and done.stdout == ""


def test_explain_tells_the_model_it_is_given():
    plain = command("ViT-B/16", "qkv_bias=false", "activation=relu", "--explain").stdout
    query = plain[plain.index("attention.query") :].splitlines()[1]
    assert query.strip() == "197 x 768 @ 768 x 768, seen as 12 heads of 64"
    assert "[relu]" in plain and "section 3.1 (the paper has GELU)" in plain


def test_csv_and_json_are_complete():
    traced = numpy_vit.trace("ViT-B/16", batch=2)
    rows = list(csv.DictReader(io.StringIO(command("ViT-B/16", "--batch", 2, "--format", "csv").stdout)))
    assert len(rows) == 175
    assert [(r["step"], int(r["macs"]), int(r["parameters"]), r["shape"]) for r in rows] == [
        (r.name, r.macs, r.parameters, "x".join(map(str, r.shape))) for r in traced
    ]
    content = json.loads(command("ViT-B/16", "--batch", 2, "--json").stdout)
    assert content["totals"]["macs"] == traced.macs == 2 * 17_563_828_224
    assert content["letters"]["N"] == 197 and content["rows"][7]["shape"] == [2, 12, 197, 64]
    assert sum(row["parameters"] for row in content["rows"]) == 86_567_656


def test_svg_mermaid_and_markdown():
    svg = ElementTree.fromstring(command("ViT-B/16", "--format", "svg").stdout)
    texts = ["".join(t.itertext()) for t in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "encoder block × 12" in texts and "B H N K = 1 12 197 64" in texts and "attention.scores" in texts
    assert texts[0] == "ViT-B/16: 224x224 pixels in patches of 16x16, 12 blocks of width 768, 12 heads"
    mermaid = command("ViT-B/16", "--format", "mermaid").stdout.splitlines()
    assert mermaid[0] == "flowchart TD" and mermaid.count("  end") == 1
    # Everything reads what the step before it made, but key, value, context, and the two sums, which read twice.
    arrows = [line.split() for line in mermaid if "-->" in line]
    assert len(arrows) == 21 + 4 and ["pixels", "-->", "s0"] in arrows and ["s3", "-->", "s12"] in arrows
    assert any("encoder block x12" in line for line in mermaid)
    table = command("ViT-B/16", "--format", "markdown").stdout.split("\n\n")[0].splitlines()
    assert len(table) == 23 and len({line.replace(r"\*", "").count("|") for line in table}) == 1


MORE = {"registers": 4, "positions": "none", "rope": "centred_halves", "layer_scale": True}
SIGLIP = {"class_token": False, "pooling": "map"}


@pytest.mark.parametrize("changes", [{}, MORE, SIGLIP, {"relative_positions": True, "positions": "none"}])
@pytest.mark.parametrize("only", [None, "attention"])
def test_wires_of_the_svg_are_apart(changes, only):
    """Two wires that come from different boxes share no stretch, none runs over a box, and all is within the picture."""
    traced = numpy_vit.trace("ViT-S/16", **changes)
    if only:
        traced = traced.having([row for row in traced if only in row.name.split(".")])
    picture = ElementTree.fromstring(render.svg(traced, "it"))
    space = "{http://www.w3.org/2000/svg}"
    width, height = int(picture.get("width")), int(picture.get("height"))
    boxes = [
        tuple(float(r.get(k)) for k in ("x", "y", "width", "height"))
        for r in picture.iter(f"{space}rect")
        if r.get("rx") == "7"
    ]
    upright = {}  # x -> stretches with where their wire begins
    for path in picture.iter(f"{space}path"):
        if not path.get("marker-end"):
            continue
        points = [tuple(map(int, pair.split(","))) for pair in path.get("d")[1:].split(" L")]
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            assert min(x1, x2) > 0 and max(x1, x2) < width and min(y1, y2) > 0 and max(y1, y2) < height
            for x, y, w, h in boxes:
                inside = max(x1, x2) > x and min(x1, x2) < x + w and max(y1, y2) > y and min(y1, y2) < y + h
                assert not inside, (points, x, y)
            if x1 == x2:
                upright.setdefault(x1, []).append((min(y1, y2), max(y1, y2), points[0]))
    assert upright
    for stretches in upright.values():
        for a, b in itertools.combinations(stretches, 2):
            assert a[2] == b[2] or a[1] <= b[0] or b[1] <= a[0]
    texts = ["".join(t.itertext()) for t in picture.iter(f"{space}text")]
    if not only:
        assert ("prepend" in texts) == (traced.config.special_tokens > 0) == ("as is" not in texts)
    assert picture.find(f"{space}title").text == texts[0] and texts[0].startswith("it: 224x224 pixels")


def test_explain_reads_as_the_paper():
    english = command("ViT-B/16", "--explain").stdout
    places = [english.index(text) for text in (
        "224 x 224 x 3 -> 196 x 768", "196 x 768 @ 768 x 768 + 768", "1 + 196 = 197 tokens", "eq. 1: E_pos", "eq. 2: LN",
        "seen as 12 heads of 64", "197 x 64 @ 64 x 197 * 1/sqrt(64), 12 times", "eq. 6: A", "eq. 8: U_msa",
        "197 x 768 @ 768 x 3072 + 3072", "197 x 3072 @ 3072 x 768 + 768", "eq. 4: LN", "eq. 4: y", "768 @ 768 x 1000 + 1000",
    )]  # fmt: skip
    assert places == sorted(places)
    chinese = command("ViT-B/16", "--explain", "--lang", "zh").stdout
    assert "类别词元代表整张图片" in chinese and "197 x 64 @ 64 x 197" in chinese


def test_what_can_be_traced(tmp_path):
    from numpy_vit.convert import convert
    from numpy_vit.files.converted import write_converted

    write_converted(tmp_path / "a.safetensors", convert(DATA / "classifier"))
    expected = numpy_vit.trace(convert(DATA / "classifier").config).macs
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(DATA / "classifier" / "config.json", alone)
    assert json.loads(command("digits", "--json").stdout)["config"]["depth"] == 6
    for source in (
        tmp_path / "a.safetensors",
        DATA / "classifier",
        alone,
        alone / "config.json",
        DATA / "classifier/model.safetensors",
    ):
        done = command(source, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["totals"]["macs"] == expected, source
    backbone = json.loads(command(DATA / "backbone" / "config.json", "--json").stdout)
    assert backbone["totals"] == json.loads(command(DATA / "backbone", "--json").stdout)["totals"]
    changed = command("ViT-B/16", "image=384", "depth=4", "pooling=mean", "qkv_bias=false", "eps=1e-6", "--json")
    config = json.loads(changed.stdout)["config"]
    assert (config["image"], config["depth"], config["pooling"], config["qkv_bias"], config["eps"]) == (
        [384, 384],
        4,
        "mean",
        False,
        1e-6,
    )
    resized = command("ViT-B/16", "--size", "224x384", "--json")
    assert "embed.resized_positions" in resized.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ViT-B/61"], "did you mean 'ViT-B/16'"),
        (["vit-bas-patch16-224"], "did you mean 'vit-base-patch16-224'"),
        (["absent.safetensors"], "is no variant, file, folder or cached hub name"),
        (["someone/absent"], "is no variant, file, folder or cached hub name"),
        (["ViT-B/16", "heads=7"], "7 heads do not divide the width 768"),
        (["ViT-B/16", "image=100"], "image height 100 is not a multiple of the patch size 16"),
        (["ViT-B/16", "--size", "100"], "image height 100 is not a multiple of the patch size 16"),
        (["ViT-B/16", "--size", "16000000000000x16"], "image height is 16000000000000"),
        (["ViT-B/16", "image=1000000", "patch=1"], "has more than 10,000,000 patches"),
        (["ViT-B/16", "image=3000", "patch=1", "--batch", "1000000"], "too large for any machine"),
        (["ViT-B/16", "depth=5000"], "depth is 5000"),
        (["ViT-B/16", "depth=4", "depth=5"], "depth is given twice"),
        (["ViT-B/16", "__class__=foo"], "unknown field '__class__'"),
        ([""], "an empty name is no model"),
        (["--lang", "zh"], "--lang goes with --explain"),
        (["--explain", "--format", "csv"], "--explain prints text"),
        (["--depth", "block", "--json"], "lists every step"),
        (["--strict"], "--strict goes with --with-values"),
        (["ViT-B/16", "depth=-1"], "depth is -1"),
        (["ViT-B/16", "width=99999999999"], "width is 99999999999"),
        (["ViT-B/16", "width=many"], "width=many: a number is expected"),
        (["ViT-B/16", "hedas=3"], "unknown field 'hedas'; did you mean 'heads'"),
        (["ViT-B/16", "qkv_bias=maybe"], "give true or false"),
        (["ViT-B/16", "activation=gellu"], "activation 'gellu' is not one of"),
        (["ViT-B/16", "image=axb"], "give a size like"),
        (["ViT-B/16", "ViT-L/16"], "one model at a time"),
        (["--batch", "0"], "argument --batch: '0': give a whole number"),
        (["--diff", "ViT-B/16", "ViT-B/16"], "there is nothing to compare"),
        (["--diff", "ViT-B/16", "ViT-L/61"], "did you mean 'ViT-L/16'"),
    ],
)
def test_what_is_refused(words, message):
    done = command(*words)
    assert done.returncode == 2 and done.stdout == "", done.stdout
    assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_diff():
    done = command("--diff", "ViT-B/16", "ViT-B/32")
    differing = [line for line in done.stdout.splitlines() if line.startswith("*")]
    assert done.returncode == 0 and any("embed.patches" in line for line in differing)
    # The classification head is the same in both.
    assert not any("logits" in line for line in differing)
    eps = command("--diff", "ViT-B/16", "ViT-B/16 eps=1e-6 activation=gelu_tanh").stdout
    assert "config: eps 1e-12 | 1e-06" in eps and "[gelu]" in eps and "[gelu_tanh]" in eps and "1 of 21 rows differ" in eps
    content = json.loads(command("--diff", "ViT-B/16", "ViT-B/16 depth=1 image=384 pooler=9", "--json").stdout)
    entries = content["rows"]
    assert content["config"]["depth"] == {"ViT-B/16": 12, "ViT-B/16 depth=1 image=384 pooler=9": 1}
    steps = [entry["step"] for entry in entries]
    assert steps == [row.name for row in render.lines(numpy_vit.trace("ViT-B/16", pooler=9))]
    pooler = next(entry for entry in entries if entry["step"] == "pooler")
    assert pooler["ViT-B/16"] is None and pooler["differs"]


def test_with_values(tmp_path):
    picture = tmp_path / "a.png"
    pictures.draw(40, 40).save(picture)
    done = command("--with-values", DATA / "classifier", picture, "--json", "--strict")
    assert done.returncode == 0, done.stderr
    vit = numpy_vit.load(DATA / "classifier")
    steps = vit(vit.preprocess(picture), record=True).steps
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in rows] == list(steps)
    for row in rows:
        array = steps[row["name"]].astype(np.float64)
        assert row["values"]["nan"] == row["values"]["inf"] == 0
        for key in ("min", "max", "mean", "std"):
            assert abs(row["values"][key] - getattr(array, key)()) <= 1e-6 * abs(array).max()
    table = command("--with-values", DATA / "classifier", picture, COLUMNS="150").stdout
    assert "std" in table.splitlines()[0] and "blocks.2.mlp.gelu" in table  # blocks differ now: nothing is folded
    assert command("ViT-B/16", "--with-values", DATA / "classifier", picture).returncode == 2


def test_colours_only_on_a_terminal():
    def on_a_terminal(**environment):
        parent, child = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment}
        subprocess.run([sys.executable, "-m", "numpy_vit", "trace"], stdout=child, env=environment, check=True)
        os.close(child)
        said = b""
        while True:
            try:
                part = os.read(parent, 65536)
            except OSError:
                break
            if not part:
                break
            said += part
        os.close(parent)
        return said

    assert b"\x1b[" in on_a_terminal()
    assert b"\x1b[" not in on_a_terminal(NO_COLOR="1")
    assert b"\x1b[" not in on_a_terminal(TERM="dumb")


def test_a_trace_shows_itself():
    traced = numpy_vit.trace(crooked_config())
    assert "blocks.*.attention.probs" in repr(traced) and len(traced) == len(list(traced)) == 50
    page = traced._repr_html_()
    assert page.count("<tr") == 23 and "B H N K = 1 5 16 3" in page
    ElementTree.fromstring(f"<div>{page.replace('<br>', '<br/>')}</div>")
    with pytest.raises(numpy_vit.InputError, match="did you mean 'heads'"):
        numpy_vit.trace(crooked_config(), hedas=2)


def test_memory_of_the_process_is_small():
    """22 billion parameters: nothing may be allocated for them."""
    words = ["ViT-B/16", "depth=48", "width=6144", "mlp=24576", "heads=48", "--depth", "model"]
    code = (
        f"from numpy_vit.cli import main\nmain(['trace', *{words!r}])\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "parameters 21,759,204,328" in said
    assert int(said.splitlines()[-1]) < 60_000  # kB


def test_a_stand_in_refuses_what_it_cannot_do():
    """Another method of a function, or an option of it, and not only both together."""
    a = ShapeOnly((2, 3), np.dtype("float32"), Ledger())
    for f in (
        lambda: np.add.reduce(a),
        lambda: np.add.outer(a, a),
        lambda: np.add(a, a, where=np.ones((2, 3), bool)),
        lambda: np.add.accumulate(a, axis=1),
        lambda: np.add(a, a, dtype="float64"),
    ):
        with pytest.raises(TypeError):
            f()


def test_a_file_comes_before_a_variant_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert numpy_vit.trace("ViT-Ti/16").config.depth == 12
    folder = tmp_path / "ViT-Ti" / "16"
    folder.mkdir(parents=True)
    text = {"architectures": ["ViTModel"], "num_channels": 3, "model_type": "vit", "hidden_size": 12, "image_size": 32}
    text |= {"num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 7, "patch_size": 16}
    (folder / "config.json").write_text(json.dumps({**text, "layer_norm_eps": 1e-6, "hidden_act": "gelu"}))
    assert numpy_vit.trace("ViT-Ti/16").config.depth == 3


def test_what_no_address_could_reach_is_refused_and_no_less():
    """batch * heads * N * N above 2**56: here 8 heads and 2**17 tokens, so 2**19 pictures are the most."""
    config = crooked_config(
        image=(512, 256), patch=1, heads=8, width=16, depth=1, class_token=False, pooling="mean", classes=0, pooler=0
    )
    assert len(numpy_vit.trace(config, batch=1 << 19)) > 0
    with pytest.raises(InputError, match="too large for any machine"):
        numpy_vit.trace(config, batch=(1 << 19) + 1)
