"""What every step of the forward pass is: operation, formula, place in the paper, and one sentence on why.

One table that the tracer prints. In a formula, {N-1} stands for the size of N-1 (the letters are in numpy_vit.steps).
Equations are those of "An Image is Worth 16x16 Words", arXiv 2010.11929: 1 to 4 in section 3.1, 5 to 8 in appendix A.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from .steps import evaluate


class Explanation(NamedTuple):
    operation: str
    where: str  # in the paper
    formula: str
    why: str
    why_zh: str


_LINEAR = "{N} x {D} @ {D} x {H*K} + {H*K}, seen as {H} heads of {K}"

EXPLANATIONS: dict[str, Explanation] = {
    "embed.patches": Explanation(
        "patchify",
        "section 3.1",
        "{Y} x {X} x {C} -> {N-1} x {C*P*P}  ({P} x {P} x {C} = {C*P*P})",
        "A Transformer reads a sequence, so the picture is cut into patches and each patch becomes a row of numbers.",
        "Transformer 读的是序列,所以把图片切成小块,每块变成一行数字。",
    ),
    "embed.projection": Explanation(
        "linear",
        "eq. 1: x_p E",
        "{N-1} x {C*P*P} @ {C*P*P} x {D} + {D}",
        "One learned matrix turns every patch into a token of the model's width; it is a convolution with stride P.",
        "一个学到的矩阵把每个块变成模型宽度的词元;这与步长为 P 的卷积是同一回事。",
    ),
    "embed.tokens": Explanation(
        "prepend",
        "eq. 1: x_class",
        "1 + {N-1} = {N} tokens",
        "A learned class token is put first; it belongs to no patch and will collect what the picture shows.",
        "在最前面放一个学到的类别词元;它不属于任何块,用来汇集整张图片的内容。",
    ),
    "embed.resized_positions": Explanation(
        "resize",
        "section 3.2",
        "positions as learned -> {N} x {D}",
        "The image has another size than the positions were learned for, so their grid is resized like a picture.",
        "图像尺寸与学习位置时不同,所以把位置网格像图片一样缩放。",
    ),
    "embed.positions": Explanation(
        "add",
        "eq. 1: E_pos",
        "{N} x {D} + {N} x {D}",
        "Attention does not know order: learned positions are added (not appended) so that each token knows its place.",
        "注意力不知道次序:加上(而不是拼接)学到的位置,让每个词元知道自己在哪里。",
    ),
    "norm1": Explanation(
        "layer norm",
        "eq. 2: LN",
        "(x - mean) / sqrt(variance + eps) * weight + bias, each token over {D}",
        "Every token is brought to the same scale before attention, so that deep stacks stay stable.",
        "注意力之前把每个词元调到同一尺度,层数很深也保持稳定。",
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
        "Every query meets every key; dividing by sqrt(K) keeps the spread the same for any K, so softmax stays soft.",
        "每个查询与每个键相乘;除以 sqrt(K) 使分布宽度与 K 无关,softmax 才不会饱和。",
    ),
    "attention.probs": Explanation(
        "softmax",
        "eq. 6: A",
        "exp(x) / sum(exp(x)), each row over {N}, {H} times",
        "Scores become shares: for each query the {N} shares are positive and sum to 1.",
        "分数变成份额:对每个查询,{N} 个份额都为正且和为 1。",
    ),
    "attention.context": Explanation(
        "matmul",
        "eq. 7: A v",
        "{N} x {N} @ {N} x {K}, {H} times",
        "Each token takes the values of all tokens in those shares.",
        "每个词元按这些份额取所有词元的值。",
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
        "注意力是修改词元,而不是替换它们。",
    ),
    "norm2": Explanation(
        "layer norm",
        "eq. 3: LN",
        "(x - mean) / sqrt(variance + eps) * weight + bias, each token over {D}",
        "The same scale again before the MLP.",
        "MLP 之前再次调到同一尺度。",
    ),
    "mlp.hidden": Explanation(
        "linear",
        "eq. 3: MLP",
        "{N} x {D} @ {D} x {M} + {M}",
        "Each token, by itself, is widened so that there is room for features.",
        "每个词元各自加宽,为特征腾出空间。",
    ),
    "mlp.activation": Explanation(
        "activation",
        "section 3.1: GELU",
        "{N} x {M}, one by one",
        "The bend that makes two matrices more than one.",
        "有了这个弯折,两个矩阵才不等于一个矩阵。",
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
        "同样是相加而非替换;形状不变,所以块可以层层叠放。",
    ),
    "norm": Explanation(
        "layer norm",
        "eq. 4: LN",
        "(x - mean) / sqrt(variance + eps) * weight + bias, each token over {D}",
        "The last norm: this is the last hidden state.",
        "最后一次归一化:这就是 last hidden state。",
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
        "mean of {N-1} patch tokens -> {D}",
        "The mean of the patch tokens stands for the picture.",
        "块词元的平均值代表整张图片。",
    ),
    "pooler": Explanation(
        "linear, tanh",
        "section 3.1: MLP with one hidden layer, at pre-training",
        "tanh({D} @ {D} x {R} + {R})",
        "A hidden layer on the class token that transformers' ViTModel keeps from pre-training.",
        "类别词元上的一个隐藏层,transformers 的 ViTModel 从预训练保留下来。",
    ),
    "logits": Explanation(
        "linear",
        "section 3.1: classification head",
        "{D} @ {D} x {O} + {O}",
        "One score for each class; softmax would make them probabilities.",
        "每个类别一个分数;再做 softmax 就成为概率。",
    ),
}


def step_key(name: str, activation: str, pooling: str) -> str:
    """The entry of EXPLANATIONS for a step's full name."""
    key = re.sub(r"^blocks\.\d+\.", "", name)
    if key == "pool":
        return f"pool.{pooling}"
    return "mlp.activation" if key == f"mlp.{activation}" else key


def fill_in(text: str, sizes: Mapping[str, int]) -> str:
    """ "{N-1} x {D}" -> "196 x 768"."""
    return re.sub(r"\{([^}]+)\}", lambda match: str(evaluate(match[1], sizes)), text)
