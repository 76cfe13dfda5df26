"""Narrow arithmetics against those who have them: torch's autocast and bfloat16, ONNX Runtime's quantised products.

Every step is computed again from the peer's own inputs. torch adds up float32 products in another order, and rounds a norm's
mean and variance, and a softmax's sum, in float32 on the way; so a number may come to lie on the other side of a tie, and be
one unit in bfloat16's last place off. Nothing else may differ. ONNX Runtime's integers are equal, all of them. (int8 by int8:
on processors without VNNI its uint8 by int8 products saturate in pairs.)
"""

import numpy as np
import pytest

import numpy_vit
from numpy_vit.files.tensorfile import tensor_of
from numpy_vit.golden.alignment import align
from numpy_vit.golden.checking import inputs_of
from numpy_vit.golden.folder import Golden
from numpy_vit.golden.narrow_checking import check_narrow, run_again
from numpy_vit.golden.recording import record
from numpy_vit.models.narrow import NarrowViT, calibrate, chosen, read_grids
from numpy_vit.vit import ViT

from conftest import crooked_config, relative_error

pytestmark = pytest.mark.peers
B, H, K, D = 2, 5, 6, 30


def golden_of(model, pixels, name, grids=None):
    """A golden in an arithmetic, and the model in float64."""
    tensors = {key: np.asarray(tensor, np.float64) for key, tensor in model.tensors.items()}
    narrow = NarrowViT(model, chosen(name), grids)
    manifest, arrays = record(narrow, pixels, store="float32", noise=())
    return Golden("golden", manifest, arrays), ViT(model.config, tensors), narrow


# torch


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """A tiny crooked ViT of transformers, the same read by us, and pixels."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.ViTConfig(
        hidden_size=D, num_hidden_layers=2, num_attention_heads=H, intermediate_size=44, image_size=[8, 20], patch_size=4,
        num_labels=3, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("torch")
    model.save_pretrained(folder)
    pixels = np.random.default_rng(5).normal(size=(B, 3, 8, 20)).astype("f")
    with pytest.warns(UserWarning, match="no preprocessor_config.json"):
        return model, numpy_vit.load(folder, dtype="portable"), pixels


def steps_of(model, run):
    """What torch's modules give, under our names, as float32."""
    import torch

    found = {}

    def hear(name, heads=False):
        def hook(module, inputs, output):
            array = (output[0] if isinstance(output, tuple) else output).detach().float().numpy()
            found[name] = array.reshape(B, -1, H, K).transpose(0, 2, 1, 3) if heads else array

        return hook

    def before(name, heads=False):
        def hook(module, inputs):
            hear(name, heads)(module, None, inputs[0])

        return hook

    handles = [model.vit.embeddings.register_forward_hook(hear("embed.positions"))]
    for n, layer in enumerate(model.vit.layers):
        at, b = layer.attention, f"blocks.{n}."
        for module, name, heads in (
            (layer.layernorm_before, "norm1", False), (layer.layernorm_after, "norm2", False),
            (at.q_proj, "attention.query", True), (at.k_proj, "attention.key", True), (at.v_proj, "attention.value", True),
            (at.o_proj, "attention.output", False), (layer.mlp.fc1, "mlp.hidden", False),
            (layer.mlp.activation_fn, "mlp.gelu", False), (layer, "residual2", False),
        ):  # fmt: skip
            handles.append(module.register_forward_hook(hear(b + name, heads)))
        handles.append(layer.layernorm_after.register_forward_pre_hook(before(b + "residual1")))
        handles.append(at.o_proj.register_forward_pre_hook(before(b + "attention.context", heads=True)))
        handles.append(layer.mlp.fc2.register_forward_hook(hear(b + "mlp.output")))
    handles.append(model.vit.layernorm.register_forward_hook(hear("norm")))
    handles.append(model.classifier.register_forward_hook(hear("logits")))
    with torch.no_grad():
        out = run(model)
    for n, probs in enumerate(out.attentions):
        found[f"blocks.{n}.attention.probs"] = probs.float().numpy()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", ["autocast", "bfloat16"])
