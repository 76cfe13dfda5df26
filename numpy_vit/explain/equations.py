"""The equation of every step of the paper's model, in MathML, with a caption in English and Chinese.

Numbers are those of "An Image is Worth 16x16 Words" (arXiv 2010.11929). MathML Core alone: browsers typeset it themselves.
"""

from typing import NamedTuple

Bilingual = tuple[str, str]


class Equation(NamedTuple):
    """An equation, and what it says."""

    mathml: str
    caption: Bilingual
    bias: str = ""  # what of it falls away where a linear layer has none


def i(name: str) -> str:
    """A variable; a word is upright, a letter slanted."""
    return f"<mi>{name}</mi>"


def n(number: object) -> str:
    return f"<mn>{number}</mn>"


def o(operator: str) -> str:
    return f"<mo>{operator}</mo>"


def row(*parts: str) -> str:
    return f"<mrow>{''.join(parts)}</mrow>"


def sub(base: str, index: str) -> str:
    return f"<msub>{base}{index}</msub>"


def sup(base: str, exponent: str) -> str:
    return f"<msup>{base}{exponent}</msup>"


def both(base: str, index: str, exponent: str) -> str:
    return f"<msubsup>{base}{index}{exponent}</msubsup>"


def over(top: str, bottom: str) -> str:
    return f"<mfrac>{top}{bottom}</mfrac>"


def root(inside: str) -> str:
    return f"<msqrt>{inside}</msqrt>"


def equals(left: str, *right: str) -> str:
    return row(left, o("="), *right)


def of(function: str, *arguments: str) -> str:
    return row(function, o("("), *arguments, o(")"))


z, x, q, k, v, A, K = (i(letter) for letter in ("z", "x", "q", "k", "v", "A", "K"))
PRIME, LAYER_NORM = sup(z, o("′")), i("LN")
TRANSPOSED = sup(k, i("T"))


PLUS = '<mo form="infix">+</mo>'  # with the space of a sum, though it stands first in its row


def plus_bias(name: str) -> str:
    return row(PLUS, sub(i("b"), i(name)))


def linear(result: str, argument: str, name: str) -> str:
    return equals(result, argument, sub(i("W"), i(name)), plus_bias(name))


def norm_of(argument: str) -> str:
    deviation = root(row(sup(i("σ"), n(2)), o("+"), i("ε")))
    return equals(of(LAYER_NORM, argument), over(row(argument, o("−"), i("μ")), deviation), o("⊙"), i("γ"), o("+"), i("β"))


def sigmoid_of(*argument: str) -> str:
    return over(n(1), row(n(1), o("+"), sup(i("e"), row(o("−"), *argument))))


GELU = equals(
    of(i("GELU"), x), x, of(i("Φ"), x), o("="), over(x, n(2)), o("("), n(1), o("+"), of(i("erf"), over(x, root(n(2)))), o(")")
)
BIAS = row(PLUS, i("b"))
SCORE = sub(i("s"), i("ij"))
NORM_CAPTION = (
    "Each token less its mean μ, divided by its standard deviation; then a learned scale γ and shift β.",
    "每个词元减去均值 μ，除以标准差；再乘以可学习的缩放 γ，加上可学习的平移 β。",
)
SUM_CAPTION = (
    "What came in, plus what this half of the block has found: the residual stream goes on.",
    "输入加上编码器块这一半得到的结果：残差流继续向前。",
)

