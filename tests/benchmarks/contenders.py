"""The contenders: how each loads the model of a folder (see materials.py), takes pixels and gives logits.

Each runs as it is meant to be run for inference: torch under inference_mode, ONNX Runtime on the exported graph with all
its optimisations, JAX compiled. What is the same in all is in worker.py: float32, so many processors, one input.
"""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from materials import config_in

Array = Any


class Loaded(NamedTuple):
    """A model, ready to run."""

    feed: Callable[[Array], Any]  # pixels as the library wants them; not timed
    run: Callable[[Any], Any]  # what is timed; comes back when the numbers are there
    logits: Callable[[Any], Array | None]
    touch: Callable[[], Any]  # reads every weight, so that it is in memory
    version: str


def numpy_vit_(folder: Path, threads: int) -> Loaded:
    import numpy_vit
    from numpy_vit.cli.benchmarking import touch

    model = numpy_vit.load(folder / "model.safetensors")
    version = f"numpy_vit {numpy_vit.__version__}, NumPy {np.__version__}"
    return Loaded(np.asarray, model, lambda out: out.logits, lambda: touch(model), version)


def products(folder: Path, threads: int) -> Loaded:
    """The matrix products alone: no contender, the bound of what NumPy's BLAS can do."""
    from numpy_vit import trace
    from numpy_vit.cli.benchmarking import BareProducts

    def feed(pixels: Array) -> BareProducts:
        return BareProducts(trace(config_in(folder), batch=len(pixels)))

    return Loaded(feed, lambda bare: bare(), lambda _: None, lambda: None, f"NumPy {np.__version__}")


def torch_model(model: Any, threads: int, logits: Callable[[Any], Any], version: str) -> Loaded:
    import torch

    torch.set_num_threads(threads)

    @torch.inference_mode()
    def run(pixels: Any) -> Any:
        return logits(model(pixels))

    def touch() -> None:
        for parameter in model.parameters():
            parameter.sum()

    return Loaded(torch.from_numpy, run, lambda out: out.numpy(), touch, f"{version}, torch {torch.__version__}")


def transformers(folder: Path, threads: int, attention: str, compiled: bool = False) -> Loaded:
    import torch
    import transformers

    model = transformers.AutoModelForImageClassification.from_pretrained(folder / "hf", attn_implementation=attention).eval()
    if compiled:
        model = torch.compile(model, dynamic=False)
    return torch_model(model, threads, lambda out: out.logits, f"transformers {transformers.__version__}")


def timm(folder: Path, threads: int) -> Loaded:
    import torch
    import torchvision_stub  # noqa: F401  before timm, which needs nothing of it here
    from safetensors.torch import load_file

    import timm  # isort: skip

    c = config_in(folder)
    model = timm.models.VisionTransformer(
        img_size=c.image, patch_size=c.patch, in_chans=c.channels, num_classes=c.classes, embed_dim=c.width, depth=c.depth,
        num_heads=c.heads, mlp_ratio=c.mlp / c.width, qkv_bias=c.qkv_bias, global_pool="token",
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=c.eps),
    ).eval()  # fmt: skip
    shapes = {name: own.shape for name, own in model.state_dict().items()}  # tokens and positions have an axis more
    tensors = load_file(folder / "timm.safetensors")
    model.load_state_dict({name: tensor.reshape(shapes[name]) for name, tensor in tensors.items()})
    return torch_model(model, threads, lambda out: out, f"timm {timm.__version__}")


def onnx(folder: Path, threads: int) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(onnx_file(folder), options, providers=["CPUExecutionProvider"])
    run = functools.partial(session.run, ["logits"])
    version = f"ONNX Runtime {onnxruntime.__version__}"
    return Loaded(lambda pixels: {"pixels": pixels}, run, lambda out: out[0], lambda: None, version)