def test_torch_step_by_step(upstream, name):
    import copy

    import torch

    model, ours, pixels = upstream
    if name == "bfloat16":
        model = copy.deepcopy(model).to(torch.bfloat16)
        given = torch.from_numpy(pixels).to(torch.bfloat16)
    else:
        given = torch.from_numpy(pixels)

    def run(model):
        with torch.autocast("cpu", torch.bfloat16, enabled=name == "autocast"):
            return model(given, output_attentions=True)

    theirs = steps_of(model, run)
    golden, exact, narrow = golden_of(ours, pixels.astype(float), name)
    dump = {step: tensor_of(np.ascontiguousarray(array)) for step, array in theirs.items()}
    aligned, unknown = align(dump, golden.steps, None, whole=True)
    assert not unknown and len(aligned) == len(dump)
    again = run_again(narrow, golden, aligned, {step: a.array for step, a in aligned.items()}, inputs_of(golden))
    equal = {}
    for step, array in theirs.items():
        mine = np.asarray(again[step])
        if step in ("embed.positions", "blocks.0.attention.probs", "blocks.1.attention.probs"):
            continue  # several operations in one: below
        assert relative_error(array, mine) <= 2.0**-7, step
        equal[step] = float((array == mine).mean())
        units = np.abs(array - mine) / 2.0 ** (np.floor(np.log2(np.maximum(np.abs(mine), 1e-3))) - 7)
        linear = step.split(".")[-1] in ("query", "key", "value", "output", "hidden", "context", "residual1", "residual2")
        assert not linear or units.max() <= 1.0, (step, units.max())
    print(name, {step: round(share, 4) for step, share in equal.items()})
    norms = [step for step in equal if "norm" in step]  # of autocast in float32, where the last bits are another order's
    assert all(share > 0.98 for step, share in equal.items() if step not in norms)
    assert all(equal[step] > (0.98 if name == "bfloat16" else 0.3) for step in norms)
    for n in range(2):
        step = f"blocks.{n}.attention.probs"
        assert relative_error(theirs[step], np.asarray(again[step])) <= 2.0**-6
    assert check_narrow(golden, dump, model=exact).passed


# ONNX Runtime


def exported(model, tokens):
    """A block of ours as an ONNX graph of one picture, its tensors named as steps. 1 / sqrt(K) is a Mul, a power of two."""
    import onnx

    h, c = onnx.helper, model.config
    w = {name: np.asarray(tensor, np.float32) for name, tensor in model.tensors.items()}
    used, nodes = {}, []

    def constant(name, array=None):
        used[name] = np.asarray(w[name] if array is None else array)
        return name

    def add(operation, inputs, output, **attributes):
        nodes.append(h.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def gemm(x, layer, output):
        return add("Gemm", [x, constant(layer + ".weight"), constant(layer + ".bias")], output)

    def norm(x, layer):
        learned = [constant(layer + ".weight"), constant(layer + ".bias")]
        return add("LayerNormalization", [x, *learned], layer, epsilon=c.eps)

    b, D = "blocks.0.", c.width
    a, size = b + "attention.", D // c.heads
    shape, back = constant("shape", np.array([tokens, c.heads, size])), constant("back", np.array([tokens, D]))
    x = norm("x", b + "norm1")
    heads = {}
    for name, order in (("query", (1, 0, 2)), ("key", (1, 2, 0)), ("value", (1, 0, 2))):
        flat = add("Reshape", [gemm(x, a + name, a + name), shape], name + "_split")
        heads[name] = add("Transpose", [flat], name + "_heads", perm=order)
    scores = add("MatMul", [heads["query"], heads["key"]], a + "scores")
    scaled = add("Mul", [scores, constant("factor", np.float32(size**-0.5))], "scaled")
    probs = add("Softmax", [scaled], a + "probs", axis=-1)
    context = add("MatMul", [probs, heads["value"]], a + "context")
    merged = add("Reshape", [add("Transpose", [context], "merged", perm=(1, 0, 2)), back], "flat")
    x = add("Add", ["x", gemm(merged, a + "output", a + "output")], b + "residual1")
    y = gemm(norm(x, b + "norm2"), b + "mlp.hidden", b + "mlp.hidden")
    y = gemm(add("Gelu", [y], b + "mlp.gelu"), b + "mlp.output", b + "mlp.output")
    add("Add", [x, y], b + "residual2")
    kind = onnx.TensorProto.FLOAT
    graph = h.make_graph(
        nodes, "block", [h.make_tensor_value_info("x", kind, [tokens, D])],
        [h.make_tensor_value_info(b + "residual2", kind, [tokens, D])],
        [onnx.numpy_helper.from_array(array, name) for name, array in used.items()],
    )  # fmt: skip
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)


