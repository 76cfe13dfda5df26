"""The manifests stored in tests/data/golden: one seeded model, and the shipped digits model on two of its samples.

python tests/golden_manifests.py            compares them with what this machine computes
python tests/golden_manifests.py --write    writes them anew

Needs NumPy, Pillow and safetensors alone, so that any machine can be asked.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "data" / "golden"
NAMES = ("seeded", "digits")
ARITHMETICS = FOLDER / "arithmetics.json"  # name -> the hash of a golden in it


def manifest(name, noise=("float32", "float16", "bfloat16")):
    """What `golden record` would write: the manifest as data."""
    import numpy as np

    import numpy_vit
    from numpy_vit.golden.recording import record
    from numpy_vit.models.seeded import uniform

    if name == "digits":
        model = numpy_vit.load(dtype="portable")
        samples = HERE.parent / "weights" / "samples"
        pixels = model.preprocess([samples / "3" / "0045-0.png", samples / "5" / "0005-0.png"])
        origin = {"model": {"weights": "digits"}, "input": {"images": ["0045-0.png", "0005-0.png"]}}
    else:
        config = numpy_vit.variant("ViT-Ti/16").replace(
            image=(24, 40), patch=8, width=30, heads=5, mlp=44, depth=2, classes=7, pooler=4, eps=1e-6
        )
        model = numpy_vit.random_model(config, seed=11, dtype="portable")
        pixels = np.asarray(uniform(11, "pixels", (3, 3, 24, 40), "float64"))
        origin = {"model": {"seed": 11, "name": "test"}, "input": {"seed": 11}}
    return record(model, pixels, noise=noise, origin=origin)[0]


def in_every_arithmetic():
    """Name -> the sha256 of a small crooked model's golden in that arithmetic: of every step, scale and weight."""
    import numpy as np

    import numpy_vit
    from numpy_vit.arithmetic.named import named
    from numpy_vit.golden.recording import record
    from numpy_vit.models.narrow import NarrowViT, calibrate
    from numpy_vit.models.seeded import uniform

    config = numpy_vit.variant("ViT-Ti/16").replace(
        image=(8, 20), patch=4, width=32, heads=2, mlp=64, depth=1, classes=7, pooler=5, eps=1e-6
    )
    model = numpy_vit.random_model(config, seed=11, dtype="portable")
    pixels = np.asarray(uniform(11, "pixels", (2, 3, 8, 20), "float64"))
    found = {}
    for name, arithmetic in named().items():
        narrow = NarrowViT(model, arithmetic, calibrate(model, lambda: [pixels], arithmetic))
        made, _ = record(narrow, pixels, store="float32", noise=())
        found[name] = of_numbers(made)
    return found


def of_numbers(manifest):
    """One hash of all numbers in a manifest; not of our version's, or of its words."""
    import hashlib

    numbers = [hashes(manifest), manifest.get("grids", {})]
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()


def stored(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def hashes(manifest):
    return [manifest["weights_sha256"], *((step["name"], step["sha256"]) for step in manifest["steps"])]


def main():
    import numpy as np

    from numpy_vit.golden.folder import manifest_text

    good = True
    for name in NAMES:
        made = manifest(name)
        if "--write" in sys.argv:
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / f"{name}.json").write_text(manifest_text(made), encoding="utf-8")
            continue
        before = stored(name)
        same = hashes(made) == hashes(before)
        floors = [a["noise"] == b["noise"] for a, b in zip(made["steps"], before["steps"], strict=True)]
        good &= same and all(floors)
        word = "equal" if same else "DIFFERENT"
        print(f"{name}: {len(before['steps'])} steps, hashes {word}, noise floors equal in {sum(floors)}")
    made = in_every_arithmetic()
    if "--write" in sys.argv:
        ARITHMETICS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    before = json.loads(ARITHMETICS.read_text(encoding="utf-8"))
    other = [name for name in before | made if made.get(name) != before.get(name)]
    good &= not other
    print(f"{len(before)} arithmetics: hashes {'DIFFERENT: ' + ', '.join(other) if other else 'equal'}")
    print(f"NumPy {np.__version__}, Python {sys.version.split()[0]}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    sys.exit(main())