def onnx_file(folder: Path, python: str = sys.executable) -> Path:
    """The exported graph; exporting needs torch, which this process shall not load, so another one does it."""
    file = folder / "model.onnx"
    if not file.exists():
        # Without the parent's pipes: the exporter prints.
        subprocess.run([python, __file__, folder], check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    return file


def export_onnx(folder: Path) -> None:
    import torch
    from transformers import AutoModelForImageClassification

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForImageClassification.from_pretrained(folder / "hf").eval()

        def forward(self, pixels: Any) -> Any:
            return self.model(pixels).logits

    c, partial = config_in(folder), folder / "partial"
    partial.mkdir(exist_ok=True)
    batch = {"pixels": {0: torch.export.Dim("batch", min=1, max=4096)}}
    example = (torch.zeros(2, c.channels, *c.image),)
    torch.onnx.export(
        Logits(), example, partial / "model.onnx", input_names=["pixels"], output_names=["logits"], dynamic_shapes=batch
    )
    for file in sorted(partial.iterdir(), reverse=True):  # the numbers before the graph that names them
        file.replace(folder / file.name)


def jax(folder: Path, threads: int) -> Loaded:
    import jax

    import numpy_vit

    model = numpy_vit.load(folder / "model.safetensors")
    weights = {name: jax.numpy.asarray(array) for name, array in model.tensors.items()}
    forward = jax.jit(functools.partial(jax_forward, config=model.config))

    def run(pixels: Any) -> Any:
        return forward(weights, pixels).block_until_ready()

    return Loaded(jax.numpy.asarray, run, np.asarray, lambda: [w.sum() for w in weights.values()], f"JAX {jax.__version__}")


def jax_forward(w: dict[str, Any], pixels: Any, config: Any) -> Any:
    """The plain ViT, as one writes it in JAX."""
    import jax
    import jax.numpy as jnp

    (rows, columns), P, H = config.grid, config.patch, config.heads

    def linear(name: str, x: Any) -> Any:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + config.eps) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x: Any) -> Any:
        return x.reshape(*x.shape[:2], H, -1).swapaxes(1, 2)

    grid = pixels.reshape(len(pixels), config.channels, rows, P, columns, P).transpose(0, 2, 4, 1, 3, 5)
    x = linear("embed.projection", grid.reshape(len(pixels), rows * columns, -1))
    first = jnp.broadcast_to(w["embed.class_token"], (len(x), 1, config.width))
    x = jnp.concatenate([first, x], axis=1) + w["embed.positions"]
    for n in range(config.depth):
        block = f"blocks.{n}"
        y = norm(f"{block}.norm1", x)
        query, key, value = (heads(linear(f"{block}.attention.{part}", y)) for part in ("query", "key", "value"))
        probs = jax.nn.softmax(query @ key.swapaxes(-1, -2) * config.head_dim**-0.5)
        x = x + linear(f"{block}.attention.output", (probs @ value).swapaxes(1, 2).reshape(x.shape))
        hidden = linear(f"{block}.mlp.hidden", norm(f"{block}.norm2", x))
        x = x + linear(f"{block}.mlp.output", jax.nn.gelu(hidden, approximate=False))
    return linear("head", norm("norm", x)[:, 0])


class Contender(NamedTuple):
    load: Callable[[Path, int], Loaded]
    about: str
    blas_threads: int | None = None  # where not as many as all have


CONTENDERS = {
    "numpy_vit": Contender(numpy_vit_, "one-thread BLAS, threads of its own: as the command line runs it", 1),
    "numpy_vit-blas": Contender(numpy_vit_, "no control of BLAS threads: as a library in someone's program"),
    "products": Contender(products, "the bare matrix products, the BLAS's own threads"),
    "eager": Contender(functools.partial(transformers, attention="eager"), "transformers, attention in steps"),
    "sdpa": Contender(functools.partial(transformers, attention="sdpa"), "transformers, fused attention: its default"),
    "timm": Contender(timm, "timm, fused attention: its default"),
    "compile": Contender(functools.partial(transformers, attention="sdpa", compiled=True), "sdpa under torch.compile"),
    "onnx": Contender(onnx, "ONNX Runtime on the graph exported from sdpa"),
    "jax": Contender(jax, "jax.jit of the same forward pass"),
}


def without_threads(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment that says nothing of threads."""
    return {key: value for key, value in environ.items() if not key.endswith(("_NUM_THREADS", "NUMPY_VIT_THREADS"))}


def environment(name: str, threads: int) -> dict[str, str]:
    """What a contender's process finds in its environment."""
    blas = CONTENDERS[name].blas_threads or threads
    openblas = {} if name == "numpy_vit-blas" else {"OPENBLAS_NUM_THREADS": str(blas)}
    if name == "numpy_vit":
        openblas["NUMPY_VIT_THREADS"] = str(threads)
    return {
        **without_threads(os.environ),
        **openblas,
        "OMP_NUM_THREADS": str(blas),
        "MKL_NUM_THREADS": str(blas),
        "HF_HUB_OFFLINE": "1",
    }


if __name__ == "__main__":
    export_onnx(Path(sys.argv[1]))
