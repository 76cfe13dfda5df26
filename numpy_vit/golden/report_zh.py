"""The known mistakes, and what a difference is, in Chinese, for the page: by their English text, of which some parts vary."""

import re

WORDS = {
    "the patch projection": "图块投影",
    "query": "query",
    "key": "key",
    "value": "value",
    "attention's output": "注意力的输出层",
    "the MLP's gate": "MLP 的门控层",
    "the MLP's first layer": "MLP 的第一层",
    "the MLP's second layer": "MLP 的第二层",
    "the pooler": "pooler",
    "the classification head": "分类头",
    "ImageNet's": "ImageNet 的",
    "CLIP's": "CLIP 的",
    "halves": "前后两半",
    "neighbours": "相邻的数",
}

# English, where (.+) is a part that varies -> Chinese, where {} is that part (as WORDS has it, or as it is).
TEXTS = {
    # pixels
    "0..255 is normalised without division by 255": "没有除以 255,直接把 0 到 255 的值归一化",
    "values of 0 to 255 are fed as they are": "直接送入了 0 到 255 的原值",
    "values of 0 to 1 are fed without mean and std": "送入了 0 到 1 的值,没有用均值和标准差",
    "values are divided by 255 twice": "除以 255 做了两次",
    "the mean is not subtracted": "没有减去均值",
    "the pixels are not divided by the std": "像素没有除以标准差",
    "the channels are in the order blue, green, red": "通道的次序是蓝、绿、红",
    "the pixels are normalised with (.+) mean and std": "像素用了 {} 均值和标准差归一化",
    "height and width of the picture are swapped": "图片的高与宽颠倒了",
    # embedding
    r"patch rows are flattened (\(.+\)) instead of (\(.+\))": "图块按 {} 的次序展平,应为 {}",
    r"the projection's rows are in the order (\(.+\)) instead of (\(.+\))": "投影矩阵的行按 {} 的次序排列,应为 {}",
    "patches are taken column by column instead of row by row": "图块是逐列取的,应为逐行",
    "the class token is put last instead of first": "类别词元放在了最后,应在最前",
    "the class token is zero": "类别词元是零",
    "the register tokens are zero": "寄存器词元是零",
    "no positions are added": "没有加位置",
    "positions are shifted by the class token: each patch has the position of the token before it": (
        "位置因类别词元而错开:每个图块用了前一个词元的位置"
    ),
    "positions are shifted by the class token: its own is taken for the last patch": (
        "位置因类别词元而错开:它的位置给了最后一个图块"
    ),
    "positions are shifted by the class token: it has the last patch's": "位置因类别词元而错开:它用了最后一个图块的位置",
    "the class token has no position": "类别词元没有位置",
    "positions are resized by the rule '(.+)' instead of '(.+)'": "位置按规则 {} 缩放,应为 {}",
    # norms
    "layer norm has eps (.+) instead of (.+)": "层归一化的 eps 是 {},应为 {}",
    "layer norm's scale is missing": "层归一化缺少缩放",
    "layer norm's shift is missing": "层归一化缺少平移",
    r"layer norm divides by the unbiased variance \(over D - 1 instead of D\)": "层归一化用了无偏方差(除以 D - 1,应除以 D)",
    "the weights of norm1 and norm2 are swapped": "norm1 与 norm2 的权重互换了",
    "the norm before attention is missing": "缺少注意力之前的归一化",
    "the norm before the MLP is missing": "缺少 MLP 之前的归一化",
    "the norm before the first block is missing": "缺少第一个编码器块之前的归一化",
    "the norm of what the heads give is missing": "缺少对各个头的结果的归一化",
    "the norm inside the MLP is missing": "缺少 MLP 内部的归一化",
    "the norm after pooling is missing": "缺少汇聚之后的归一化",
    "the last norm is missing": "缺少最后的归一化",
    r"layer norm comes after the sums \(post-norm\) instead of before attention and MLP \(pre-norm\)": (
        "层归一化在相加之后(post-norm),应在注意力和 MLP 之前(pre-norm)"
    ),
    "layer scale is missing": "缺少 layer scale",
    "the layer scales of attention and MLP are swapped": "注意力与 MLP 的 layer scale 互换了",
    # attention
    "query, key and value are taken in another order: (.+)": "query、key、value 的次序取错了:{}",
    r"the fused query-key-value is unpacked \(H, 3, K\) instead of \(3, H, K\)": (
        "合并的 query-key-value 按 (H, 3, K) 拆开,应为 (3, H, K)"
    ),
    r"heads are split \(K, H\) instead of \(H, K\)": "头按 (K, H) 拆分,应为 (H, K)",
    r"heads are split and merged \(K, H\) instead of \(H, K\)": "头按 (K, H) 拆分并合并,应为 (H, K)",
    r"heads are split by a reshape to \(B, H, N, K\), without moving the axes": (
        "拆分头时直接 reshape 成 (B, H, N, K),没有交换轴"
    ),
    "heads are merged by a reshape, without moving the axes": "合并头时直接 reshape,没有交换轴",
    r"scores are not divided by sqrt\(K\)": "分数没有除以 sqrt(K)",
    r"scores are divided by sqrt\(D\) instead of sqrt\(K\)": "分数除以了 sqrt(D),应除以 sqrt(K)",
    r"scores are divided by K instead of sqrt\(K\)": "分数除以了 K,应除以 sqrt(K)",
    "scores are key times query instead of query times key": "分数是 key 乘 query,应为 query 乘 key",
    r"softmax runs over the queries \(axis -2\) instead of the keys \(axis -1\)": "softmax 沿 query(轴 -2)计算,应沿 key(轴 -1)",
    "softmax runs over the heads instead of the keys": "softmax 沿头计算,应沿 key",
    "there is no softmax": "没有 softmax",
    "query and key are not normed": "query 和 key 没有归一化",
    "query and key are not rotated": "query 和 key 没有旋转",
    "rotary positions pair (.+)": "旋转位置把{}配成了对",
    "no relative positions are added to the scores": "分数没有加上相对位置",
    "relative positions are from key to query, not query to key": "相对位置是从 key 到 query,应为从 query 到 key",
    # sums
    "what came into the block is not added after attention": "注意力之后没有加上进入编码器块的数",
    "what came into the MLP half is not added after the MLP": "MLP 之后没有加上进入 MLP 这一半的数",
    "nothing is added after attention and after the MLP: no residual connections": "注意力和 MLP 之后都没有相加:没有残差连接",
    "the sums add the normed tokens instead of those before the norm": "相加时用了归一化之后的词元,应为归一化之前的",
    # MLP
    r"GELU is exact \(erf\)": "GELU 是精确的(erf)",
    "GELU is the tanh approximation": "GELU 是 tanh 近似",
    r"GELU is the quick approximation, x sigmoid\(1.702 x\)": "GELU 是快速近似 x sigmoid(1.702 x)",
    "the activation is (.+)": "激活函数是 {}",
    "there is no activation": "没有激活函数",
    "the MLP's gate and hidden layer are swapped": "MLP 的门控层与隐藏层互换了",
    # pooling
    "the mean of the patch tokens is taken instead of the class token": "取了图块词元的平均值,应取类别词元",
    "the class token is taken instead of the mean of the patch tokens": "取了类别词元,应取图块词元的平均值",
    "the mean of all tokens, the class token included, is taken": "取了所有词元(含类别词元)的平均值",
    "the pooler has no tanh": "pooler 没有 tanh",
    "the logits are the class token's head's alone": "logits 只来自类别词元的分类头",
    # what language models see
    "patches are rotated by their column where it should be by their row": "图块按列旋转了,应按行旋转(行列互换)",
    r"layer norm \(which takes the mean away\) stands in the place of RMS norm": (
        "该用 RMS 归一化的地方用了层归一化(减去了平均值)"
    ),
    "every block attends to the whole picture: there are no windows": "每个编码器块都关注整张图片:没有窗口",
    "no block attends to the whole picture: all have windows": "没有一个编码器块关注整张图片:都用了窗口",
    "windows are of (.+) patches instead of (.+)": "窗口是 {} 个图块,应为 {}",
    "the patches that are merged are taken column by column": "合并的图块按列取,应按行取",
    "merged tokens have their numbers as a convolution's kernel has them": "合并后词元的数字按卷积核的次序排列",
    "the merger has no norm": "合并模块没有归一化",
    "the merger's GELU is the tanh approximation": "合并模块的 GELU 是 tanh 近似",
    # weights
    "(.+) has no bias": "{} 没有偏置",
    "no linear layer has a bias": "所有线性层都没有偏置",
    r"the weights of (.+) are transposed: \((.+)\) numbers are read as \((.+)\)": "{} 的权重被转置:({}) 的数被当作 ({}) 读",
    r"all weights are transposed: \((.+)\) read as \((.+)\)": "所有权重都被转置:({}) 被当作 ({}) 读",
    "every block has the weights of the next one": "每个编码器块用了下一块的权重",
    "every block has the weights of the one before": "每个编码器块用了上一块的权重",
}


