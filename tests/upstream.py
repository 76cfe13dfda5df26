"""transformers' ViT in float64, with everything it computes within reach. Needs the extra `peers`.

transformers' own eager attention computes softmax in float32 whatever the model's dtype
(modeling_vit.py, eager_attention_forward), and its sdpa attention does not show the attention maps. So the same formula is
registered here with softmax in the model's dtype, through the library's own AttentionInterface.
"""

import torch
from transformers import AttentionInterface, ViTConfig, ViTForImageClassification, ViTModel


def attention_in_own_dtype(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling  # Llama 4 leaves it to torch
    probs = torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1)
    return (probs @ value).transpose(1, 2).contiguous(), probs


AttentionInterface.register("own_dtype", attention_in_own_dtype)


def crooked(model, seed):
    """Fill every parameter with random numbers: no zeros, no ones, every bias and norm scale matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in "".join(name.split(".")[-2:-1]):
                values = (1 if name.endswith("weight") else 0) + 0.3 * values
            elif name.endswith("bias"):
                values = 0.2 * values
            elif parameter.ndim > 1 and "embeddings.cls" not in name and "position" not in name:
                values = values / parameter[0].numel() ** 0.5
            else:
                values = 0.5 * values
            parameter.copy_(values)
    return model.eval()


def make(seed, head, **config):
    """A crooked model in float32, its values exact in float64 too."""
    labels = config.pop("labels", 0)
    config = ViTConfig(**config, attn_implementation="own_dtype")
    if head:
        config.id2label = {i: f"class {i}" for i in range(labels)}
        config.label2id = {name: i for i, name in config.id2label.items()}
        return crooked(ViTForImageClassification(config), seed)
    return crooked(ViTModel(config, add_pooling_layer=labels == 0), seed)


def run(model, pixels, attention="own_dtype", dtype=torch.float64, **options):
    """pixels (B, C, Y, X) array -> name -> float64 array, in our steps' names."""
    model = model.to(dtype)
    model.set_attn_implementation(attention)
    show = attention == "own_dtype"
    seen = {}
    base = getattr(model, "vit", model)
    hook = base.layernorm.register_forward_hook(lambda module, inputs, output: seen.update(norm=output))
    with torch.inference_mode():
        out = model(torch.from_numpy(pixels).to(dtype), output_hidden_states=True, output_attentions=show, **options)
    hook.remove()
    seen["embed.positions"] = out.hidden_states[0]
    for n, hidden in enumerate(out.hidden_states[1:]):
        seen[f"blocks.{n}.residual2"] = hidden
    for n, probs in enumerate(out.attentions if show else ()):
        seen[f"blocks.{n}.attention.probs"] = probs
    if getattr(out, "pooler_output", None) is not None:
        seen["pooler"] = out.pooler_output
    if getattr(out, "logits", None) is not None:
        seen["logits"] = out.logits
    return {name: value.double().numpy() for name, value in seen.items()}


def exact_rotation(model):
    """DINOv3 computes its rotary angles in float32, whatever the model's dtype: here in float64, by the same formula."""
    from transformers.models.dinov3_vit import modeling_dinov3_vit as dinov3

    for module in model.modules():
        if isinstance(module, dinov3.DINOv3ViTRopePositionEmbedding):
            steps = torch.arange(0, 1, 4 / module.head_dim, dtype=torch.float64)
            module.inv_freq = 1 / torch.tensor(module.base, dtype=torch.float64) ** steps
    coordinates = dinov3.get_patches_center_coordinates
    if not hasattr(coordinates, "exact"):

        def exact(rows, columns, dtype, device):
            return coordinates(rows, columns, torch.float64, device)

        exact.exact = True
        dinov3.get_patches_center_coordinates = exact
