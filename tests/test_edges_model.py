"""Edges of the model and its arithmetic: away from the trained size, oblong grids, the last bit, guards, constants."""

import decimal
import functools
import json
import math
import operator
import os
import threading
import time
import warnings
from fractions import Fraction

import numpy as np
import options
import pytest

import numpy_vit
from numpy_vit import InputError, InvariantError, ViT, ViTConfig, groups, ops
from numpy_vit.arithmetic import parallel, primitives, threads
from numpy_vit.arithmetic.portable import PortableArray
from numpy_vit.arithmetic.shape_only import Ledger, ShapeOnly
from numpy_vit.config import variant
from numpy_vit.ops import gelu_tanh, quick_gelu
from numpy_vit.positions import RULES
from numpy_vit.rotary import rotation_tables
from numpy_vit.steps import Step
from numpy_vit.tracing.tracer import statistics, with_values

from conftest import crooked_config, crooked_pixels


def config_of(option, **changes):
    return ViTConfig(**{**options.PLAIN, **options.OPTIONS[option], **changes})


# BEiT away from its trained size


def distances(config, image):
    """(rows, columns) between every two patches of an image's grid: (G, G) each."""
    row, column = (axis.reshape(-1) for axis in np.indices((image[0] // config.patch, image[1] // config.patch)))
    return row[:, None] - row, column[:, None] - column


@pytest.mark.parametrize("axis", [0, 1])
def test_relative_positions_at_another_size_keep_their_axis_and_their_block(axis):
    """A table that depends on the rows (columns) alone does so after resizing, and every block and head has its own."""
    config = config_of("relative positions", position_rule="bilinear")
    rows, columns = config.grid
    profile = np.indices((2 * rows - 1, 2 * columns - 1))[axis].reshape(-1, 1) * [1.0, 10.0, 100.0]  # (distances, H)
    tensors = dict(numpy_vit.random_model(config, dtype="float64").tensors)
    for n in range(config.depth):
        name = f"blocks.{n}.attention.relative_positions"
        tensors[name] = np.concatenate([profile * (n + 1), tensors[name][-3:]])
    image = (24, 28)
    pixels = crooked_pixels(config.for_image(image), batch=1)
    steps = ViT(config, tensors)(pixels, record="*.relative_bias", resize_positions=True).steps
    away = distances(config, image)
    bias = [steps[f"blocks.{n}.attention.relative_bias"][:, 1:, 1:] for n in range(config.depth)]
    for distance in np.unique(away[axis]):
        same = bias[0][0][away[axis] == distance]
        assert np.ptp(same) < 1e-12
    towards = [bias[0][0][(away[axis] == d) & (away[1 - axis] == 0)].mean() for d in np.unique(away[axis])]
    assert (np.diff(towards) >= 0).all() and towards[-1] > towards[0] + 1
    assert np.allclose(bias[1], 2 * bias[0], rtol=1e-14) and np.allclose(bias[0][2], 100 * bias[0][0], rtol=1e-12)


@pytest.mark.parametrize("image", [None, (28, 16)])
def test_relative_positions_in_tiles_of_heads_and_queries(image, monkeypatch):
    monkeypatch.setattr(parallel, "BLOCK", 64)
    monkeypatch.setattr(parallel, "QUERIES", 5)
    model = numpy_vit.random_model(config_of("relative positions"), dtype="float64")
    pixels = crooked_pixels(model.config.for_image(image or model.config.image), batch=2)
    whole = model(pixels, record=True, resize_positions=True)
    assert np.allclose(model(pixels, resize_positions=True).pooled, whole.pooled, rtol=1e-12, atol=1e-14)


def test_biased_scores_are_heard_though_nothing_else_is(monkeypatch):
    monkeypatch.setattr(parallel, "BLOCK", 8)
    model = numpy_vit.random_model(config_of("relative positions"), dtype="float64")
    pixels = crooked_pixels(model.config, batch=1)
    for name in ("scores", "biased_scores", "probs"):
        heard = model(pixels, record=f"*.attention.{name}").steps
        assert len(heard) == model.config.depth and all(np.isfinite(array).all() for array in heard.values()), name


# Positions


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_at_one_row(rule):
    """From one point all are that point; to one point, finite weights that sum to 1."""
    for old, new in ((1, 5), (5, 1), (1, 1), (4, 2)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            weights = RULES[rule](old, new)
        assert weights.shape == (new, old) and np.allclose(weights.sum(axis=1), 1, atol=1e-12), (rule, old, new)
    if rule.endswith("corners"):
        assert RULES[rule](5, 1).tolist() == [[1, 0, 0, 0, 0]]


def test_antialiasing_adds_in_one_order():
    """Bit by bit what Python's floats give, one after another: NumPy's sums are in an order of its own."""
    for old, new in ((64, 7), (33, 4), (5, 9)):
        wide = max(old / new, 1.0)
        for i, row in enumerate(RULES["bilinear_antialias"](old, new)):
            centre = (i + 0.5) * (old / new)
            inside = range(math.floor(centre - wide + 0.5), math.floor(centre + wide + 0.5))
            raw = [max(1 - abs(point - centre + 0.5) / wide, 0.0) if point in inside else 0.0 for point in range(old)]
            assert row.tolist() == [weight / functools.reduce(operator.add, raw) for weight in raw], (old, new, i)


def exact(function, angle):
    """cos or sin of a float to the last bit: the Taylor series in fractions, rounded once."""
    x, n = Fraction(angle), 0 if function is math.cos else 1
    term = total = x if n else Fraction(1)
    while abs(term) > Fraction(1, 10**30):
        n += 2
        term *= -x * x / (n * (n - 1))
        term = Fraction(round(term * 2**160), 2**160)
        total += term
    return float(total)


def test_rotary_tables_are_right_to_the_last_bit_and_each_axis_has_its_own_scale():
    """Places of EVA-02 are scaled to the grid it was trained with, rows to its rows and columns to its columns."""
    frequencies = np.array([1.0, 0.37, 0.011])
    grid, trained = (3, 5), (6, 20)
    cos, sin = rotation_tables(frequencies, grid, "index_pairs", trained)
    assert cos.shape == (15, 12)
    for n in range(15):
        row, column = divmod(n, 5)
        places = [row / 3 * 6] * 3 + [column / 5 * 20] * 3
        angles = [place * f for place, f in zip(places, [*frequencies, *frequencies], strict=True)]
        assert cos[n].tolist() == [exact(math.cos, a) for a in angles for _ in range(2)]
        assert sin[n].tolist() == [exact(math.sin, a) for a in angles for _ in range(2)]


def test_rotary_tables_of_centres():
    frequencies = np.array([math.pi, 1.5])
    cos, sin = rotation_tables(frequencies, (2, 3), "centred_halves", None)
    for n in range(6):
        row, column = divmod(n, 3)
        places = [2 * (row + 0.5) / 2 - 1] * 2 + [2 * (column + 0.5) / 3 - 1] * 2
        angles = [p * f for p, f in zip(places, [*frequencies, *frequencies], strict=True)]
        assert np.allclose(cos[n], np.cos([*angles, *angles]), atol=1e-15)
        assert np.allclose(sin[n], np.sin([*angles, *angles]), atol=1e-15)


# Portable arithmetic, where functions come near their limits


def in_decimal(function, x):
    with decimal.localcontext(decimal.Context(prec=60)):
        return np.array([float(function(decimal.Decimal(value))) for value in x.tolist()])


def test_portable_tanh_where_it_becomes_1():
    x = np.concatenate([np.linspace(17, 21, 81), [0.0, 1e-9, 0.5, 3.0, 400.0]])
    wanted = in_decimal(lambda v: 1 - 2 / ((2 * v).exp() + 1), x)
    got = np.asarray(np.tanh(x.view(PortableArray)))
    assert (abs(got - wanted) <= np.spacing(wanted)).all()
    assert (got[:81] == wanted[:81]).all() and np.array_equal(np.tanh((-x).view(PortableArray)), -got)


def test_portable_activations_in_the_negative_tail():
    x = np.array([-3.0, -9.5, -10.5, -11.0, -12.5, -14.0, -15.5, 10.5, 40.0])
    root = decimal.Decimal(2) / decimal.Decimal("3.14159265358979323846264338327950288419716939937510582")
    tails = {
        gelu_tanh: lambda v: v / (1 + (-2 * root.sqrt() * (v + decimal.Decimal("0.044715") * v**3)).exp()),
        quick_gelu: lambda v: v / (1 + (decimal.Decimal("-1.702") * v).exp()),
    }
    for function, formula in tails.items():
        got, wanted = np.asarray(function(x.view(PortableArray))), in_decimal(formula, x)
        assert (abs(got - wanted) <= np.spacing(abs(wanted))).all(), function
    far = np.array([-1e3, -1e6, 1e300])
    for function in tails:
        assert np.asarray(function(far.view(PortableArray))).tolist() == [-0.0, -0.0, 1e300]


# Guards of the model


def test_strict_holds_the_attention_pool_too():
    config = config_of("MAP")
    model = numpy_vit.random_model(config, dtype="float64")
    pixels = crooked_pixels(config, batch=1)
    model(pixels, strict=True)
    for name in ("map.probs", "blocks.1.attention.probs"):
        with pytest.raises(InvariantError, match=f"step {name}: every row is a probability distribution"):
            model(pixels, strict=True, change={name: lambda probs: probs * 1.1})


def test_a_row_with_a_negative_number_is_no_distribution_though_it_sums_to_1():
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels = crooked_pixels(model.config, batch=1)

    def moved(probs):
        probs[..., 0] += 0.5
        probs[..., 1] -= 0.5
        return probs

    with pytest.raises(InvariantError, match="nothing negative"):
        model(pixels, strict=True, change={"blocks.0.attention.probs": moved})


def test_strict_allows_rounding_and_no_more():
    """A row may be off by a few roundings (8 eps sqrt(N)), a norm by the rounding of its numbers."""
    model = numpy_vit.random_model(crooked_config(), dtype="float32")
    pixels = crooked_pixels(model.config, batch=1, dtype="float32")
    slack = 8 * np.finfo(np.float32).eps * math.sqrt(model.config.tokens)

    def off(by):
        return lambda probs: (probs * np.float32(1 + by * slack)).astype(np.float32)

    model(pixels, strict=True, change={"blocks.0.attention.probs": off(0.7)})
    with pytest.raises(InvariantError, match="blocks.0.attention.probs"):
        model(pixels, strict=True, change={"blocks.0.attention.probs": off(1.5)})
    with pytest.raises(InvariantError, match="blocks.1.norm2"):
        model(pixels, strict=True, change={"blocks.1.norm2": lambda x: (x * np.float32(1.0003)).astype(np.float32)})


def test_nan_in_the_picture_is_not_blamed_on_the_patches():
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels = crooked_pixels(model.config, batch=1)
    pixels[0, 0, 0, 0] = np.nan
    with pytest.raises(InvariantError, match="step blocks.0.norm1"):
        model.run(pixels, strict=True)


def test_pictures_of_no_pixels_and_labels_that_are_too_many_are_refused():
    model = numpy_vit.random_model(crooked_config())
    for shape in ((1, 3, 0, 20), (1, 3, 12, 0), (1, 3, 0, 0)):
        with pytest.raises(InputError, match=f"pixels are {shape[2]}x{shape[3]}"):
            model(np.zeros(shape, np.float32), resize_positions=True)
    for count in (6, 8):
        with pytest.raises(InputError, match=f"{count} labels for 7 classes"):
            ViT(model.config, model.tensors, [str(n) for n in range(count)])


def test_a_contract_binds_sizes_of_its_own():
    sizes = {"D": 3}
    step = Step(sizes, np.dtype("float64"))
    step("x", np.zeros((2, 3)), "B D")
    assert sizes == {"D": 3} and step.sizes == {"B": 2, "D": 3}


# Configs


def test_a_config_holds_pythons_own_integers():
    plain = crooked_config()
    config = crooked_config(width=np.int64(15), image=(np.int32(12), np.int32(20)), depth=np.int16(3), pooler=np.uint8(4))
    assert config == plain and all(type(n) is int for n in (config.width, config.depth, config.pooler, *config.image))
    assert json.loads(json.dumps(config.to_dict())) == json.loads(json.dumps(plain.to_dict()))


def test_an_inner_width_that_is_the_width_is_none():
    assert crooked_config(inner=15) == crooked_config() and crooked_config(inner=20).inner == 20


@pytest.mark.parametrize(
    "changes",
    [dict(registers=1), dict(distillation_token=True), dict(class_token=False)],
)
def test_relative_positions_go_with_a_class_token_alone(changes):
    with pytest.raises(InputError, match="relative positions go with a class token and no other"):
        config_of("relative positions", **changes)


def test_sizes_of_the_published_variants():
    """Width, depth, heads, MLP width. Dosovitskiy et al., table 1; Touvron et al. (DeiT), table 1; Zhai et al., table 2."""
    published = {
        "ViT-Ti/16": (192, 12, 3, 768),
        "ViT-S/16": (384, 12, 6, 1536),
        "ViT-B/16": (768, 12, 12, 3072),
        "ViT-L/16": (1024, 24, 16, 4096),
        "ViT-H/14": (1280, 32, 16, 5120),
        "ViT-g/14": (1408, 40, 16, 6144),
        "ViT-G/14": (1664, 48, 16, 8192),
    }
    for name, sizes in published.items():
        config = variant(name)
        assert (config.width, config.depth, config.heads, config.mlp) == sizes, name


# Threads


def test_products_are_divided_here_only_where_blas_has_one_thread(monkeypatch):
    for ours, blas, expected in (("2", "1", True), ("2", "2", False), ("2", None, False), (None, "1", False)):
        for name, value in ((parallel.THREADS_VARIABLE, ours), ("OPENBLAS_NUM_THREADS", blas)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert parallel.Threads().own_products is expected, (ours, blas)


@pytest.fixture
def two_threads(monkeypatch):
    ours = parallel.Threads()
    ours.count, ours.own_products = 2, True
    monkeypatch.setattr(parallel, "THREADS", ours)
    yield ours
    if ours.pool is not None:
        ours.pool.shutdown()


def test_one_pool_however_many_ask_at_once(two_threads, monkeypatch):
    pools, made = [], parallel.ThreadPoolExecutor

    def slowly(*words):
        pools.append(words)
        time.sleep(0.05)
        return made(*words)

    monkeypatch.setattr(parallel, "ThreadPoolExecutor", slowly)
    callers = [threading.Thread(target=lambda: two_threads.submit(lambda: None).result()) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(pools) == 1


def test_nobody_works_on_after_a_failure(two_threads):
    """Where the caller's own thread fails, the others take nothing more."""
    caller, done = threading.current_thread(), []

    def work(item):
        if threading.current_thread() is caller:
            raise ValueError("mine")
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(ValueError, match="mine"):
        parallel.parallel_for(work, range(300))
    assert len(done) < 100


def test_results_of_chunks_that_end_at_once_are_all_kept(two_threads):
    """The arrays for all results are made once, though the other thread is at it just then."""
    together = threading.Barrier(2)

    class Slow(dict):
        wait = 0.0

        def items(self):
            time.sleep(self.wait)
            self.wait = 0.0
            return super().items()

    def run(pixels):
        results = Slow(x=pixels * 2)
        results.wait = 0.03 if pixels[0, 0] == 1 else 0.1
        together.wait(5)
        return results

    pixels = np.arange(1.0, 9.0).reshape(4, 2)
    assert np.array_equal(parallel.in_chunks(run, pixels, 2)["x"], pixels * 2)


def test_what_is_small_is_not_divided_between_threads(two_threads, monkeypatch):
    """Heads are divided from LEAST numbers of a picture's queries on; a batch is divided by its pictures."""
    tiles, of = [], parallel.TileStep.of
    monkeypatch.setattr(parallel.TileStep, "of", lambda *words: tiles.append(1) or of(*words))
    model = numpy_vit.random_model(crooked_config(heads=3), dtype="float64")  # one query is 16 x 15 numbers
    pixels = crooked_pixels(model.config, batch=1)
    for least, divided in ((16 * 15, True), (16 * 15 + 1, False)):
        monkeypatch.setattr(parallel, "LEAST", least)
        del tiles[:]
        model(pixels, record="*.attention.query")  # so that attention itself is not divided
        assert bool(tiles) is divided, least


def test_exp2_stands_for_exp_only_under_linux_with_avx512(monkeypatch):
    for platform, features, expected in (
        ("linux", ["SSE", "AVX512_SKX"], True),
        ("linux", ["X86_V4"], True),
        ("linux", ["AVX2", "X86_V3"], False),
        ("win32", ["AVX512_SKX"], False),
        ("darwin", ["X86_V4"], False),
    ):
        monkeypatch.setattr(primitives.sys, "platform", platform)
        monkeypatch.setattr(primitives, "simd_features", lambda features=features: features)
        assert primitives._has_exp2() is expected, (platform, features)


# Shapes and costs


def test_cutting_patches_takes_memory_of_its_own():
    """pixels and patches, both in float32: the patches are no view of the pixels."""
    traced = numpy_vit.trace(crooked_config(image=(64, 64), patch=32, width=5, heads=1, mlp=2, depth=1, classes=1, pooler=0))
    assert traced.peak_memory >= 2 * 3 * 64 * 64 * 4


def test_what_does_not_fit_in_place_is_refused_as_by_numpy():
    ledger = Ledger()
    whole, fractions = (ShapeOnly((2, 3), dtype, ledger) for dtype in ("int32", "float32"))
    fractions /= whole
    with pytest.raises(ValueError, match="does not fit into"):
        whole /= fractions
    with pytest.raises(ValueError, match="does not fit into"):
        fractions += ShapeOnly((4, 2, 3), "float32", ledger)


def test_the_last_norm_is_no_part_of_the_head():
    traced = numpy_vit.trace("ViT-B/16")
    parts = {row.name: row.part for row in traced}
    assert (parts["norm"], parts["logits"], parts["blocks.3.norm1"]) == ("norms and sums", "head", "norms and sums")
    assert traced.shares()["head"] == (768 * 1000 + 1000, 768 * 1000)


def test_statistics_are_not_those_of_float32():
    values = np.float32(1000) + np.linspace(-1, 1, 100_001, dtype=np.float32)
    exactly = values.astype(np.float64)
    found = statistics(values)
    assert found["std"] == exactly.std() and found["mean"] == exactly.mean()


def test_values_are_of_a_run_as_asked_for():
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    tensors = {**model.tensors, "embed.projection.bias": np.full(15, np.inf)}
    broken, pixels = ViT(model.config, tensors), crooked_pixels(model.config, batch=1)
    traced = numpy_vit.trace(model.config, dtype="float64")
    with np.errstate(all="ignore"):
        assert with_values(traced, broken, pixels)[1].values["inf"] > 0
        with pytest.raises(InvariantError):
            with_values(traced, broken, pixels, strict=True)


def test_memory_that_the_system_does_not_tell_is_not_made_up(monkeypatch):
    from numpy_vit.cli import benchmarking

    for resets, peak, expected in ((True, 90, 0), (False, 90, None), (False, 100, None), (False, 101, 1), (True, None, None)):
        monkeypatch.setattr(benchmarking, "reset_peak", lambda resets=resets: resets)
        monkeypatch.setattr(benchmarking, "peak_memory", lambda peak=peak: peak)
        assert benchmarking.pass_memory(os.getpid, 100) == expected, (resets, peak)


# Operations


def test_erf_of_float64_is_pythons():
    x = np.concatenate([np.linspace(-7, 7, 4001), [0.0, 1.0, -1.0, 1e-300, 1e-9]])
    for of in (x, x.view(PortableArray)):
        got = np.asarray(ops.erf(of))
        wanted = np.array([math.erf(value) for value in x])
        assert (abs(got - wanted) <= 4 * np.spacing(abs(wanted))).all()


@pytest.mark.parametrize("name", sorted([*ops.ACTIVATIONS, "erf"]))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_single_number_is_an_array_too(name, dtype):
    function = getattr(ops, name)
    one = [()] if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else []  # NumPy 1 makes float64 of it, as of any scalar
    for shape in (*one, (1,), (1, 1, 1), (0,), (2, 0)):
        got = function(np.full(shape, 0.75, dtype))
        assert got.shape == shape and got.dtype == dtype
        assert np.allclose(got, function(np.full(5, 0.75, dtype))[0], rtol=1e-6)


def test_portable_arrays_answer_questions_with_pythons_own():
    x = np.arange(6.0).view(PortableArray)
    assert np.array_equal(x, x) is True and np.array_equal(x, x + 1) is False and np.shape(x) == (6,)
    assert isinstance(np.concatenate([x, x]), PortableArray)


def test_class_token_and_mean_of_the_patches_in_this_order():
    config = config_of("registers")
    model = numpy_vit.random_model(config, dtype="float64")
    out = model(crooked_pixels(config))
    tokens = out.last_hidden_state
    assert tokens.shape[1] == 1 + 4 + 15
    expected = np.concatenate([tokens[:, 0], tokens[:, 5:].mean(axis=1)], axis=1)
    assert np.allclose(out.pooled, expected, rtol=1e-14, atol=1e-16)


# What a run is made of


def test_a_contract_with_changes_is_touched_everywhere_unless_it_says_where():
    def touched(**options):
        step = Step({}, np.dtype("float64"), **options).under("blocks.0")
        return step.touches(), step.touches("mlp")

    assert touched() == (False, False)
    assert touched(change={"x": np.sin}) == touched(hear=lambda *_: None) == (True, True)
    assert touched(hear=lambda *_: None, touched={"blocks.0"}) == (True, False)


def test_pictures_go_through_the_blocks_some_hundred_tokens_at_a_time(monkeypatch):
    sizes = []

    def in_chunks(run, pixels, size):
        sizes.append(size)
        return run(pixels)

    monkeypatch.setattr("numpy_vit.vit.in_chunks", in_chunks)
    model = numpy_vit.random_model(crooked_config())  # 16 tokens
    for tokens in (800, 40, 16, 15, 1):
        monkeypatch.setattr("numpy_vit.vit.CHUNK", tokens)
        model(crooked_pixels(model.config, dtype="float32"))
    assert sizes == [50, 2, 1, 1, 1]


def test_one_picture_is_said_to_be_a_batch_of_one_only_where_it_would_fit():
    model = numpy_vit.random_model(crooked_config())
    for shape, said in (((3, 12, 20), True), ((12, 20, 3), False), ((12, 20), False), ((1, 1, 3, 12, 20), False)):
        with pytest.raises(InputError, match="pixels must be an array") as refused:
            model(np.zeros(shape, np.float32))
        assert ("a batch of one" in str(refused.value)) is said, shape


def test_options_that_mean_the_same_are_the_same():
    names = ("head", "embed.projection", "mlp.output")
    config = crooked_config(without_bias=names)
    assert config == crooked_config(without_bias=list(reversed(names))) and hash(config) == hash(config.replace())
    assert config.without_bias == ("embed.projection", "mlp.output", "head")
    assert crooked_config(without_bias="head").without_bias == ("head",)
    bare = dict(class_token=False, pooling="mean")
    assert crooked_config(**bare, positions="patches") == crooked_config(**bare)
    assert crooked_config(**bare, positions="none").positions == "none"
    assert crooked_config(positions="patches").positions == "patches"


@pytest.mark.parametrize("bad", [0, -1, True, 1.0, "2", None])
def test_a_number_of_threads_is_a_whole_number(bad, two_threads):
    with pytest.raises(ValueError, match="a whole number from 1 on"):
        parallel.set_threads(bad)
    assert two_threads.count == 2
    two_threads.submit(lambda: None).result()
    parallel.set_threads(3)
    assert two_threads.count == 3 and two_threads.pool is None


def test_a_blas_is_held_to_one_thread_only_for_threads_of_our_own(monkeypatch):
    for ours, imported, held in (("2", False, True), ("2", True, False), (None, False, False)):
        with monkeypatch.context() as patch:
            for name in (*threads.BLAS, threads.THREADS_VARIABLE):
                patch.delenv(name, raising=False)
            if ours is not None:
                patch.setenv(threads.THREADS_VARIABLE, ours)
            patch.setattr(threads.sys, "modules", {"numpy": np} if imported else {})
            patch.setenv(threads.BLAS[0], "7")
            threads.limit_blas()
            assert (os.environ[threads.BLAS[0]] == "1") is held, (ours, imported)
            for name in threads.BLAS[1:]:
                assert os.environ.pop(name, None) == ("1" if held else None)


@pytest.mark.parametrize("softmax", [ops.softmax, ops.softmax.formula], ids=["in blocks", "formula"])
@pytest.mark.parametrize("kind", ["float32", "float64", "portable"])
def test_softmax_of_rows_that_are_far_from_0(softmax, kind):
    """A row is its numbers' differences, wherever it lies; the other rows have no part in it."""
    near = np.array([0.0, 1.0, -2.0, 0.5])
    expected = np.exp(near) / np.exp(near).sum()
    tolerance = 1e-5 if kind == "float32" else 1e-12
    for shifts in ([0], [-1000], [1000], [-1000, 0], [0, 1000], [-30, -25, 30], [21, 19], [-21, -19]):
        x = np.array([near + shift for shift in shifts])
        x = x.view(PortableArray) if kind == "portable" else x.astype(kind)
        with np.errstate(all="raise", under="ignore"):
            assert abs(np.asarray(softmax(x)) - expected).max() < tolerance, shifts
    wide = np.array([[0.0, 2000.0, -2000.0]])
    wide = wide.view(PortableArray) if kind == "portable" else wide.astype(kind)
    with np.errstate(all="raise", under="ignore"):
        assert np.asarray(softmax(wide)).tolist() == [[0, 1, 0]]


def test_what_a_change_gives_must_be_an_array():
    model = numpy_vit.random_model(crooked_config())
    pixels = crooked_pixels(model.config, batch=1, dtype="float32")
    for given, said in ((None, "None"), (1.0, "1.0"), ([1.0], r"\[1.0\]")):
        with pytest.raises(InputError, match=rf"change\['norm'\] gave {said}: it must return an array"):
            model(pixels, change={"norm": lambda array, given=given: given})


def test_weights_and_views_take_no_memory_of_activations():
    ledger = Ledger()
    weight = ShapeOnly((5, 3), "float32", ledger, name="w", weight=True)
    assert ledger.in_use == 0
    x = ShapeOnly((2, 5), "float32", ledger, name="x")
    views = [x.reshape(5, 2), x.swapaxes(0, 1), x[:1], weight.swapaxes(0, 1)]
    assert ledger.in_use == ledger.peak == 40
    product = x @ weight
    assert ledger.in_use == ledger.peak == 40 + 24 and product.shape == (2, 3)
    assert [x.reshape(10).shape, x.reshape(-1).shape, x.reshape((5, 2)).shape, x.reshape(5, -1).shape] == [
        (10,),
        (10,),
        (5, 2),
        (5, 2),
    ]
    del product, views
    assert (ledger.in_use, ledger.peak) == (40, 64)


# Groups of options


WRONG_KINDS = ("a word", "", None, 1.5, [0.5], {"a": 1}, -1, ["norm", 5], [0, "1"])


@pytest.mark.parametrize("kind, right", [
    (groups.Windows, dict(side=2, whole=(1,), padded=True)),
    (groups.Merger, dict(side=2, stages=("concat", "output 7"), norm="rms", eps=1e-5, without_bias=("output",))),
    (groups.Deepstack, dict(blocks=(0, 1), merger=dict(side=2, stages=("mean",)))),
])  # fmt: skip
def test_every_field_of_a_group_is_of_its_kind(kind, right):
    """What is of another kind is refused in one line that names the field, whatever Python would make of it."""
    kind(**right)
    for name in right:
        for wrong in (*WRONG_KINDS, *(() if isinstance(right[name], bool) else (True,))):
            if isinstance(right[name], float) and isinstance(wrong, float):
                continue
            with pytest.raises(InputError, match=name) as error:
                kind(**{**right, name: wrong})
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("image", [(16, 20), (20, 16), (20, 20)])
def test_patches_that_cannot_be_merged_along_either_side_are_refused(image):
    """4 x 5, 5 x 4, 5 x 5 patches by two."""
    merged = dict(class_token=False, pooling="none", classes=0, pooler=0)
    crooked_config(image=(16, 24), merger=dict(side=2, stages=("mean",)), **merged)
    with pytest.raises(InputError, match="patches cannot be merged by 2"):
        crooked_config(image=image, merger=dict(side=2, stages=("mean",)), **merged)