EQUATIONS: dict[str, Equation] = {
    "embed.patches": Equation(
        row(sub(x, i("p")), o("∈"), sup(i("ℝ"), row(i("G"), o("×"), o("("), sup(i("P"), n(2)), o("·"), i("C"), o(")")))),
        ("G patches, each a row of P × P × C numbers.", "G 个图块，每个是一行 P × P × C 个数。"),
    ),
    "embed.projection": Equation(
        row(sub(x, i("p")), i("E"), BIAS),
        ("Every patch times one learned matrix E.", "每个图块乘以同一个可学习的矩阵 E。"),
        BIAS,
    ),
    "embed.tokens": Equation(
        row(o("["), sub(x, i("class")), o(";"), both(x, i("p"), n(1)), i("E"), o(";"), i("⋯"), o(";"),
            both(x, i("p"), i("G")), i("E"), o("]")),
        ("The class token, then the patches: N = G + 1 rows.", "先是类别词元，然后是各图块：共 N = G + 1 行。"),
    ),
    "embed.positions": Equation(
        equals(sub(z, n(0)), o("["), sub(x, i("class")), o(";"), sub(x, i("p")), i("E"), o("]"), o("+"), sub(i("E"), i("pos"))),
        ("Equation 1: to every token the learned vector of its position is added.", "公式 1：每个词元加上其位置的可学习向量。"),
    ),
    "norm1": Equation(norm_of(z), NORM_CAPTION),
    **{
        f"attention.{name}": Equation(
            linear(letter, of(LAYER_NORM, z), name[0]),
            (f"Equation 5: the {name} of every token, K numbers for each head.", f"公式 5：每个词元的{chinese}，每个头 K 维。"),
            plus_bias(name[0]),
        )
        for name, letter, chinese in (("query", q, "查询"), ("key", k, "键"), ("value", v, "值"))
    },
    "attention.scores": Equation(
        equals(i("s"), over(row(q, TRANSPOSED), root(K))),
        ("Equation 6: every query times every key; large where they point the same way.",
         "公式 6：每个查询乘以每个键；方向相同则分数大。"),
    ),
    "attention.probs": Equation(
        equals(sub(A, i("ij")), over(sup(i("e"), SCORE), row(f"<munder>{o('∑')}{sup(i('j'), o('′'))}</munder>",
               sup(i("e"), sub(i("s"), row(i("i"), sup(i("j"), o("′")))))))),
        ("Softmax: scores of a row become weights that sum to 1.", "softmax：一行分数变成和为 1 的注意力权重。"),
    ),
    "attention.context": Equation(
        row(i("SA"), o("="), A, v),
        ("Equation 7: for each token the mean of all values, weighted by its row of A.",
         "公式 7：每个词元得到所有值的平均，权重是 A 中它的那一行。"),
    ),
    "attention.output": Equation(
        equals(i("MSA"), o("["), sub(i("SA"), n(1)), o(";"), i("⋯"), o(";"), sub(i("SA"), i("H")), o("]"), sub(i("W"), i("o")),
               plus_bias("o")),
        ("Equation 8: the heads side by side, through one linear layer.", "公式 8：各头并排相接，经过一个线性层。"),
        plus_bias("o"),
    ),
    "residual1": Equation(equals(PRIME, of(i("MSA"), of(LAYER_NORM, z)), o("+"), z), SUM_CAPTION),
    "norm2": Equation(norm_of(PRIME), NORM_CAPTION),
    "mlp.hidden": Equation(
        linear(i("h"), of(LAYER_NORM, PRIME), "1"),
        ("Every token by itself is widened from D to M numbers.", "每个词元各自从 D 维变宽到 M 维。"),
        plus_bias("1"),
    ),
    "mlp.gelu": Equation(
        GELU, ("The non-linearity: Φ is the normal distribution.", "非线性：Φ 是正态分布函数。")
    ),
    "mlp.output": Equation(
        linear(i("MLP"), of(i("GELU"), i("h")), "2"), ("And back from M to D numbers.", "再从 M 维回到 D 维。"), plus_bias("2")
    ),
    "residual2": Equation(equals(z, of(i("MLP"), of(LAYER_NORM, PRIME)), o("+"), PRIME), SUM_CAPTION),
    "norm": Equation(norm_of(sub(z, i("L"))), NORM_CAPTION),
    "pool": Equation(
        equals(i("y"), both(z, i("L"), n(0))),
        ("Equation 4: token 0, the class token, stands for the picture.", "公式 4：第 0 个词元，即类别词元，代表整张图片。"),
    ),
    "logits": Equation(
        row(i("y"), i("W"), BIAS),
        ("The classification head: one score for each of the O classes.", "分类头：O 个类别各有一个分数。"),
        BIAS,
    ),
}  # fmt: skip
ACTIVATIONS: dict[str, Equation] = {
    "gelu_tanh": Equation(
        equals(of(i("GELU"), x), x,
               sigmoid_of(root(over(n(8), i("π"))), o("("), x, o("+"), n("0.044715"), sup(x, n(3)), o(")"))),
        ("GELU by tanh, written as a sigmoid.", "用 tanh 近似的 GELU，写成 sigmoid 的形式。"),
    ),
    "quick_gelu": Equation(
        equals(of(i("GELU"), x), x, sigmoid_of(n("1.702"), x)), ("The GELU of CLIP.", "CLIP 所用的 GELU。")
    ),
    "silu": Equation(equals(of(i("SiLU"), x), x, sigmoid_of(x)), ("SiLU, also called swish.", "SiLU，也叫 swish。")),
    "relu": Equation(
        equals(of(i("ReLU"), x), i("max"), o("("), x, o(","), n(0), o(")")), ("What is below 0 becomes 0.", "小于 0 的变为 0。")
    ),
}  # fmt: skip


def equation_of(step: str, activation: str, *, biased: bool = True) -> Equation | None:
    """The equation of a step (its name within its block), or None for a step that the paper's model does not have.

    biased   whether its linear layer, if it is one, has a bias
    """
    if step in ("mlp.gelu", f"mlp.{activation}") and activation != "gelu":
        return ACTIVATIONS[activation]
    found = EQUATIONS.get(step)
    if found is None or biased:
        return found
    return found._replace(mathml=found.mathml.replace(found.bias, "") if found.bias else found.mathml)


def math(equation: Equation) -> str:
    """The element that a browser typesets, as a block."""
    return f'<math display="block">{equation.mathml}</math>'
