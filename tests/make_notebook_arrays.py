"""Make the arrays that notebook 6 compares with where transformers is not installed, from transformers itself.

    python tests/make_notebook_arrays.py

Writes notebooks/data/digits_transformers.npz: what transformers' ViTForImageClassification, in float64, computes with the
shipped digits model for the shipped samples, and the versions it was made with. Needs the extra `peers`.
"""

import platform
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

import numpy_vit
from numpy_vit.convert.to_hugging_face import write_hugging_face
from numpy_vit.files.converted import read_converted, shipped

TARGET = Path(__file__).parent.parent / "notebooks" / "data" / "digits_transformers.npz"


def main():
    samples = sorted(shipped("samples").glob("*/*.png"))
    pixels = numpy_vit.load(dtype="float64").preprocess(samples)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "digits")
        write_hugging_face(folder, read_converted(shipped("digits.safetensors")))
        # sdpa: transformers' eager attention computes softmax in float32, whatever the model's dtype
        model = transformers.ViTForImageClassification.from_pretrained(
            folder, attn_implementation="sdpa", dtype=torch.float64
        ).eval()
    with torch.inference_mode():
        out = model(torch.from_numpy(pixels), output_hidden_states=True)
    class_tokens = np.stack([hidden[:, 0].numpy() for hidden in out.hidden_states], axis=1)  # (B, L + 1, D)
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        TARGET,
        logits=out.logits.numpy(),  # (B, O)
        class_tokens=class_tokens,
        versions=f"transformers {transformers.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    )
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