def in_chinese(text: str) -> str:
    """A mistake's text in Chinese; as it is where there is none."""
    for english, chinese in TEXTS.items():
        found = re.fullmatch(english, text)
        if found:
            return chinese.format(*(WORDS.get(part, part) for part in found.groups()))
    return text


# What a difference is (numpy_vit.golden.describing)

UNITS = {
    "query token": "查询词元", "key token": "键词元", "query patch": "查询图块", "key patch": "键图块",
    "hidden channel": "隐藏通道", "head channel": "头内通道", "pixel row": "像素行", "pixel column": "像素列",
    "picture": "图片", "head": "头", "token": "词元", "channel": "通道",
    "patch": "图块", "class": "类别", "colour": "颜色", "number": "数",
}  # fmt: skip
UNIT = rf"({'|'.join(UNITS)})(?:es|s)?(?: of axis (\d+))?"
LIST = r"(\d+(?:, \d+)*(?:, \.\.\. \(\d+ of them\)| and \d+| to \d+)?)"
WAYS = {
    "rounded to the nearest": "就近舍入",
    "cut off towards zero": "向零截断",
    "rounded down": "向下舍入",
    "rounded up": "向上舍入",
}
# A part of the sentence -> the same in Chinese, {} for what varies. The first that fits what is left of the text is taken.
PARTS = {
    r"only in (.+?): ": "只在{}：",
    r" \(this explains (.+) % of the difference; (.+) noise floors are left\)": "（这解释了差别的 {}%，还剩 {} 个噪声底）",
    r"the numbers are the right ones with the other sign": "数值是正确值取反号",
    r"the numbers are the right ones times ([^ ]+) plus ([^ ]+)": "数值是正确值乘 {} 再加 {}",
    r"the numbers are the right ones times ([^ ]+(?: [-+=] [^ ]+)?)": "数值是正确值乘 {}",
    r"the numbers are the right ones plus ([^ ]+)": "数值是正确值加 {}",
    r"each (.+?) is the right one times a factor of its own, (.+?), plus an offset of its own, ([^ ]+(?: to [^ ]+)?)": (
        "每个{}是正确值乘各自的系数 {}，再加各自的偏移 {}"
    ),
    r"each (.+?) is the right one times a factor of its own, ([^ ]+(?: to [^ ]+)?)": "每个{}是正确值乘各自的系数 {}",
    r"each (.+?) is the right one plus an offset of its own, ([^ ]+(?: to [^ ]+)?)": "每个{}是正确值加各自的偏移 {}",
    r"(.+?): the numbers are (-inf|inf|NaN|[^ ,a-z]+(?:e[^ ,]+)?)": "{}：数值都是 {}",
    r"every (.+?) after the (.+?) is ([^ ]+) \(a triangle.+\)": "{1}之后的每个{0}都是 {2}（三角形，如同因果掩码）",
    r"every (.+?) at and after the (.+?) is ([^ ]+) \(a triangle.+\)": (
        "{1}本身及其后的每个{0}都是 {2}（三角形，如同因果掩码）"
    ),
    r"every (.+?) before the (.+?) is ([^ ]+) \(a triangle.+\)": "{1}之前的每个{0}都是 {2}（三角形，如同因果掩码）",
    r"every (.+?) at and before the (.+?) is ([^ ]+) \(a triangle.+\)": (
        "{1}本身及其前的每个{0}都是 {2}（三角形，如同因果掩码）"
    ),
    r", and what is left of each (.+?) is the right numbers times ([^ ]+(?: to [^ ]+)?)": "，每个{}余下的数值是正确值乘 {}",
    r"the (.+?) are in another order: the even ones first, then the odd ones": "{}的次序不同：先是偶数位，后是奇数位",
    r"the (.+?) are in another order: the two halves are interleaved": "{}的次序不同：前后两半交错排列",
    r"the (.+?) are in another order: \((.+)\) where it should be \((.+)\)": "{}的次序不同：按 ({}) 排列，应为 ({})",
    r"transposed: (.+?) and (.+?) have changed places": "转置：{}与{}互换了位置",
    r"reshaped without moving the axes: the \((.+)\) numbers lie in the order \((.+)\)": (
        "只改了形状，没有移动轴：({}) 的数按 ({}) 的次序排列"
    ),
    r"the (.+?) are reversed in each (\d+) of them": "{}以每 {} 个为一组，组内次序颠倒",
    r"the (.+?) are reversed by blocks of (\d+)": "{}以 {} 个为一组，组的次序颠倒",
    r"the (.+?) are reversed": "{}的次序颠倒",
    r"the (.+?) are rolled by (-?\d+): each has the numbers of the one (\d+ \w+) it, around the end": (
        "{}循环移动 {} 位：每个都是{}的数值，首尾相接"
    ),
    r"the (.+?) are shifted by (-?\d+): each has the numbers of the one (\d+ \w+) it": "{}移动 {} 位：每个都是{}的数值",
    r", zeros at the end": "，空出的一端是零",
    r", the end repeated": "，末端的重复",
    r"(.+?): each has the numbers of the one (\d+ \w+) it": "{}：每个都是{}的数值",
    r"some (.+?) have the numbers of others: (.+?) are ([^()]+)": "有些{}是别处的数值：{} 处依次是 {}",
    r"(.+?) ha(?:s|ve) the numbers of (.+ \d+)": "{}是{}的数值",
    r"the (.+?) are in another order, by blocks of (\d+): (.+?) are ([^()]+)": "{}以 {} 个为一组，次序不同：{} 处依次是 {}",
    r"the (.+?) are in another order: (.+?) are ([^()]+)": "{}的次序不同：{} 处依次是 {}",
    r" \.\.\. \((\d+) of them\)": "……（共 {} 个）",
    r"the array is shifted by (-?\d+) in memory: number i is the right number (.+)": (
        "数组在内存中错开了 {} 位：第 i 个数是正确的第 {} 个数"
    ),
    r"the numbers are the right ones, cut below at (.+) and above at (.+?) \((.+) of (.+?)\)": (
        "数值是正确值，但下限截在 {}，上限截在 {}（{} 个，共 {} 个）"
    ),
    r"the numbers are the right ones, cut below at (.+?) \((.+) of (.+?)\)": "数值是正确值，但下限截在 {}（{} 个，共 {} 个）",
    r"the numbers are the right ones, cut above at (.+?) \((.+) of (.+?)\)": "数值是正确值，但上限截在 {}（{} 个，共 {} 个）",
    r"the numbers are the right ones (round\w+ to the nearest|cut off towards zero|rounded \w+), of ": (
        "数值是正确值{}，格式为 "
    ),
    r"all numbers are of (.+), and off by less than one unit of it": "所有数值都是 {} 的数，误差不到它的一个单位",
    r"a grid of (\d+) levels, multiples of ([^ ;]+)": "{} 级的等距网格，间距 {}",
    r"(float8-e5m2|float8-e4m3|bfloat16|float16|tf32)": "{}",
    r"; (.+) % are equal to that": "；其中 {}% 与此相等",
    r"the difference is of rank one: one row of numbers over the (.+?), times a number for each (.+)": (
        "差别的秩为一：一行沿{}的数，乘每个{}各自的一个数"
    ),
    r"the difference is of rank (\d), as a sum of \d outer products": "差别的秩为 {}，即这么多个外积之和",
    r"the difference is (\S+) times ([^ ,]+)": "差别是 {} 乘 {}",
    r", as if it were left out": "，如同漏掉了它",
    r", as if it were added once more": "，如同多加了一次",
    r"the numbers are those of (.+), as if this step were not done": "数值就是 {} 的，如同没有做这一步",
    r"the numbers are (\S+) times ([^ ,]+)": "数值是 {} 乘 {}",
    r"only one number is wrong, at (.+): (.+) instead of (.+)": "只有一个数错误，在{}：是 {}，应为 {}",
    r"only (.+?) (?:is|are) wrong": "只有{}错误",
    r"(\S+) NaN and (\S+) infinite numbers of (\S+): ": "共 {2} 项，其中有 {0} 个 NaN、{1} 个无穷大：",
    r"here and there": "分布各处",
    r"everywhere": "处处都是",
    r"all of (.+?)(?=;|$)": "{}全部如此",
    r"within (.+?)(?=;|$)": "都在{}之内",
    r"; the rest is right": "；其余正确",
    r"; the rest is wrong as well": "；其余也错误",
    r"(\S+) of (\S+) numbers differ beyond noise": "共 {1} 项，其中 {0} 项的差别超过噪声",
    r"; correlation with the right ones ([^ ;]+)": "；与正确值的相关系数 {}",
    r"; difference (\S+) of their size": "；差别是其大小的 {} 倍",
    r"; (\d+) % of it in (.+?)(?=;|$)": "；其中 {}% 在{}",
}


