"""What every step of the forward pass is: operation, formula, place in the paper, and one sentence on why.

One table that the tracer prints. In a formula, {C*P*P} stands for the size of C*P*P (the letters are in numpy_vit.steps).
Equations are those of "An Image is Worth 16x16 Words", arXiv 2010.11929: 1 to 4 in section 3.1, 5 to 8 in appendix A.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..parameters import place
from ..steps import evaluate


class Explanation(NamedTuple):
    operation: str
    where: str  # in the paper
    formula: str
    why: str
    why_zh: str


LAYER_NORM = "(x - mean) / sqrt(variance + eps) * weight + bias"
_LINEAR = "{N} x {D} @ {D} x {H*K} + {H*K}, seen as {H} heads of {K}"

_ROW_SCORES = Explanation(
    "matmul",
    "MViTv2 (2112.01526)",
    "q times what is learned for each distance in rows, {H} times",
    "Every query meets what is learned for its distance to each row of patches.",
    "每个查询与它到各行图块的距离所对应的可学习向量相乘。",
)
_COLUMN_SCORES = Explanation(
    "matmul",
    "MViTv2 (2112.01526)",
    "q times what is learned for each distance in columns, {H} times",
    "And its distance to each column.",
    "到各列的距离也一样。",
)

EXPLANATIONS: dict[str, Explanation] = {
    "embed.patches": Explanation(
        "patchify",
        "section 3.1",
        "{Y} x {X} x {C} -> {G} x {C*P*P}  ({P} x {P} x {C} = {C*P*P})",
        "A Transformer reads a sequence, so the picture is cut into patches and each patch becomes a row of numbers.",
        "Transformer 读的是序列，所以把图片切成图块，每个图块变成一行数字。",
    ),
    "embed.projection": Explanation(
        "linear",
        "eq. 1: x_p E",
        "{G} x {C*P*P} @ {C*P*P} x {D} + {D}",
        "One learned matrix turns every patch into a token of the model's width; it is a convolution with stride P.",
        "一个可学习的矩阵把每个图块变成模型宽度的词元；这与步长为 P 的卷积是同一回事。",
    ),
    "embed.tokens": Explanation(
        "prepend",
        "eq. 1: x_class",
        "{N-G} + {G} = {N} tokens",
        "A learned class token is put first; it belongs to no patch and will collect what the picture shows.",
        "在最前面放一个可学习的类别词元；它不属于任何图块，用来汇集整张图片的内容。",
    ),
    "embed.tokens.several": Explanation(
        "prepend",
        "eq. 1: x_class",
        "{N-G} + {G} = {N} tokens",
        "Learned tokens that belong to no patch are put first: the class token, which will collect what the picture shows, "
        "and others (DeiT's distillation token, registers).",
        "在最前面放可学习的、不属于任何图块的词元：汇集整张图片内容的类别词元，以及其他词元（DeiT 的蒸馏词元、寄存器）。",
    ),
    "embed.tokens.none": Explanation(
        "as is",
        "eq. 1, without x_class",
        "{G} tokens",
        "The patches are all the tokens there are: this model has no class token, and sums up the picture in another way.",
        "词元就是这些图块：这个模型没有类别词元，用别的方式汇总整张图片。",
    ),
    "embed.resized_positions": Explanation(
        "resize",
        "section 3.2",
        "positions as learned -> {N} x {D}",
        "The image has another size than the positions were learned for, so their grid is resized like a picture.",
        "图像尺寸与学习位置时不同，所以把位置网格像图片一样缩放。",
    ),
    "embed.patch_norm": Explanation(
        "layer norm",
        "AIMv2, GLM-4V",
        f"{LAYER_NORM}, each patch over {{D}}",
        "A norm of the projected patches, before they get their positions.",
        "投影后的图块在加上位置之前先归一化。",
    ),
    "embed.axis_positions": Explanation(
        "add",
        "Gemma 4",
        "a row's {D} + a column's {D}, for each of {G} patches",
        "Every row and every column of patches has a learned position; a patch has the sum of both.",
        "每一行和每一列图块都有一个可学习的位置；图块的位置是两者之和。",
    ),
    "embed.sincos_positions": Explanation(
        "sines and cosines",
        "AIMv2; 1706.03762, section 3.5",
        "sin, cos(column * frequency), then of the row: {G} x {D}",
        "Positions that are computed, not learned: so there are some for pictures of any size.",
        "位置是算出来的，不是学出来的：所以任何尺寸的图片都有位置。",
    ),
    "embed.positions": Explanation(
        "add",
        "eq. 1: E_pos",
        "{N} x {D} + {N} x {D}",
        "Attention does not know order: learned positions are added (not appended) so that each token knows its position.",
        "注意力不知道次序：加上（而不是拼接）可学习的位置，让每个词元知道自己在哪里。",
    ),
    "norm1_after": Explanation(
        "layer norm",
        "norm on both sides (Gemma 4)",
        f"{LAYER_NORM}, each token over {{D}}",
        "What attention gives is normed once more, before it is added.",
        "注意力的结果在相加之前再归一化一次。",
    ),
    "norm2_after": Explanation(
        "layer norm",
        "norm on both sides (Gemma 4)",
        f"{LAYER_NORM}, each token over {{D}}",
        "What the MLP gives is normed once more, before it is added.",
        "MLP 的结果在相加之前再归一化一次。",
    ),
    "norm1": Explanation(
        "layer norm",
        "eq. 2: LN",
        f"{LAYER_NORM}, each token over {{D}}",
        "Every token is brought to the same scale before attention, so that deep stacks stay stable.",
        "注意力之前把每个词元调到同一尺度，很深的模型也保持稳定。",
    ),
    "attention.query": Explanation(
        "linear",
        "eq. 5: q",
        _LINEAR,
        "What each token asks for.",
        "每个词元在问什么。",
    ),
    "attention.key": Explanation(
        "linear",
        "eq. 5: k",
        _LINEAR,
        "What each token has to offer, to be matched with the queries.",
        "每个词元有什么可供查询匹配。",
    ),
    "attention.value": Explanation(
        "linear",
        "eq. 5: v",
        _LINEAR,
        "What each token hands over when it is attended to.",
        "每个词元被关注时交出什么。",
    ),
    "attention.scores": Explanation(
        "matmul",
        "eq. 6: q k^T / sqrt(K)",
        "{N} x {K} @ {K} x {N} * 1/sqrt({K}), {H} times",
        "Every query meets every key; dividing by sqrt(K) keeps their size the same for any K, so softmax does not saturate.",
        "每个查询与每个键相乘；除以 sqrt(K) 使分数的大小与 K 无关，softmax 才不会饱和。",
    ),
    "attention.windows.scores": Explanation(
        "matmul",
        "eq. 6 in windows (2103.14030)",
        "q k^T / sqrt({K}) of a window's patches, {H} times",
        "Queries meet only the keys of their own window: the cost grows with the picture, not with its square.",
        "查询只与自己窗口里的键相乘：开销随图像尺寸增长，而不是随其平方增长。",
    ),
    "attention.windows.probs": Explanation(
        "softmax",
        "eq. 6 in windows (2103.14030)",
        "exp(x) / sum(exp(x)), each row over a window's patches, {H} times",
        "Scores become weights: every patch looks at the patches of its own window.",
        "分数变成权重：每个图块只看自己窗口里的图块。",
    ),
    "attention.windows.row_scores": _ROW_SCORES,
    "attention.windows.column_scores": _COLUMN_SCORES,
    "attention.windows.biased_scores": Explanation(
        "add",
        "MViTv2 (2112.01526)",
        "scores + what the query makes of the row + of the column, {H} times",
        "Added to the scores, it lets a query prefer what is near, or above, or to the left.",
        "加到分数上，让查询可以偏好近处、上方或左侧。",
    ),
    "attention.row_scores": _ROW_SCORES,
    "attention.column_scores": _COLUMN_SCORES,
    "attention.value_norm": Explanation(
        "rms norm without scale",
        "Gemma 4",
        "x / sqrt(mean(x^2) + eps), each head over {K}",
        "The values of every head are brought to one size.",
        "把每个头的值调到同一大小。",
    ),
    "attention.probs": Explanation(
        "softmax",
        "eq. 6: A",
        "exp(x) / sum(exp(x)), each row over {N}, {H} times",
        "Scores become weights: for each query the {N} weights are positive and sum to 1.",
        "分数变成权重：对每个查询，{N} 个权重都为正且和为 1。",
    ),
    "attention.context": Explanation(
        "matmul",
        "eq. 7: A v",
        "{N} x {N} @ {N} x {K}, {H} times",
        "Each token takes the mean of all tokens' values, with those weights.",
        "每个词元按这些权重取所有词元的值。",
    ),
    "attention.output": Explanation(
        "linear",
        "eq. 8: U_msa",
        "{N} x {H*K} @ {H*K} x {D} + {D}",
        "The {H} heads are put side by side again and mixed.",
        "把 {H} 个头重新并排放好并混合。",
    ),
    "residual1": Explanation(
        "add",
        "eq. 2: + z",
        "{N} x {D} + {N} x {D}",
        "Attention changes the tokens rather than replacing them.",
        "注意力是修改词元，而不是替换它们。",
    ),
    "norm2": Explanation(
        "layer norm",
        "eq. 3: LN",
        f"{LAYER_NORM}, each token over {{D}}",
        "The same scale again before the MLP.",
        "MLP 之前再次调到同一尺度。",
    ),
    "mlp.hidden": Explanation(
        "linear",
        "eq. 3: MLP",
        "{N} x {D} @ {D} x {M} + {M}",
        "Each token, by itself, is widened so that there is room for features.",
        "每个词元各自加宽，为特征腾出空间。",
    ),
    "mlp.activation": Explanation(
        "activation",
        "section 3.1: GELU",
        "{N} x {M}, one by one",
        "The non-linearity: without it, two linear layers would be a single one.",
        "非线性：没有它，两个线性层就等于一个线性层。",
    ),
    "mlp.output": Explanation(
        "linear",
        "eq. 3: MLP",
        "{N} x {M} @ {M} x {D} + {D}",
        "And back to the model's width.",
        "再回到模型的宽度。",
    ),
    "residual2": Explanation(
        "add",
        "eq. 3: + z'",
        "{N} x {D} + {N} x {D}",
        "Again added, not replaced; the shape is what it was, so blocks can be stacked.",
        "同样是相加而非替换；形状不变，所以编码器块可以一个接一个地叠放。",
    ),
    "norm": Explanation(
        "layer norm",
        "eq. 4: LN",
        f"{LAYER_NORM}, each token over {{D}}",
        "The last norm: this is the last hidden state.",
        "最后一次归一化：这就是 last hidden state。",
    ),
    "pool.class": Explanation(
        "take token 0",
        "eq. 4: y",
        "{N} x {D} -> {D}",
        "The class token stands for the picture.",
        "类别词元代表整张图片。",
    ),
    "pool.mean": Explanation(
        "mean",
        "appendix D.3: GAP",
        "mean of {G} patch tokens -> {D}",
        "The mean of the patch tokens stands for the picture.",
        "图块词元的平均值代表整张图片。",
    ),
    "pooler": Explanation(
        "linear, tanh",
        "section 3.1: MLP with one hidden layer, at pre-training",
        "tanh({D} @ {D} x {R} + {R})",
        "A hidden layer on the class token that transformers' ViTModel keeps from pre-training.",
        "类别词元上的一个隐藏层，transformers 的 ViTModel 从预训练保留下来。",
    ),
    "logits": Explanation(
        "linear",
        "section 3.1: classification head",
        "{D} @ {D} x {O} + {O}",
        "One score for each class; softmax would make them probabilities.",
        "每个类别一个分数；再做 softmax 就成为概率。",
    ),
}

# What other families add (numpy_vit.config says who).
_SCALE = "{N} x {D}, each of the {D} numbers by its own factor"
_ROTATED = "x cos + rotated(x) sin, {G} patches, {H} heads of {K}"

EXPLANATIONS |= {
    "embed.norm": Explanation(
        "layer norm",
        "CLIP (2103.00020)",
        f"{LAYER_NORM}, each token over {{D}}",
        "One more norm before the first block; CLIP has it.",
        "第一个编码器块之前多一次归一化；CLIP 有它。",
    ),
    "embed.rope_cos": Explanation(
        "cosine",
        "RoPE (2104.09864)",
        "cos(position * frequency), {G} patches x {K}",
        "Every patch has angles that tell its row and column; query and key will be rotated by them.",
        "每个图块都有表示行和列的角度；查询和键将按这些角度旋转。",
    ),
    "embed.rope_sin": Explanation(
        "sine",
        "RoPE (2104.09864)",
        "sin(position * frequency), {G} patches x {K}",
        "The sines of the same angles.",
        "同样角度的正弦。",
    ),
    "embed.rope_class_cos": Explanation(
        "cosine",
        "MLCD (2407.17331)",
        "cos(learned angle), {K}",
        "The class token lies nowhere in the picture: the angles that it is rotated by are learned.",
        "类别词元在图片中没有位置：它旋转的角度是学出来的。",
    ),
    "embed.rope_class_sin": Explanation(
        "sine",
        "MLCD (2407.17331)",
        "sin(learned angle), {K}",
        "The sines of the class token's angles.",
        "类别词元角度的正弦。",
    ),
    "attention.query_norm": Explanation(
        "layer norm",
        "ViT-22B (2302.05442)",
        f"{LAYER_NORM}, each head over {{K}}",
        "Queries of one size for every token, so that scores cannot grow without bound in training.",
        "每个词元的查询大小一致，训练时分数不会无限增大。",
    ),
    "attention.key_norm": Explanation(
        "layer norm",
        "ViT-22B (2302.05442)",
        f"{LAYER_NORM}, each head over {{K}}",
        "And keys likewise.",
        "键也一样。",
    ),
    "attention.query_rotated": Explanation(
        "rotate",
        "RoPE (2104.09864)",
        _ROTATED,
        "Each patch's query is rotated by its position: query times key then depends on how far apart two patches are.",
        "每个图块的查询按位置旋转：查询与键之积便取决于两个图块相距多远。",
    ),
    "attention.key_rotated": Explanation(
        "rotate",
        "RoPE (2104.09864)",
        _ROTATED,
        "And each patch's key likewise.",
        "每个图块的键也一样。",
    ),
    "attention.relative_bias": Explanation(
        "look up",
        "BEiT (2106.08254)",
        "{H} x {N} x {N} from the table of offsets",
        "For every pair of tokens a learned number for their offset, one for each head.",
        "每一对词元按相对位置查出一个可学习的数，每个头各一个。",
    ),
    "attention.biased_scores": Explanation(
        "add",
        "BEiT (2106.08254)",
        "{H} x {N} x {N} + {H} x {N} x {N}",
        "Added to the scores, it lets a head prefer what is near, or above, or to the left.",
        "加到分数上，让一个头可以偏好近处、上方或左侧。",
    ),
    "layer_scale1": Explanation(
        "multiply",
        "CaiT (2103.17239)",
        _SCALE,
        "Learned factors, small at first, let the output of attention in slowly: deep models train more easily.",
        "可学习的系数起初很小，让注意力的结果慢慢加入：深的模型更容易训练。",
    ),
    "layer_scale2": Explanation(
        "multiply",
        "CaiT (2103.17239)",
        _SCALE,
        "The same for the output of the MLP.",
        "MLP 的结果也一样。",
    ),
    "mlp.gate": Explanation(
        "linear",
        "GLU variants (2002.05202)",
        "{N} x {D} @ {D} x {M} + {M}",
        "A second projection decides how much of each hidden number goes on.",
        "第二个投影决定每个隐藏数字通过多少。",
    ),
    "mlp.gated": Explanation(
        "multiply",
        "GLU variants (2002.05202)",
        "{N} x {M} * {N} x {M}",
        "The activated gate times the hidden numbers.",
        "激活后的门乘以隐藏数字。",
    ),
    "mlp.norm": Explanation(
        "layer norm",
        "EVA-02 (2303.11331)",
        f"{LAYER_NORM}, each token over {{M}}",
        "A norm inside the MLP keeps the products of gate and hidden numbers at one scale.",
        "MLP 内部的归一化让门与隐藏数字之积保持同一尺度。",
    ),
    "attention.context_norm": Explanation(
        "layer norm",
        "EVA-02 CLIP (2303.15389)",
        f"{LAYER_NORM}, each token over {{H*K}}",
        "What all heads give is brought to one scale before it is mixed.",
        "各个头的结果在混合之前先调到同一尺度。",
    ),
    "map.query": Explanation(
        "linear",
        "MAP (1810.00825)",
        "1 x {D} @ {D} x {H*K} + {H*K}, seen as {H} heads of {K}",
        "A learned token, the same for every picture, asks what the picture shows.",
        "一个可学习的、对每张图片都相同的词元询问图片的内容。",
    ),
    "map.query.itself": Explanation(
        "as is",
        "AIMv2 (2411.14402)",
        "1 x {D}, seen as {H} heads of {K}",
        "A learned token, the same for every picture, is the query itself.",
        "一个可学习的、对每张图片都相同的词元，它自己就是查询。",
    ),
    "map.key": Explanation(
        "linear", "MAP (1810.00825)", _LINEAR, "What each token has to offer to it.", "每个词元能提供什么。"
    ),
    "map.value": Explanation("linear", "MAP (1810.00825)", _LINEAR, "What each token hands over.", "每个词元交出什么。"),
    "map.scores": Explanation(
        "matmul",
        "MAP (1810.00825)",
        "1 x {K} @ {K} x {N} * 1/sqrt({K}), {H} times",
        "The one query meets every key.",
        "这一个查询与每个键相乘。",
    ),
    "map.probs": Explanation(
        "softmax",
        "MAP (1810.00825)",
        "exp(x) / sum(exp(x)), each row over {N}, {H} times",
        "Scores become weights over the tokens.",
        "分数变成各词元的权重。",
    ),
    "map.context": Explanation(
        "matmul",
        "MAP (1810.00825)",
        "1 x {N} @ {N} x {K}, {H} times",
        "The mean of all tokens' values, with those weights: one vector.",
        "所有词元的值按权重相加：一个向量。",
    ),
    "map.output": Explanation(
        "linear",
        "MAP (1810.00825)",
        "1 x {H*K} @ {H*K} x {D} + {D}",
        "The {H} heads are put side by side again and mixed.",
        "把 {H} 个头重新并排放好并混合。",
    ),
    "map.norm": Explanation(
        "layer norm", "MAP (1810.00825)", f"{LAYER_NORM}, over {{D}}", "A norm before its MLP.", "MLP 之前归一化。"
    ),
    "pool.map": Explanation(
        "add",
        "MAP (1810.00825)",
        "{D} + {D}",
        "The output of the MLP is added: this vector stands for the picture.",
        "加上 MLP 的结果：这个向量代表整张图片。",
    ),
    "pool.query": Explanation(
        "take",
        "AIMv2 (2411.14402)",
        "{D}",
        "What the one query gathered stands for the picture.",
        "这一个查询收集到的代表整张图片。",
    ),
    "pool.class_and_mean": Explanation(
        "take token 0, mean",
        "DINOv2 (2304.07193)",
        "{D} and the mean of {G} patch tokens -> {2*D}",
        "The class token and the mean of the patch tokens, one after the other, stand for the picture.",
        "类别词元与图块词元的平均值前后相接，代表整张图片。",
    ),
    "pooled_norm": Explanation(
        "layer norm",
        "BEiT, CLIP, MAE: fc_norm, ln_post",
        f"{LAYER_NORM}, over {{D}}",
        "The last norm comes after pooling here: of one vector, not of every token.",
        "这里最后的归一化在池化之后：只对一个向量，而不是每个词元。",
    ),
    "class_logits": Explanation(
        "linear",
        "DeiT (2012.12877)",
        "{D} @ {D} x {O} + {O}",
        "What the class token's head says.",
        "类别词元的分类头怎么说。",
    ),
    "distillation_logits": Explanation(
        "linear",
        "DeiT (2012.12877)",
        "{D} @ {D} x {O} + {O}",
        "What the distillation token's head says; it was taught by another network.",
        "蒸馏词元的分类头怎么说；它由另一个网络教出来。",
    ),
    "image_embedding": Explanation(
        "linear",
        "CLIP (2103.00020)",
        "{D} @ {D} x {E}",
        "The picture in the space shared with texts; angles between pictures and texts tell how well they fit.",
        "图片在与文本共享的空间中的位置；图片与文本的夹角说明它们是否相配。",
    ),
}


_MERGED = "the language model's side"
_MERGER: dict[str, Explanation] = {
    "norm": Explanation(
        "norm",
        _MERGED,
        "each token over its numbers",
        "A norm of each token, before the small MLP that makes it one of the language model's.",
        "在把词元变成语言模型的词元的小 MLP 之前，对每个词元归一化。",
    ),
    "concat": Explanation(
        "concatenate neighbours",
        "pixel shuffle (1609.05158), the other way round",
        "{G} tokens -> {T}",
        "Neighbouring patches become one token, their numbers one after the other: fewer tokens for the language model.",
        "相邻的图块合成一个词元，它们的数字前后相接：语言模型要读的词元更少。",
    ),
    "unfold": Explanation(
        "concatenate neighbours",
        "as a convolution's kernel has them",
        "{G} tokens -> {T}",
        "Neighbouring patches become one token; its numbers lie as a convolution with this stride takes them.",
        "相邻的图块合成一个词元；数字的次序与步长相同的卷积所取的一样。",
    ),
    "mean": Explanation(
        "mean",
        "average pooling",
        "{G} tokens -> {T}",
        "Neighbouring patches become one token, their mean: fewer tokens for the language model.",
        "相邻的图块取平均合成一个词元：语言模型要读的词元更少。",
    ),
    "linear": Explanation(
        "linear",
        _MERGED,
        "{T} x {in} @ {in} x {out} + {out}",
        "A learned matrix on the way to the width of the language model.",
        "通向语言模型宽度的一个可学习的矩阵。",
    ),
    "conv": Explanation(
        "convolution",
        "SAM (2304.02643): neck",
        "each of {G} tokens with its 8 neighbours, {in} numbers @ {in} x {out}",
        "Neighbouring tokens are mixed, so that the map of them is smooth.",
        "相邻的词元混合起来，使它们组成的特征图更平滑。",
    ),
    "activation": Explanation(
        "activation", _MERGED, "of every number", "The non-linearity between two matrices.", "两个矩阵之间的非线性。"
    ),
    "gated": Explanation(
        "multiply",
        "GLU (2002.05202)",
        "hidden * silu(gate)",
        "Each hidden number is let through as far as its gate is open.",
        "每个隐藏数字按它的门打开的程度通过。",
    ),
    "softmax": Explanation(
        "softmax",
        "Ovis (2405.20797)",
        "exp(x) / sum(exp(x)), each token over its numbers",
        "How much of each word of a visual vocabulary a token is; it becomes the mean of those words' vectors.",
        "一个词元由视觉词表中各个词按多少比例组成；它变成这些词的向量的加权平均。",
    ),
    "standardize": Explanation(
        "shift and scale",
        _MERGED,
        "(x - shift) * scale, both learned, over the width",
        "Every number of a token is centred and scaled by what it mostly is.",
        "词元的每个数字按它通常的大小平移并缩放。",
    ),
    "scale": Explanation(
        "multiply",
        _MERGED,
        "x * sqrt(width)",
        "Brought to the size of the language model's tokens.",
        "调到语言模型词元的大小。",
    ),
}
_KINDS = {"hidden": "linear", "output": "linear", "gelu": "activation", "gelu_tanh": "activation", "silu": "activation"}
WINDOWS = ("windows", "right_windows", "bottom_windows", "corner_window")
EXPLANATIONS |= {f"merger.{kind}": entry for kind, entry in _MERGER.items()}


def merger_kind(stage: str) -> str:
    """What kind of a merger's stage a step is: "hidden2" and "gated_gate" are linear layers."""
    kind = stage.rstrip("0123456789")
    for part, as_ in (("_gate", "linear"), ("_hidden", "linear"), ("_silu", "activation")):
        if kind.endswith(part):
            return as_
    return _KINDS.get(kind, kind)


def step_key(name: str, activation: str, pooling: str, special_tokens: int = 1) -> str:
    """The entry of EXPLANATIONS for a step's full name."""
    _, key = place(name)
    if key == "embed.tokens" and special_tokens != 1:
        return f"{key}.{'several' if special_tokens else 'none'}"
    if key == "map.query" and pooling == "query":
        return "map.query.itself"
    if key == "pool":
        return f"pool.{pooling}"
    if key.startswith(("merger.", "deepstack.")):
        return f"merger.{merger_kind(key.rpartition('.')[2])}"
    if any(f".{part}." in key for part in WINDOWS):
        return f"attention.windows.{key.rpartition('.')[2]}"
    key = key.removeprefix("map.") if key.startswith("map.mlp.") else key
    return "mlp.activation" if key == f"mlp.{activation}" else key


def fill_in(text: str, sizes: Mapping[str, int]) -> str:
    """ "{G} x {D}" -> "196 x 768"."""
    return re.sub(r"\{([^}]+)\}", lambda match: str(evaluate(match[1], sizes)), text)