def test_onnx_runtime_quantised_by_its_own_tools(tmp_path):
    """quantize_static (QOperator, int8 by int8, a scale a column): every product's integers, with its scales by --scales."""
    import json

    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    config = crooked_config(image=(8, 20), width=32, heads=2, mlp=44, depth=1, pooler=0)  # K = 16
    model = numpy_vit.random_model(config, seed=3, dtype="portable")
    pixels = np.random.default_rng(1).normal(size=(1, 3, 8, 20))
    x = np.asarray(model(pixels, record=True).steps["embed.positions"], "f")[0]
    onnx.save(exported(model, len(x)), tmp_path / "block.onnx")

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": x}, {"x": x * np.float32(0.9)}]

        def get_next(self):
            return self.left.pop() if self.left else None

    quantize_static(
        tmp_path / "block.onnx", tmp_path / "int8.onnx", Reader(), quant_format=QuantFormat.QOperator, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"],
    )  # fmt: skip
    quantised = onnx.load(tmp_path / "int8.onnx")
    numbers = {w.name: onnx.numpy_helper.to_array(w) for w in quantised.graph.initializer}
    outputs = {name for node in quantised.graph.node for name in node.output}
    products = [node for node in quantised.graph.node if node.op_type in ("QGemm", "QLinearMatMul")]
    assert len(products) == 8
    for name in outputs - {value.name for value in quantised.graph.output}:
        quantised.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(quantised.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    found = dict(zip(names, session.run(names, {"x": x}), strict=True))
    steps, dump = model.step_names(), {}
    scales = calibrate(model, lambda: [pixels], chosen("int8-onnx"))
    scales = {name: {"scale": grid.scale, "zero_point": grid.zero} for name, grid in scales.items()}
    for name in steps:
        if f"{name}_scale" in numbers:
            factor = 0.25 if name.endswith("scores") else 1.0  # ours is after the Mul by 1 / sqrt(16)
            zero = int(numbers[f"{name}_zero_point"])
            scales[name] = {"scale": float(numbers[f"{name}_scale"]) * factor, "zero_point": zero}
        if f"{name}_quantized" in found:
            codes = found[f"{name}_quantized"]
            if name.endswith(("query", "key", "value")):
                codes = codes.reshape(-1, 2, 16).transpose(1, 0, 2)
            dump[name] = tensor_of(np.ascontiguousarray(codes[None]))
    (tmp_path / "scales.json").write_text(json.dumps(scales))
    grids = read_grids(tmp_path / "scales.json", chosen("int8-onnx"), steps)
    golden, exact, _ = golden_of(model, pixels, "int8-onnx", grids)
    checked = check_narrow(golden, dump, model=exact)
    compared = {step.name: step.codes for step in checked.results if step.codes is not None and not step.span}
    wanted = ("query", "key", "value", "scores", "context", "attention.output", "mlp.hidden", "mlp.output")
    for name in wanted:
        codes = next(codes for step, codes in compared.items() if step.endswith(name))
        assert codes.differ == 0, (name, codes)
    print({step: codes.count for step, codes in compared.items()})
