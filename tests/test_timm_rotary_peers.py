"""timm's models with counted rotary positions, inner norms and norms after, live: every block's tokens (`pytest -m peers`)."""

import numpy as np
import pytest

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

CASES = (
    "vit_pe_core_base_patch16_224", "vit_pe_core_gigantic_patch14_448", "vit_pe_lang_large_patch14_448",
    "vit_pe_lang_gigantic_patch14_448", "vit_pe_spatial_base_patch16_512", "eva02_base_patch16_clip_224",
    "eva02_large_patch14_clip_336", "eva02_enormous_patch14_clip_224", "vit_base_patch16_rope_224",
    "vit_base_patch16_rope_ape_224", "vit_base_patch16_rpn_224", "beit3_base_patch16_224",
)  # fmt: skip
OWN, OTHERS = (12, 20), ((20, 28), (16, 8))


def run(model, pixels):
    """(what goes into the first block, what comes out of each), and what forward_head gives."""
    import torch

    found = []
    hooks = [model.blocks[0].register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))]
    hooks += [block.register_forward_hook(lambda module, inputs, output: found.append(output)) for block in model.blocks]
    with torch.inference_mode():
        tokens = model.forward_features(torch.from_numpy(pixels))
        head = model.forward_head(tokens)
    for hook in hooks:
        hook.remove()
    return [x.numpy() for x in found], tokens.numpy(), head.numpy()


@pytest.mark.parametrize("case", CASES)
def test_every_block_agrees(case):
    import multimodal_upstream as up
    import timm_registry

    from conftest import relative_error

    ours = timm_registry.read(timm_registry.made(case, {})).model("float64")
    for image in (OWN, *OTHERS):
        model = timm_registry.made(case, {})
        if image != OWN:
            with up.everything_in_float64():  # timm resizes positions in float32
                model.set_input_size(image)
        pixels = np.random.default_rng(1).normal(size=(2, 3, *image))
        hidden, tokens, head = run(model, pixels)
        out = ours(pixels, record="hidden_states", strict=True, resize_positions=True)
        pairs = [*zip(out.hidden_states, hidden, strict=True), (out.last_hidden_state, tokens), (out.logits, head)]
        for a, b in pairs:
            assert relative_error(a, b) < 1e-12, (case, image)
