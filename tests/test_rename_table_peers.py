"""docs/converting.md's worked example: the model that it shows, in torch, converted by the table that it shows."""

import json
import re

import numpy as np
import pytest

from numpy_vit import InputError
from numpy_vit.convert import convert

from conftest import REPOSITORY, relative_error

pytestmark = pytest.mark.peers
PAGE = (REPOSITORY / "docs" / "converting.md").read_text(encoding="utf-8")


def block(language, containing):
    """The page's block of code."""
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if containing in text)


def test_the_worked_example(tmp_path):
    import torch

    namespace = {"torch": torch}
    exec(block("python", "class Classifier"), namespace)
    torch.manual_seed(0)
    model = namespace["Classifier"]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)  # no norm is 1, no bias 0
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    (tmp_path / "map.json").write_text(block("json", "in_proj_{end}"))
    checkpoint = convert(tmp_path / "mine.pth", rename=tmp_path / "map.json")
    assert checkpoint.labels == list("0123456789") and checkpoint.preprocess.size == (28, 28)
    pixels = np.random.default_rng(0).normal(size=(3, 1, 28, 28))
    with torch.no_grad():
        theirs = model.double()(torch.from_numpy(pixels)).numpy()
    assert relative_error(checkpoint.model("float64")(pixels, strict=True).logits, theirs) < 1e-12
    content = json.loads(block("json", "in_proj_{end}"))
    del content["norm_first"]
    (tmp_path / "map.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="norm_first"):
        convert(tmp_path / "mine.pth", rename=tmp_path / "map.json")
