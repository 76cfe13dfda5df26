"""What portable precision costs: ViT-B/16, one picture, against float64, interleaved. python tests/bench_portable.py"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy_vit
from numpy_vit.models.seeded import uniform

RUNS = 5


def main():
    pixels = uniform(0, "pixels", (1, 3, 224, 224), "float64")
    models = {dtype: numpy_vit.random_model("ViT-B/16", dtype=dtype) for dtype in ("float64", "portable")}
    seconds = {dtype: [] for dtype in models}
    for _ in range(RUNS):
        for dtype, model in models.items():
            start = time.perf_counter()
            model(pixels)
            seconds[dtype].append(time.perf_counter() - start)
    for dtype, times in seconds.items():
        print(f"{dtype}: median {statistics.median(times):.2f} s of {RUNS}")
    ratios = [p / f for f, p in zip(seconds["float64"], seconds["portable"], strict=True)]
    print(f"ratio: median {statistics.median(ratios):.1f}, {min(ratios):.1f} to {max(ratios):.1f}")


if __name__ == "__main__":
    main()
