"""A folder of pictures -> their vectors, over several processes, with Dask: docs/embedding.md.

pip install "numpy_vit[dask]"
python docs/dask_embed.py pictures -o vectors.npz --weights weights/vit-base.safetensors
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from dask.distributed import Client, LocalCluster

import numpy_vit
from numpy_vit.files.tensorfile import replacing
from numpy_vit.pictures.images import SUFFIXES

BATCH = 16  # as `numpy-vit embed`, so that the numbers are the same to the last bit


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed a folder of pictures over several processes.")
    parser.add_argument("folder", type=Path, help="a folder of pictures")
    parser.add_argument("-o", "--output", required=True, help="a .npz file (vectors and names) or .npy (vectors alone)")
    parser.add_argument("--weights", default="digits", help="as for numpy-vit embed (default: the shipped digits model)")
    parser.add_argument("--what", default="pooled", choices=("pooled", "image_embedding", "pooler_output", "logits"))
    parser.add_argument("--processes", type=int, help="how many (default: one a core)")
    arguments = parser.parse_args()
    if not arguments.output.endswith((".npz", ".npy")):
        sys.exit(f"{arguments.output}: the name must end in .npz or .npy")
    paths = sorted(str(path) for path in arguments.folder.absolute().rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        sys.exit(f"{arguments.folder}: no picture in this folder")
    try:
        embedder = numpy_vit.Embedder(arguments.weights, what=arguments.what)
        with replacing(arguments.output) as file:  # which notices at once if it cannot be written
            vectors = embedded(paths, embedder, arguments.processes)
            if arguments.output.endswith(".npy"):
                np.save(file, vectors)
            else:
                np.savez(file, embeddings=vectors, images=np.array(paths))
    except numpy_vit.InputError as error:  # raised in a worker, it comes back with its one line
        sys.exit(str(error))
    print(f"{arguments.output}: {len(paths)} pictures, {' x '.join(map(str, vectors.shape))}", file=sys.stderr)


def embedded(paths: list[str], embedder: numpy_vit.Embedder, processes: int | None) -> np.ndarray:
    """The vectors (B, D) of all pictures, in order: one task for each batch, one thread in each process."""
    batches = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    with (
        LocalCluster(n_workers=processes, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        return np.concatenate(client.gather(client.map(embedder, batches, key="embed")))


if __name__ == "__main__":  # the workers import this file too
    main()
