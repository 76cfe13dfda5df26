"""docs/families.md: every family that converts, from the very tables and facts that the converters use.

    python tests/family_table.py             compares the page with the code
    python tests/family_table.py --write     writes it anew
    python tests/family_table.py --measure   measures the agreement anew (needs the extra `peers`), and writes it

The agreement is the maximum of max|ours - theirs| / max|theirs| over all outputs and hidden states of all test cases, in
float64.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "families.md"
AGREEMENT = HERE / "data" / "families" / "agreement.json"
ASKED = "asked"


def page():
    """The page's text."""
    from numpy_vit.convert import FAMILIES

    agreement = json.loads(AGREEMENT.read_text())
    lines = [
        "# Every family that converts",
        "",
        "<!-- Written by tests/family_table.py from the converters' own tables: change those, not this page. -->",
        "",
        "`numpy-vit convert FILE -o model.safetensors` recognises the family from the tensors' names, or from config.json, and",
        "says which it took. What neither the file nor the family's code says must be given, like `heads=12`. `--family NAME`",
        "is for files whose names do not tell: plain DeiT, DINO and fine-tuned MAE files look like timm's.",
        "",
        "Agreement: the maximum of max|ours - theirs| / max|theirs| over all outputs and hidden states in float64, of crooked",
        "little models that the family's own code made, saved and ran. *config*: config.json says it; *asked*: you must.",
        "",
        "| family | what | eps | activation | pooling | positions resized | pictures | agreement |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for family in FAMILIES.values():
        fixed = family.fixed
        by_file = "config" if family.hugging_face else ASKED
        pooling = fixed.get("pooling", "by its tensors")
        told = agreement.get(family.name)
        lines.append(
            f"| `{family.name}` | {family.title} | {fixed.get('eps', by_file)} | {fixed.get('activation', by_file)} | "
            f"{pooling} | {fixed.get('position_rule', 'by its tensors')} | {pictures(family)} | "
            + (f"{told['error']:.0e}, {told['cases']} cases, {told['upstream']} |" if told else "not measured |")
        )
    lines += ["", "## Whose tensor is which", "", "`{n}` is the block; a layer's name stands for its weight and its bias."]
    for family in FAMILIES.values():
        lines += ["", f"### {family.name}: {family.title}", "", f"Read in {family.upstream}."]
        layout = "(in, out)" if family.table.layout == "flax" else "(out, in)"
        known = [f"model_type {', '.join(family.model_types)}"] if family.model_types else []
        known += ["the names " + ", ".join(f"`{mark}`" for mark in family.marks)] if family.marks else []
        lines += [f"Known by {' or '.join(known)}." if known else f"Known by `--family {family.name}` alone."]
        lines += [f"Linear weights are {layout}.", "", "| ours | theirs |", "|---|---|"]
        for row in family.table.rows:
            part = f", part {row.part[0] + 1} of {row.part[1]}" if row.part[1] > 1 else ""
            lies = {"plain": ", (in, out)", "patch_last": ", (out, in) with (py, px, c) rows"}.get(row.layout, "")
            lines.append(f"| `{row.ours}` | `{row.theirs}`{part}{lies if 'positions' not in row.ours else ''} |")
        for pattern, why in family.left_out.items():
            lines.append(f"| left out | `{pattern.replace('|', chr(92) + '|')}`: {why} |")
    return "\n".join(lines) + "\n"


def pictures(family):
    """How the family's pictures are prepared."""
    if family.hugging_face:
        return "preprocessor_config.json"
    return f"`{family.policy}`" if family.policy else "its config.json"


def short(upstream):
    """ "owner/name <40 hex digits>; flax 0.12.8, ..." -> "owner/name 0127fb6"."""
    return re.sub(r"\b([0-9a-f]{7})[0-9a-f]{33}\b", r"\1", upstream.split(";")[0].split(" (")[0])


def measure():
    """Family -> the worst error, how many cases, and of which upstream."""
    import numpy as np
    import test_families
    import test_families_peers
    import transformers

    from numpy_vit.convert import convert

    from conftest import relative_error

    found = {}

    def heard(family, errors, upstream):
        before = found.setdefault(family, {"error": 0.0, "cases": 0, "upstream": upstream})
        before["error"] = max(before["error"], *errors)
        before["cases"] += 1

    for case in test_families.CASES:
        checkpoint, pairs = test_families.pairs(case)
        about = json.loads((test_families.FOLDER / case / "about.json").read_text())
        heard(checkpoint.source["family"], [relative_error(*pair) for _, pair in pairs], short(about["upstream"]))
    for case, (*_, family, outputs) in test_families_peers.CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            model = test_families_peers.made(case)
            model.save_pretrained(folder)
            checkpoint = convert(folder)
            pixels = np.random.default_rng(1).normal(size=(2, 3, *checkpoint.config.image))
            ours, theirs = checkpoint.model("float64")(pixels, record="hidden_states"), test_families_peers.run(model, pixels)
        errors = [relative_error(getattr(ours, mine), getattr(theirs, name).numpy()) for name, mine in outputs.items()]
        errors += [relative_error(a, b.numpy()) for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True)]
        heard(family, errors, f"transformers {transformers.__version__}")
    for family, (error, cases) in measured_encoders().items():
        found[family] = {"error": error, "cases": cases, "upstream": f"transformers {transformers.__version__}"}
    for entry in found.values():
        entry["error"] = float(f"{entry['error']:.1e}")
    return dict(sorted(found.items()))


def measured_encoders():
    """The same of the encoders of multimodal models: what their tests compare, which are run here."""
    import pytest

    files = [path for path in HERE.glob("test_*_peers.py") if "up.agree" in path.read_text(encoding="utf-8")]
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    if pytest.main([*quiet, "-m", "peers", *map(str, files)]):
        raise SystemExit("not all of them agree: nothing is written")
    import multimodal_upstream

    return multimodal_upstream.AGREEMENT


def main():
    if "--measure" in sys.argv:
        AGREEMENT.write_text(json.dumps(measure(), indent=1) + "\n")
    if "--write" in sys.argv or "--measure" in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    same = PAGE.read_text(encoding="utf-8") == page()
    print("docs/families.md is", "up to date" if same else "not what the code says: run this with --write")
    return 0 if same else 1


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    sys.exit(main())
