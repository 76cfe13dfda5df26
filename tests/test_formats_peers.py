"""Narrow number formats against ml_dtypes, gguf's quantiser, ONNX Runtime and torch: every number there is, every tie."""

import numpy as np
import pytest

from numpy_vit.arithmetic import formats
from numpy_vit.arithmetic.formats import FLOATS, from_bits, quantise, to_bits, to_float

pytestmark = pytest.mark.peers

SMALL = {
    "float8-e4m3": "float8_e4m3fn",
    "float8-e5m2": "float8_e5m2",
    "float6-e3m2": "float6_e3m2fn",
    "float6-e2m3": "float6_e2m3fn",
    "float4-e2m1": "float4_e2m1fn",
}


def near_ties(name):
    """Every number of a format, every middle between two, and the float32 numbers beside those, of both signs."""
    numbers = from_bits(np.arange(2 ** FLOATS[name].bits), name)
    numbers = np.unique(numbers[np.isfinite(numbers)]).astype(np.float32)
    middles = (numbers[1:] + numbers[:-1]) / np.float32(2)
    beside = [np.nextafter(middles, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([numbers, middles, *beside])


@pytest.mark.parametrize("name", SMALL)
def test_small_floats_are_ml_dtypes(name):
    kind = getattr(pytest.importorskip("ml_dtypes"), SMALL[name])
    x = near_ties(name)
    assert np.array_equal(to_float(x, name), x.astype(kind).astype(np.float64))
    assert np.array_equal(to_bits(to_float(x, name), name), x.astype(kind).view(np.uint8))
    codes = np.arange(2 ** FLOATS[name].bits, dtype=np.uint8)
    assert np.array_equal(from_bits(codes, name), codes.view(kind).astype(np.float64), equal_nan=True)
    large = np.array([460, 464, 470, 57344, 61439, 61440, 1e6, np.inf], np.float32)
    if name.startswith("float8"):  # which ml_dtypes does not saturate
        overflow = "nan" if name == "float8-e4m3" else "infinite"
        assert np.array_equal(to_float(large, name, overflow=overflow), large.astype(kind).astype(np.float64), equal_nan=True)


def test_every_bfloat16_is_that_of_ml_dtypes():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    codes = np.arange(2**16, dtype=np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        values = codes.view(bfloat16).astype(np.float64)
        x = values[np.isfinite(values)].astype(np.float32)
        x = np.concatenate([x, *(x * np.float32(1 + part) for part in (2**-9, 2**-8 - 2**-20, 2**-8, 2**-8 + 2**-20))])
    assert np.array_equal(from_bits(codes, "bfloat16"), values, equal_nan=True)
    assert np.array_equal(to_float(x, "bfloat16"), x.astype(bfloat16).astype(np.float64))


def test_random_bits_of_float32_to_every_format():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.random.default_rng(0).integers(0, 2**32, 2_000_000, dtype=np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    assert np.array_equal(to_float(x, "bfloat16"), x.astype(ml_dtypes.bfloat16).astype(np.float64))
    for name, kind in SMALL.items():
        inside = x[np.abs(x) <= FLOATS[name].largest]
        assert np.array_equal(to_float(inside, name), inside.astype(getattr(ml_dtypes, kind)).astype(np.float64))


def test_torch_saturates_e4m3():
    torch = pytest.importorskip("torch")
    x = np.concatenate([near_ties("float8-e4m3"), np.float32([449, 480, 1e5])])
    theirs = torch.tensor(x).to(torch.float8_e4m3fn).to(torch.float64).numpy()
    if np.isnan(theirs).any():
        pytest.skip("before 2.12 torch did not saturate")
    assert np.array_equal(to_float(x, "float8-e4m3"), theirs)


@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_ggml_blocks_are_ggufs(name):
    gguf = pytest.importorskip("gguf")
    kind = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 96)).astype(np.float32) * (10.0 ** rng.integers(-6, 5, (500, 1))).astype(np.float32)
    x[:50] = rng.integers(-8, 9, (50, 96))  # equal extremes of both signs, and zeros
    x[50] = 0
    found = getattr(formats, name)(x)
    packed = gguf.quants.quantize(x, kind)
    assert formats.ggml_bytes(found, name) == packed.tobytes()
    assert np.array_equal(found.values.astype(np.float32), gguf.quants.dequantize(packed, kind))


def test_mxfp4_is_ggufs_but_for_ties():
    """gguf takes the nearest of a table, so ties go toward zero; it has the same scales."""
    gguf = pytest.importorskip("gguf")
    x = np.random.default_rng(1).standard_normal((200, 64)).astype(np.float32)
    theirs = gguf.quants.dequantize(gguf.quants.quantize(x, gguf.GGMLQuantizationType.MXFP4), gguf.GGMLQuantizationType.MXFP4)
    assert np.array_equal(formats.mx(x, "float4-e2m1").values.astype(np.float32), theirs)


def runtime(nodes, inputs, outputs):
    """An ONNX Runtime session of one operator."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    helper = onnx.helper
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for name, a in inputs.items()
    ]
    made = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), None)
        for name, kind in outputs.items()
    ]
    model = helper.make_model(helper.make_graph(nodes, "one", given, made), opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        None, inputs
    )


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("per", ["tensor", "column"])
def test_quantize_linear_is_onnx_runtimes(kind, per):
    onnx = pytest.importorskip("onnx")
    rng, ends = np.random.default_rng(0), np.iinfo(kind)
    scale = np.asarray(rng.uniform(0.01, 0.1, 40 if per == "column" else ()), np.float32)
    zero = rng.integers(ends.min // 2, ends.max // 2, 40 if per == "column" else ()).astype(kind)
    x = (scale * rng.integers(-300, 300, (4000, 40)) / 2).astype(np.float32)  # half of them ties, or next to one
    x[0, :5] = 0, 1e30, -1e30, np.inf, -np.inf
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], axis=1)
    (codes,) = runtime([node], {"x": x, "s": scale, "z": zero}, {"y": kind})
    ours = quantise(x, scale, zero.astype(np.float64), ends.min, ends.max)
    assert (ours == codes).all()
    node = onnx.helper.make_node("DequantizeLinear", ["y", "s", "z"], ["x"], axis=1)
    (real,) = runtime([node], {"y": codes, "s": scale, "z": zero}, {"x": "float32"})
    assert np.array_equal(formats.dequantise(codes, scale, zero.astype(np.float64)), real)


def test_dynamic_quantize_linear_is_onnx_runtimes():
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    rng = np.random.default_rng(0)
    for n in range(300):
        x = (rng.standard_normal(1000) * 10.0 ** rng.integers(-4, 4) + rng.integers(-2, 3)).astype(np.float32)
        x = 0 * x if n == 0 else np.abs(x) if n == 1 else x
        y, s, z = runtime([node], {"x": x}, {"y": "uint8", "s": "float32", "z": "uint8"})
        codes, scale, zero = formats.dynamic_quantise(x)
        assert (codes == y).all() and np.float32(scale) == s and zero == z


def test_scales_are_those_of_onnx_runtimes_quantiser():
    utils = pytest.importorskip("onnxruntime.quantization.quant_utils")
    rng = np.random.default_rng(0)
    for n in range(500):
        low, high = sorted(rng.standard_normal(2) * 10.0 ** rng.integers(-3, 4))
        for lowest, highest, symmetric in ((-128, 127, False), (0, 255, False), (-127, 127, True)):
            zero, scale = utils.compute_scale_zp(
                np.array(low), np.array(high), np.array(lowest), np.array(highest), symmetric=symmetric
            )
            ours = formats.scale_of(low, high, lowest, highest, symmetric)
            assert ours == (float(np.float32(scale)), int(zero)), (n, low, high)