def difference_in_chinese(text: str) -> str:
    """What a difference is, in Chinese, part by part; as it is where there is none."""
    chinese, rest = "", text
    while rest:
        found = next(((m, zh) for part, zh in PARTS.items() if (m := re.match(part, rest))), None)
        if found is None:
            return text
        match, translated = found
        chinese += translated.format(*(part_in_chinese(part) for part in match.groups()))
        rest = rest[match.end() :]
    return chinese


def part_in_chinese(part: str) -> str:
    """What varies in such a text: places, units, numbers, a way of rounding."""

    def some(match: re.Match[str]) -> str:
        unit, axis, places, count = match.groups()
        return f"{unit_in_chinese(unit, axis)} {listed(places)}（共 {count} 个）"

    def all_but(match: re.Match[str]) -> str:
        count, unit, axis, places = match.groups()
        return f"除 {listed(places)} 外的全部 {count} 个{unit_in_chinese(unit, axis)}"

    if part in WAYS:
        return WAYS[part]
    if step := re.fullmatch(r"(\d+) (before|after)", part):
        return f"{'前' if step[2] == 'before' else '后'}面第 {step[1]} 个"
    if part == "all places":
        return "处处"
    part = re.sub(rf"all (\d+) {UNIT} but {LIST}", all_but, part)
    part = re.sub(rf"\b{UNIT} {LIST} of (\d+)", some, part)
    part = re.sub(rf"\b{UNIT}\b(?! \w+ of)", lambda m: unit_in_chinese(m[1], m[2]), part)
    part = "的每个".join(reversed(part.split(" of each ")))
    part = re.sub(r"(?<=）), |(?<=[\u4e00-\u9fff]), ", "，", part)
    return re.sub(r"(?<=[\d.]) to (?=[-\d])", " 到 ", part).replace(" and ", "、").replace("zero", "零")


def unit_in_chinese(unit: str, axis: str | None) -> str:
    return UNITS[unit] + (f"（轴 {axis}）" if axis else "")


def listed(places: str) -> str:
    places = re.sub(r", \.\.\. \((\d+) of them\)", r"……（\1 个）", places)
    return places.replace(" to ", " 到 ").replace(" and ", "、").replace(", ", "、")
