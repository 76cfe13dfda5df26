"""Threads, blocks and chunks change no number beyond rounding, hear every step, and pass on what fails."""

import os

import numpy as np
import pytest
from options import OPTIONS, PLAIN

import numpy_vit
from numpy_vit import ops
from numpy_vit.arithmetic import parallel
from numpy_vit.config import ViTConfig

from conftest import crooked_config, crooked_pixels


@pytest.fixture(params=[(1, False), (2, True), (3, True), (3, False)], ids=lambda p: f"{p[0]} threads{', own products' * p[1]}")
def threads(request, monkeypatch):
    """So many threads, as if the process had been started so."""
    ours = parallel.Threads()
    ours.count, ours.own_products = request.param
    monkeypatch.setattr(parallel, "THREADS", ours)
    yield ours
    if ours.pool is not None:
        ours.pool.shutdown()


def difference(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_a_batch_in_chunks_is_the_pictures_one_by_one(threads, batch, monkeypatch):
    monkeypatch.setattr("numpy_vit.vit.CHUNK", 40)  # two or three pictures
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels = crooked_pixels(model.config, batch=batch)
    heard = model(pixels, record=True)  # every step whole
    out = model(pixels)
    for name in ("last_hidden_state", "pooled", "logits"):
        assert getattr(out, name).shape == getattr(heard, name).shape
        assert difference(getattr(out, name), getattr(heard, name)) < 1e-13, name


def test_long_sequences_in_parts(threads, monkeypatch):
    monkeypatch.setattr(parallel, "BLOCK", 64)
    monkeypatch.setattr(parallel, "QUERIES", 7)
    monkeypatch.setattr(parallel, "LEAST", 8)
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels = crooked_pixels(model.config, batch=2)
    heard, out = model(pixels, record=True), model(pixels)
    assert difference(out.last_hidden_state, heard.last_hidden_state) < 1e-13
    some = model(pixels, record="blocks.*.residual2")  # somebody listens, but not to scores
    assert difference(some.steps["blocks.0.residual2"], heard.steps["blocks.0.residual2"]) < 1e-13


def test_only_touched_steps_leave_the_fast_way(monkeypatch):
    tiles = []
    of = parallel.TileStep.of
    monkeypatch.setattr(parallel, "BLOCK", 64)
    monkeypatch.setattr(parallel.TileStep, "of", lambda step, *rest: tiles.append(step.path) or of(step, *rest))
    model = numpy_vit.random_model(crooked_config(depth=3), dtype="float64")
    pixels = crooked_pixels(model.config, batch=1)
    probs = "blocks.1.attention.probs"
    for options, blocks in (
        (dict(record="blocks.*.residual2"), {0, 1, 2}),
        (dict(record=probs), {0, 2}),
        (dict(change={probs: lambda array: array}), {0, 2}),
        (dict(record=True), set()),
        (dict(record=lambda *heard: None), set()),
        (dict(change={probs: lambda array, run: array}), set()),
    ):
        tiles.clear()
        model(pixels, **options)
        assert {int(path.split(".")[1]) for path in tiles} == blocks, options


SHARED = ViTConfig(**PLAIN).replace(heads=6, mlp=42)  # by two and by three
SHARED_OPTIONS = {"plain": {}, "gated": dict(gated_mlp=True, activation="silu"), **OPTIONS}


@pytest.mark.parametrize("option", SHARED_OPTIONS)
def test_heads_and_hidden_numbers_in_shares(threads, option, monkeypatch):
    """One picture, in as many shares as there are threads: the numbers of a run that is heard, which has none."""
    shares = []
    monkeypatch.setattr(parallel, "LEAST", 8)
    narrowed = parallel.narrowed
    monkeypatch.setattr(parallel, "narrowed", lambda *what: shares.append(narrowed(*what)) or shares[-1])
    config = SHARED.replace(**SHARED_OPTIONS[option])
    model = numpy_vit.random_model(config, dtype="float64")
    pixels = crooked_pixels(config, batch=1)
    heard = model(pixels, record=True)
    assert not shares
    out = model(pixels)
    shares = [share for share in shares if share is not None]
    for name in ("last_hidden_state", "pooled", "logits", "image_embedding"):
        if getattr(heard, name) is not None:
            assert difference(getattr(out, name), getattr(heard, name)) < 1e-13, name
    of = threads.count if threads.own_products and not config.clipped_linears else 1
    divided = of > 1 and not config.context_norm and (config.qk_norm_of_heads or not config.qk_norm)
    assert {(c.heads, c.head_dim) for c in shares if c.mlp == 42} == ({(6 // of, config.head_dim)} if divided else set())
    assert {c.mlp for c in shares if c.heads == 6} == ({42 // of} if of > 1 and not config.mlp_norm else set())


@pytest.mark.parametrize("changes", [dict(heads=5, inner=20), dict(mlp=41), dict(heads=5, inner=20, mlp=41)])
def test_what_cannot_be_shared_equally(threads, changes, monkeypatch):
    monkeypatch.setattr(parallel, "LEAST", 8)
    model = numpy_vit.random_model(SHARED.replace(**changes), dtype="float64")
    pixels = crooked_pixels(model.config, batch=1)
    assert difference(model(pixels).logits, model(pixels, record=True).logits) < 1e-13


@pytest.mark.parametrize("batch", [1, 3])
def test_float32_is_as_near_to_float64_however_it_is_parallel(threads, batch, monkeypatch):
    monkeypatch.setattr(parallel, "LEAST", 8)
    monkeypatch.setattr(parallel, "BLOCK", 640)
    accurate, model = (numpy_vit.random_model(SHARED.replace(depth=4), dtype=dtype) for dtype in ("float64", "float32"))
    pixels = crooked_pixels(model.config, batch=batch, dtype="float32")
    out, expected = model(pixels), accurate(pixels.astype("float64"))
    assert difference(out.last_hidden_state, expected.last_hidden_state) < 32 * np.finfo("float32").eps
    assert difference(out.logits, expected.logits) < 32 * np.finfo("float32").eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_in_blocks(threads, dtype, monkeypatch):
    monkeypatch.setattr(parallel, "BLOCK", 4096)
    x = np.random.default_rng(0).normal(size=(3, 701, 97)).astype(dtype)
    weight, bias = np.random.default_rng(1).normal(size=(2, 97)).astype(dtype)
    norm = ops.layer_norm, (weight, bias, 1e-6)
    for function, rest in ((ops.softmax, ()), norm, (ops.gelu, ()), (ops.erf, ()), (ops.quick_gelu, ()), (ops.relu, ())):
        whole = function(x[0, :1], *rest)
        blocks = function(x, *rest)
        assert blocks.dtype == x.dtype and difference(blocks[0, :1], whole) < 4 * np.finfo(dtype).eps, function
        assert difference(blocks, function.formula(x, *rest)) < 8 * np.finfo(dtype).eps, function
        turned = function(x.swapaxes(0, 1), *rest)  # not contiguous
        assert np.array_equal(turned, blocks.swapaxes(0, 1)), function
    w, b = np.random.default_rng(1).normal(size=(97, 203)).astype(dtype), np.arange(203, dtype=dtype)
    assert difference(ops.linear(x, w, b), (x.astype("float64") @ w.astype("float64") + b)) < 64 * np.finfo(dtype).eps


def test_every_thread_has_the_callers_errstate(threads):
    """Overflow may come in any of them."""
    large = np.full(2, 1e300)
    with np.errstate(over="ignore"):
        parallel.parallel_for(lambda item: large * large, range(100))
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        parallel.parallel_for(lambda item: item and large * large, [0] * 50 + [1] * 50)


def test_a_failure_is_raised_and_stops_the_rest(threads):
    done = []

    def work(item):
        if item == 3:
            raise ValueError("three")
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        parallel.parallel_for(work, range(1000))
    assert len(done) < 1000
    parallel.parallel_for(done.append, ["next"])
    assert done[-1] == "next"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_after_a_fork(monkeypatch):
    """A child has none of its parent's threads: it must not wait for them."""
    monkeypatch.setattr(parallel.THREADS, "count", 2)
    monkeypatch.setattr(parallel.THREADS, "own_products", True)
    parallel.parallel_for(lambda item: None, range(4))
    child = os.fork()
    if child == 0:
        results = []
        parallel.parallel_for(results.append, range(4))
        os._exit(0 if sorted(results) == [0, 1, 2, 3] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_an_mlp_takes_some_tokens_at_a_time(threads, monkeypatch):
    """All of them, each once, wherever the parts end: the whole's shape and numbers."""
    model = numpy_vit.random_model(crooked_config(), dtype="float64")
    pixels, taken, mlp = crooked_pixels(model.config, batch=3), [], numpy_vit.model.mlp

    def noted(x, *rest):
        taken.append(x.shape[0] * x.shape[1])
        return mlp(x, *rest)

    whole = model(pixels).last_hidden_state
    for rows in (1, 7, 16, 47, 48, 49):
        monkeypatch.setattr(parallel, "ROWS", rows)
        monkeypatch.setitem(parallel.RUN, mlp, lambda mlp, *rest: parallel.some_tokens_at_a_time(noted)(*rest))
        taken.clear()
        assert difference(model(pixels).last_hidden_state, whole) < 1e-13
        assert sum(taken) == model.config.depth * 48 and max(taken) < 2 * max(rows, 8)
