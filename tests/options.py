"""One crooked config for each option that other families add to the plain ViT, for tests that go over all of them."""

PLAIN = dict(
    image=(12, 20), patch=4, channels=3, width=24, depth=2, heads=3, mlp=40, classes=5, pooler=0, eps=1e-6,
    activation="gelu", pooling="class", position_rule="bicubic", qkv_bias=True,
)  # fmt: skip
OPTIONS = {
    "distilled": dict(distillation_token=True, distillation_head=True),
    "distillation token alone": dict(distillation_token=True),
    "no class token": dict(class_token=False, pooling="mean"),
    "registers": dict(registers=4, layer_scale=True, pooling="class_and_mean"),
    "positions of patches": dict(positions="patches", layer_scale=True),
    "MAP": dict(class_token=False, pooling="map", projection=7, classes=0, activation="gelu_tanh"),
    "MAP with a head": dict(class_token=False, pooling="map"),
    "CLIP": dict(pre_norm=True, final_norm="pooled", projection=7, classes=0, without_bias=("embed.projection",)),
    "centred RoPE": dict(positions="none", rope="centred_halves", registers=2, without_bias=("attention.key",)),
    "indexed RoPE": dict(
        rope="index_pairs", rope_grid=(4, 4), gated_mlp=True, mlp_norm=True, pooling="mean", activation="silu"
    ),
    "relative positions": dict(positions="none", relative_positions=True, final_norm="pooled", pooling="mean"),
    "q/k norm": dict(qk_norm=True, qkv_bias=False, inner=36, without_bias=("attention.output", "mlp.hidden", "head")),
    "no final norm": dict(final_norm="none", activation="relu"),
    "pre-logits": dict(pooler=9, pre_logits=True),
}
