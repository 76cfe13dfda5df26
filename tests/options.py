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
    "RMS norms": dict(norm="rms", pre_norm=True, qk_norm=True, gated_mlp=True, activation="silu"),
    "norms before and after": dict(
        norm="rms",
        norm_places="both",
        patch_norm=True,
        value_norm=True,
        scaled_scores=False,
        qk_norm=True,
        class_token=False,
        positions="axes",
        position_rows=6,
        pooling="mean",
        rope="axis_halves",
    ),
    "norms after": dict(norm_places="after", layer_scale=True),
    "q/k norm of all heads": dict(qk_norm=True, qk_norm_of_heads=False, norm="rms"),
    "RoPE by halves": dict(rope="index_halves", positions="none"),
    "RoPE by columns": dict(rope="column_pairs", rope_offset=1),
    "RoPE in turn": dict(rope="alternating_pairs"),
    "RoPE of a ladder": dict(rope="ladder_halves", positions="none"),
    "windows": dict(class_token=False, pooling="mean", windows=dict(side=2, whole=(1,))),
    "image tokens": dict(
        class_token=False,
        pooling="none",
        classes=0,
        image=(16, 24),
        final_norm="none",
        merger=dict(side=2, stages=("norm", "concat", "hidden 30", "gelu", "output 7")),
        deepstack=dict(blocks=(0,), merger=dict(side=2, stages=("unfold", "norm", "gated 9", "output 7"), norm="rms")),
    ),
    "merged by their mean": dict(
        image=(16, 24),
        pooling="mean",
        merger=dict(side=2, stages=("scale", "mean", "norm", "output 7"), norm="unit", without_bias=("output",)),
    ),
    "pre-logits": dict(pooler=9, pre_logits=True),
}
