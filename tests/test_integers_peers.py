"""Integer arithmetic against ONNX Runtime: its kernels one by one, and every integer node of blocks its own tools quantised."""

import functools
from collections import Counter

import numpy as np
import pytest

from numpy_vit.arithmetic import formats
from numpy_vit.arithmetic.integers import accumulate, add_onnx, matmul_integer, requantise_onnx, softmax_onnx

pytestmark = pytest.mark.peers
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

OURS = {"": 21, "com.microsoft": 1}
PAIRS = [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")]
f32 = np.float32


def session(model, fused=False, save=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if fused else level.ORT_DISABLE_ALL
    if save:
        options.optimized_model_filepath = str(save)
    content = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def model_of(graph):
    opsets = [onnx.helper.make_opsetid(*item) for item in OURS.items()]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def run(operation, *inputs, **attributes):
    """The one output of an operation of ONNX or, where it is theirs, of com.microsoft."""
    h = onnx.helper
    inputs = {f"x{i}": np.asarray(x) for i, x in enumerate(inputs)}
    values = [h.make_tensor_value_info(k, h.np_dtype_to_tensor_dtype(x.dtype), x.shape) for k, x in inputs.items()]
    domain = "com.microsoft" if operation in ("QLinearAdd", "QLinearSoftmax") else ""
    node = h.make_node(operation, list(inputs), ["y"], domain=domain, **attributes)
    graph = h.make_graph([node], "g", values, [h.make_empty_tensor_value_info("y")])
    return session(model_of(graph)).run(None, inputs)[0]


def codes(rng, dtype, *shape, bits=8):
    info = np.iinfo(dtype)
    return rng.integers(info.min >> (8 - bits), (info.max >> (8 - bits)) + 1, shape).astype(dtype)


def scale(rng, low=0.002, high=0.2):
    return f32(np.exp(rng.uniform(np.log(low), np.log(high))))


def ends(array):
    info = np.iinfo(array.dtype)
    return info.min, info.max


# Kernels one by one


@pytest.mark.parametrize("types", PAIRS, ids="-".join)
def test_matmul_integer(types):
    """Signed weights in 7 bits, which no processor's kernel saturates; see the test below."""
    rng = np.random.default_rng(0)
    for k in (1, 7, 64, 768):
        a, b = codes(rng, types[0], 3, 40, k), codes(rng, types[1], k, 96, bits=7 if types == ("uint8", "int8") else 8)
        zero_a, zero_b = codes(rng, types[0], 1)[0], codes(rng, types[1], 1)[0]
        upstream = run("MatMulInteger", a, b, zero_a, zero_b)
        assert upstream.dtype == np.int32 and (upstream != matmul_integer(a, b, zero_a, zero_b)).sum() == 0


def test_matmul_integer_of_zero_points_by_row_and_column():
    """As the specification allows; ONNX Runtime takes those of columns alone."""
    rng = np.random.default_rng(1)
    a, b = codes(rng, "uint8", 40, 64), codes(rng, "uint8", 64, 96)
    zeros = codes(rng, "uint8", 96)
    assert (run("MatMulInteger", a, b, np.uint8(9), zeros) == matmul_integer(a, b, 9, zeros)).all()
    rows = codes(rng, "uint8", 40)
    by_row = np.concatenate([matmul_integer(a[i : i + 1], b, rows[i], zeros) for i in range(40)])
    assert (matmul_integer(a, b, rows, zeros) == by_row).all()


def in_saturated_pairs(a, b, zero_a, zero_b):
    """The codes as they are go through vpmaddubsw; the zero points are taken off what comes out."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    zero_a, zero_b = np.float64(zero_a), np.asarray(zero_b, np.float64)
    correction = zero_a * b.sum(axis=-2, keepdims=True) + zero_b * a.sum(axis=-1, keepdims=True)
    return accumulate(a, b, "pairs16") - correction + a.shape[-1] * zero_a * zero_b


@functools.cache
def saturates_here():
    """Does the processor lack VNNI, so that uint8 by int8 saturates?"""
    a, b = np.full((1, 2), 255, np.uint8), np.full((2, 1), 127, np.int8)
    return bool(run("MatMulInteger", a, b)[0, 0] != 2 * 255 * 127)


def accumulator(a, b, zero_a, zero_b):
    """What ONNX Runtime computes on this processor."""
    if (a.dtype, b.dtype) == (np.uint8, np.int8) and saturates_here():
        return in_saturated_pairs(a, b, zero_a, zero_b)
    return matmul_integer(a, b, zero_a, zero_b)


def test_uint8_by_int8_is_exact_or_saturates_in_pairs():
    """What the processor has decides: VNNI adds exactly, its forerunner vpmaddubsw in saturating pairs. Never anything else."""
    rng = np.random.default_rng(2)
    for k in (8, 63, 64, 192, 768):
        a, b = codes(rng, "uint8", 2, 50, k), codes(rng, "int8", k, 60)
        zero_a, zero_b = codes(rng, "uint8", 1)[0], codes(rng, "int8", 1)[0]
        upstream = run("MatMulInteger", a, b, zero_a, zero_b)
        assert (accumulator(a, b, zero_a, zero_b) != upstream).sum() == 0
        assert (matmul_integer(a, b, zero_a, zero_b) != in_saturated_pairs(a, b, zero_a, zero_b)).any()


@pytest.mark.parametrize("types", PAIRS, ids="-".join)
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_qlinear_matmul(types, per_column, ties):
    rng = np.random.default_rng(3)
    middle = [128 if kind == "uint8" else 0 for kind in types]
    for k in (16, 64, 192):
        a, b = codes(rng, types[0], 150, k), codes(rng, types[1], k, 96)
        zero_a, zero_b, zero_y = (rng.integers(-9, 9) + middle[i] for i in (0, 1, 0))
        scale_a, scale_b = scale(rng), scale(rng)
        if per_column:
            scale_b = rng.uniform(0.7, 1.3, 96).astype(f32) * scale_b
        scale_y = f32(74 * 74 * np.sqrt(k) / 50 * scale_a * np.mean(scale_b))
        if ties:
            scale_a, scale_y = f32(0.5), f32(2.0 ** np.round(np.log2(74 * 74 * np.sqrt(k) / 50)))
            scale_b = f32(2) ** rng.integers(-1, 3, 96).astype(f32) if per_column else f32(2)
        zeros_b = np.full(96, zero_b) if per_column else zero_b
        zeros = [
            np.asarray(zero).astype(kind) for zero, kind in zip((zero_a, zeros_b, zero_y), (*types, types[0]), strict=True)
        ]
        upstream = run("QLinearMatMul", a, scale_a, zeros[0], b, scale_b, zeros[1], scale_y, zeros[2])
        acc = accumulator(a, b, zero_a, zero_b)
        ours = requantise_onnx(acc, scale_a, scale_b, scale_y, zero_y, *ends(upstream))
        assert (ours != upstream).sum() == 0 and len(np.unique(upstream)) > 150


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_add(dtype):
    """All pairs of codes."""
    rng = np.random.default_rng(4)
    low, high = ends(np.empty(0, dtype))
    every = np.arange(low, high + 1).astype(dtype)
    a, b = np.repeat(every, 256)[None], np.tile(every, 256)[None]
    for case in range(60):
        scales = (f32(1), f32(0.5), f32(2)) if case < 3 else tuple(scale(rng) for _ in range(3))
        zeros = codes(rng, dtype, 3)
        upstream = run("QLinearAdd", a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2])
        z = zeros.astype(int)
        ours = add_onnx(a, b, scales[0], z[0], scales[1], z[1], scales[2], z[2], *ends(a))
        assert (ours != upstream).sum() == 0, f"case {case}: {(ours != upstream).sum()} of {a.size} differ"


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("levels", [256, 255, 200])
def test_softmax(dtype, levels):
    rng = np.random.default_rng(5)
    low, high = ends(np.empty(0, dtype))
    for n in (2, 16, 197, 1000):
        for unit in (0.002, 0.01, 0.05, 0.1, 0.4, 1.0):
            q = codes(rng, dtype, 150, n)
            q[:50] = np.clip(rng.normal(size=(50, n)) * 20, low, high)
            q[50] = 5
            zero = np.dtype(dtype).type(low if levels > 200 else low + 7)
            upstream = run("QLinearSoftmax", q, f32(unit), q[0, 0], f32(1 / levels), zero, axis=-1, opset=13)
            ours = softmax_onnx(q, unit, scale_y=1 / levels, zero_y=int(zero), low=low, high=high)
            assert (ours != upstream).sum() == 0, f"{(ours != upstream).sum()} of {q.size} differ: {n} terms, scale {unit}"


@pytest.mark.parametrize(
    "levels, row",
    [
        (255, [127, 228, 124, 193]),
        (255, [43, 114, 205, 217]),
        (255, [111, 139, 101, 206]),
        (256, [43, 138, 213, 128]),
        (256, [107, 235, 20, 18]),
    ],
)
def test_softmax_where_a_quotient_of_float32_would_be_another(levels, row):
    q = np.array([row], np.uint8)
    upstream = run("QLinearSoftmax", q, f32(0.002), np.uint8(0), f32(1 / levels), np.uint8(0), axis=-1, opset=13)
    assert (upstream == softmax_onnx(q, 0.002, scale_y=1 / levels)).all()


def test_softmax_along_another_axis():
    q = codes(np.random.default_rng(6), "uint8", 5, 40, 7)
    upstream = run("QLinearSoftmax", q, f32(0.03), np.uint8(3), f32(1 / 256), np.uint8(0), axis=1, opset=13)
    assert (upstream == softmax_onnx(q, 0.03, axis=1)).all()


# Blocks quantised by its own tools


def block(rng, batch=4, tokens=50, width=48, heads=4, hidden=96):
    """A pre-norm Transformer block in float32; attention's output projection is a Gemm, other linear layers MatMul + Add."""
    h, head = onnx.helper, width // heads
    weights, nodes = {}, []

    def add(operation, *inputs, **attributes):
        nodes.append(h.make_node(operation, list(inputs), [f"{operation}_{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def constant(array):
        name = f"w{len(weights)}"
        weights[name] = np.asarray(array)
        return name

    def normal(*shape, size=1.0):
        return constant((rng.normal(size=shape) * size).astype(f32))

    def linear(x, inputs, outputs):
        return add("Add", add("MatMul", x, normal(inputs, outputs, size=inputs**-0.5)), normal(outputs, size=0.2))

    def norm(x):
        return add("LayerNormalization", x, constant(rng.uniform(0.5, 1.5, width).astype(f32)), normal(width, size=0.1))

    def by_head(x, order):
        return add("Transpose", add("Reshape", x, constant([batch, tokens, heads, head])), perm=order)

    normed = norm("pixels")
    query, key, value = (by_head(linear(normed, width, width), order) for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    scores = add("Mul", add("MatMul", query, key), constant(f32(head**-0.5)))
    context = add("Transpose", add("MatMul", add("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
    flat = add("Reshape", context, constant([batch * tokens, width]))
    projected = add("Gemm", flat, normal(width, width, size=width**-0.5), normal(width, size=0.2))
    after_attention = add("Add", "pixels", add("Reshape", projected, constant([batch, tokens, width])))
    mlp = linear(add("Gelu", linear(norm(after_attention), width, hidden)), hidden, width)
    result = add("Add", after_attention, mlp)
    shape = [batch, tokens, width]
    graph = h.make_graph(
        nodes, "block", [h.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, shape)],
        [h.make_tensor_value_info(result, onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(w, name) for name, w in weights.items()],
    )  # fmt: skip
    return model_of(graph), shape


def pictures(rng, shape, count):
    """Calibration data: the reader that quantize_static wants."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"pixels": rng.normal(size=shape).astype(f32)} for _ in range(count)]

        def get_next(self):
            return self.left.pop() if self.left else None

    return Reader()


def every_tensor(model, inputs):
    """Run a model with every intermediate tensor an output, nothing fused -> all tensors by name."""
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer} | inputs
    names = [name for node in model.graph.node for name in node.output if name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return tensors | dict(zip(names, session(model).run(names, inputs), strict=True))


def along(array, axis, rank):
    """A scale or zero point for each index along an axis, so that it broadcasts; a scalar as it is."""
    array = np.asarray(array).reshape(-1)
    return array[0] if array.size == 1 else array.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def recomputed(node, x):
    """What we make of a node's inputs, a value for each of its outputs; None for an operation in floating point."""
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    match node.op_type:
        case "QuantizeLinear":
            values, scale, zero = x
            placed = along(scale, axis, values.ndim), along(zero, axis, values.ndim).astype(np.float64)
            return [formats.quantise(values, *placed, *ends(np.asarray(zero)))]
        case "DequantizeLinear":
            codes, scale, zero = x if len(x) == 3 else (*x, np.zeros(1, x[0].dtype))
            placed = along(scale, axis, codes.ndim), along(zero, axis, codes.ndim).astype(np.float64)
            return [formats.dequantise(codes, *placed)]
        case "DynamicQuantizeLinear":
            return formats.dynamic_quantise(*x)
        case "MatMulInteger":
            return [accumulator(*x)]
        case "QLinearMatMul":
            a, scale_a, zero_a, b, scale_b, zero_b, scale_y, zero_y = x
            acc = accumulator(a, b, zero_a.item(), zero_b)
            return [requantise_onnx(acc, scale_a, scale_b, scale_y, int(zero_y.item()), *ends(zero_y))]
        case "QGemm":
            a, scale_a, zero_a, b, scale_b, zero_b, bias, scale_y, zero_y = x
            acc = accumulator(a, b, zero_a.item(), zero_b) + bias
            return [requantise_onnx(acc, scale_a, scale_b, scale_y, int(zero_y.item()), *ends(zero_y))]
        case "QLinearAdd":
            numbers = (n.item() for n in (*x[1:3], *x[4:8]))
            return [add_onnx(x[0], x[3], *numbers, *ends(x[7]))]
        case "QLinearSoftmax":
            return [softmax_onnx(x[0], x[1].item(), axis, x[3].item(), x[4].item(), *ends(x[4]))]
    return None


def compared(model, inputs):
    """Every node we can compute, recomputed from its own inputs -> how many values of each operation, how many differ."""
    tensors = every_tensor(model, inputs)
    seen, differ = Counter(), Counter()
    for node in model.graph.node:
        ours = recomputed(node, [tensors[name] for name in node.input if name])
        for name, result in zip(node.output, ours or [], strict=ours is not None):
            assert tensors[name].shape == np.shape(result), node.op_type
            seen[node.op_type] += tensors[name].size
            differ[node.op_type] += int((tensors[name] != result).sum())
    return seen, differ


def check(model, inputs, operations):
    seen, differ = compared(model, inputs)
    print(dict(seen))
    assert not +differ, f"{dict(differ)} of {dict(seen)} differ"
    assert all(seen[operation] > 5000 for operation in operations), seen


@pytest.fixture
def quantised(tmp_path):
    """Quantise a block by ONNX Runtime's own tool -> the model, its path, inputs for it."""
    from onnxruntime import quantization

    def quantised(tool, **options):
        rng = np.random.default_rng(7)
        model, shape = block(rng)
        path = tmp_path / "quantised.onnx"
        arguments = () if tool == "quantize_dynamic" else (pictures(rng, shape, 3),)
        kinds = {key: getattr(quantization.QuantType, options.pop(key)) for key in list(options) if key.endswith("_type")}
        if "quant_format" in options:
            options["quant_format"] = getattr(quantization.QuantFormat, options["quant_format"])
        getattr(quantization, tool)(model, path, *arguments, **kinds, **options)
        inputs = {"pixels": (rng.normal(size=shape) * 1.2).astype(f32)}  # some beyond the calibrated range
        return onnx.load(path), path, inputs

    return quantised


TYPES = pytest.mark.parametrize(
    "activation, weight, reduce_range",
    [("QInt8", "QInt8", False), ("QUInt8", "QUInt8", False), ("QUInt8", "QInt8", False), ("QUInt8", "QInt8", True)],
)


@TYPES
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_block_of_quantised_operators(quantised, activation, weight, reduce_range, per_channel):
    model, _, inputs = quantised(
        "quantize_static", quant_format="QOperator", activation_type=activation, weight_type=weight,
        per_channel=per_channel, reduce_range=reduce_range,
    )  # fmt: skip
    integer = ("QuantizeLinear", "DequantizeLinear", "QLinearMatMul", "QLinearAdd", "QLinearSoftmax", "QGemm")
    check(model, inputs, integer)


@TYPES
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_block_with_quantise_dequantise_pairs(quantised, tmp_path, activation, weight, reduce_range, per_channel):
    """As it stands (each product in floating point between the pairs), and as ONNX Runtime fuses it."""
    model, path, inputs = quantised(
        "quantize_static", quant_format="QDQ", activation_type=activation, weight_type=weight,
        per_channel=per_channel, reduce_range=reduce_range,
    )  # fmt: skip
    check(model, inputs, ("QuantizeLinear", "DequantizeLinear"))
    session(str(path), fused=True, save=tmp_path / "fused.onnx")
    check(onnx.load(tmp_path / "fused.onnx"), inputs, ("QuantizeLinear", "DequantizeLinear", "QLinearMatMul"))


@pytest.mark.parametrize("weight, reduce_range", [("QUInt8", False), ("QInt8", False), ("QInt8", True)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_block_quantised_as_it_runs(quantised, weight, reduce_range, per_channel):
    model, _, inputs = quantised("quantize_dynamic", weight_type=weight, reduce_range=reduce_range, per_channel=per_channel)
    check(model, inputs, ("DynamicQuantizeLinear", "MatMulInteger"))
