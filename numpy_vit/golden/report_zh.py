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
    "the distillation head": "蒸馏头",
    "the projection to the image embedding": "到图片嵌入的投影",
    "ImageNet's": "ImageNet 的",
    "CLIP's": "CLIP 的",
    "halves": "前后两半",
    "neighbours": "相邻的数",
    "layer norm": "层归一化",
    "RMS norm": "RMS 归一化",
    "attention": "注意力",
    "the MLP": "MLP",
    "attention or the MLP": "注意力或 MLP",
    "output": "输出",
    "input": "输入",
    "down": "下",
    "up": "上",
    "left": "左",
    "right": "右",
    "before": "上一",
    "after": "下一",
    "matrix": "矩阵",
    "bfloat16 towards zero": "bfloat16(向零舍入)",
    "GELU's tanh approximation without its cube": "没有三次项的 GELU tanh 近似",
    "GELU's tanh approximation without sqrt(2/pi)": "没有 sqrt(2/pi) 的 GELU tanh 近似",
    "GELU's tanh approximation with 0.44715 instead of 0.044715": "系数是 0.44715(应为 0.044715)的 GELU tanh 近似",
    "GELU with erf(x) instead of erf(x / sqrt(2))": "用 erf(x)(应为 erf(x / sqrt(2)))的 GELU",
    "GELU without its factor 1/2": "没有系数 1/2 的 GELU",
    "GELU's normal distribution alone, not multiplied by x": "GELU 中的正态分布,没有乘以 x",
    "leaky ReLU with slope 0.01": "斜率为 0.01 的 leaky ReLU",
    "the square of ReLU": "ReLU 的平方",
    "the sigmoid": "sigmoid",
}
NORM = "(layer norm|RMS norm)"
AFTER, GIVES = "the sum after (attention|the MLP)", "what (?:attention|the MLP|attention or the MLP) gives"

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
    "the picture is flipped left to right": "图片左右翻转了",
    "the picture is upside down": "图片上下翻转了",
    "the picture is turned by 180 degrees": "图片旋转了 180 度",
    "the picture is moved (down|up|left|right) by one pixel, and zeros move in": "图片向{}移了一个像素,空出处补零",
    "the picture is moved (down|up|left|right) by one pixel, and its other edge moves in": "图片向{}移了一个像素,空处用对边",
    "every channel is the first one": "每个通道都是第一个通道",
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
    "positions are added twice": "位置加了两次",
    "positions are taken column by column instead of row by row": "位置是逐列取的,应为逐行",
    "the patches' positions are flipped left to right": "图块的位置左右翻转了",
    "the patches' positions are upside down": "图块的位置上下翻转了",
    "the patches' positions are in reverse order": "图块的位置次序颠倒了",
    "the positions' halves for rows and columns are swapped": "位置中行与列的两半互换了",
    "the positions' sines and cosines are swapped": "位置中的正弦与余弦互换了",
    r"each patch is turned by 180 degrees \(a convolution with its kernel turned\)": "每个图块旋转了 180 度(卷积核翻转的卷积)",
    r"the tokens are multiplied by sqrt\(D\) before positions are added": "加位置之前词元乘以了 sqrt(D)",
    # norms
    f"{NORM} is RMS norm: the mean is not taken away": "{}成了 RMS 归一化:没有减去平均值",
    f"{NORM} does not take the mean away, but divides by the standard deviation": "{}没有减去平均值,但除以了标准差",
    f"{NORM} takes the mean away, but divides by nothing": "{}减去了平均值,但没有除",
    f"{NORM} divides by the variance instead of its root": "{}除以了方差,应除以其平方根",
    f"{NORM} divides by the root of the sum of squares instead of their mean": "{}除以了平方和的根,应为平方的平均值的根",
    f"{NORM} divides by the mean absolute deviation": "{}除以了平均绝对偏差",
    f"{NORM} adds eps to the standard deviation instead of the variance": "{}把 eps 加到了标准差上,应加到方差上",
    f"{NORM} adds eps to the root instead of under it": "{}把 eps 加在了根号外,应在根号内",
    f"{NORM} has no eps": "{}没有 eps",
    f"{NORM} runs over the tokens instead of each token's numbers": "{}沿词元计算,应沿每个词元的各数",
    f"{NORM} runs over all numbers of a picture instead of each token's": "{}对整张图片的所有数计算,应对每个词元的各数",
    f"{NORM} is applied twice": "{}做了两次",
    f"{NORM} adds its shift before it multiplies by its scale": "{}先加平移、后乘缩放,应先乘后加",
    f"{NORM} adds its shift twice": "{}的平移加了两次",
    rf"{NORM} multiplies by 1 \+ its scale": "{}乘以了 1 + 缩放",
    "(norm1|norm2) has the weights of (norm1|norm2)": "{} 用了 {} 的权重",
    "the norm before the MLP is of what attention gives, without what came in": "MLP 之前的归一化只取了注意力的结果",
    "the model's last norm comes after the blocks too": "每个编码器块之后也做了最后的归一化",
    "the last norm is of the mean of the tokens instead of each of them": "最后的归一化做在词元的平均值上,应做在每个词元上",
    "the last norm is of what the last block but one gives": "最后的归一化取了倒数第二个编码器块的结果",
    "layer scale is applied twice": "layer scale 做了两次",
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
    r"scores are divided by sqrt\(H\) instead of sqrt\(K\)": "分数除以了 sqrt(H),应除以 sqrt(K)",
    r"scores are divided by sqrt\(K\), as this model's are not": "分数除以了 sqrt(K),而此模型不除",
    r"scores are divided by the root of sqrt\(K\)": "分数除以了 sqrt(K) 的平方根",
    r"scores are multiplied by sqrt\(K\) instead of divided": "分数乘以了 sqrt(K),应除以",
    r"the queries are divided by sqrt\(K\), and the scores again": "query 除以了 sqrt(K),分数又除了一次",
    r"softmax is divided by sqrt\(K\) instead of the scores": "softmax 的结果除以了 sqrt(K),应除分数",
    "softmax has 1 more in its denominator": "softmax 的分母多了 1",
    "softmax is applied twice": "softmax 做了两次",
    "softmax is not divided by its sum": "softmax 没有除以总和",
    "softmax is taken of the negative scores": "softmax 取了负的分数",
    "softmax raises 2 to the scores instead of e": "softmax 以 2 为底,应以 e 为底",
    "the logarithm of softmax is taken": "取了 softmax 的对数",
    "the sigmoid stands in the place of softmax": "用 sigmoid 代替了 softmax",
    "the values are weighted by the transpose of softmax": "value 用 softmax 的转置加权了",
    "no token sees itself(, as its scores show)?": "词元看不到自己",
    r"no token sees the first one \(a mask that leaves it out\)(, as its scores show)?": "看不到第一个词元(掩码去掉了它)",
    r"no token sees the last one \(a padding mask\)(, as its scores show)?": "看不到最后一个词元(填充掩码)",
    r"no token sees those after it \(a causal mask\)(, as its scores show)?": "词元看不到它之后的词元(因果掩码)",
    "no token sees those before it(, as its scores show)?": "词元看不到它之前的词元",
    "every head has the mean of all heads' weights": "每个头都用了所有头的权重的平均值",
    "every head has the weights of the first": "每个头都用了第一个头的权重",
    "each token has the (.+) of the next, the last the first one's": "每个词元用了后一个词元的 {},最后一个用了第一个的",
    "each token has the (.+) of the one before it, the first zeros": "每个词元用了前一个词元的 {},第一个为零",
    "each block has keys and values of the one before it": "编码器块用了上一块的 key 和 value",
    "each block has the (query|key|value) of the one before it": "编码器块用了上一块的 {}",
    "the heads of (.+) are in reverse order": "{} 的头的次序颠倒了",
    "attention's output layer is missing": "缺少注意力的输出层",
    "of query, key and value one stands for another: (.+)": "query、key、value 中有一个顶替了另一个:{}",
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
    f"{AFTER} adds half of {GIVES}": "{}之后只加了其结果的一半",
    f"{AFTER} adds {GIVES} twice": "{}之后其结果加了两次",
    f"{AFTER} subtracts {GIVES}": "{}之后减去了其结果,应加上",
    f"{AFTER} takes the mean of what came in and {GIVES} instead of the sum": "{}之后取了平均值,应取和",
    f"{AFTER} adds {GIVES} to twice what came in": "{}之后进来的数加了两次",
    f"each sum of a block adds half of {GIVES}": "注意力和 MLP 之后都只加了结果的一半",
    f"each sum of a block adds {GIVES} twice": "注意力和 MLP 之后结果都加了两次",
    f"each sum of a block subtracts {GIVES}": "注意力和 MLP 之后都减去了结果,应加上",
    f"each sum of a block takes the mean of what came in and {GIVES} instead of the sum": "注意力和 MLP 之后都取了均值",
    f"each sum of a block adds {GIVES} to twice what came in": "注意力和 MLP 之后进来的数都加了两次",
    "there is no attention: its sum is what came in": "没有注意力:和就是进来的数",
    "there is no MLP: its sum is what came in": "没有 MLP:和就是进来的数",
    "the second sum adds to what came into the block instead of the first sum": "第二个和加在了进入编码器块的数上",
    r"attention and MLP both take what came into the block \(a parallel block\)": "注意力和 MLP 都取了进入编码器块的数(并行块)",
    r"attention and MLP both take what norm1 gives \(a parallel block\)": "注意力和 MLP 都取了 norm1 的结果(并行块)",
    # blocks
    "block (.+) is left out": "缺少编码器块 {}",
    "block (.+) is run twice": "编码器块 {} 做了两次",
    "the blocks are run in reverse order": "编码器块的次序颠倒了",
    "the blocks have the weights of the blocks in reverse order": "编码器块的权重次序颠倒了",
    "the blocks have the weights of the first one": "编码器块用了第一块的权重",
    "the blocks have the weights of the last one": "编码器块用了最后一块的权重",
    # MLP
    "the activation is applied twice": "激活函数做了两次",
    "the activation is applied to the MLP's output too": "MLP 的输出也做了激活函数",
    "the activation is applied to the MLP's output instead of its hidden numbers": "激活函数做在了 MLP 的输出上,应做在隐藏层上",
    "the bias of the MLP's first layer is added after the activation": "MLP 第一层的偏置加在了激活函数之后",
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
    "the largest of all tokens is taken, number by number": "逐个数取了所有词元中的最大值",
    "the largest of the patch tokens is taken, number by number": "逐个数取了图块词元中的最大值",
    "the last token is taken": "取了最后一个词元",
    "the first patch's token is taken": "取了第一个图块的词元",
    "the sum of the patch tokens is taken instead of their mean": "取了图块词元之和,应取平均值",
    "the picture's vector is divided by its length": "图片的向量除以了其长度",
    "the image embedding is divided by its length": "图片嵌入除以了其长度",
    "softmax is applied to the logits": "logits 又做了 softmax",
    "the logarithm of softmax is applied to the logits": "logits 又做了 softmax 的对数",
    "the sigmoid is applied to the logits": "logits 又做了 sigmoid",
    "the classification head takes what the pooler gives": "分类头取了 pooler 的结果",
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
    "each block has the weights of the next one": "编码器块用了下一块的权重",
    "each block has the weights of the one before": "编码器块用了上一块的权重",
    "the linear layers have the biases of the block (before|after)": "线性层用了{}块的偏置",
    "the bias of every linear layer is added twice": "所有线性层的偏置都加了两次",
    "the bias of every linear layer is subtracted": "所有线性层的偏置都被减去了",
    "the bias of (.+) is added twice": "{}的偏置加了两次",
    "the bias of (.+) is subtracted": "{}的偏置被减去了",
    "(.+) has the bias of (.+)": "{} 用了 {} 的偏置",
    "the matrices are rounded to int8 with one scale for each (matrix|output|input)": "矩阵舍入到了 int8,每个{}一个比例",
    "the matrices are rounded to (.+)": "矩阵舍入到了 {}",
    "all learned numbers are rounded to (.+)": "所有学得的数舍入到了 {}",
}


def in_chinese(text: str) -> str:
    """A mistake's text in Chinese; as it is where there is none."""
    for english, chinese in TEXTS.items():
        found = re.fullmatch(english, text)
        if found:
            return chinese.format(*(WORDS.get(part, part) for part in found.groups() if part))
    return text


CONVENTIONS = {
    "queries are prescaled by (.+?)(?:, for a softmax of powers of 2)?": "query 已预先乘以 {}",
    "keys are prescaled by (.+?)(?:, for a softmax of powers of 2)?": "key 已预先乘以 {}",
    "the scores are those before the division by (sqrt\\(K\\))": "分数是除以 {} 之前的",
    "the scores are those before the division by (sqrt\\(K\\)), times log2.*": "分数是除以 {} 之前的,并乘以了 log2(e)",
    "scores are multiplied by (.+), for a softmax of powers of 2": "分数乘以了 {}(以 2 为底的 softmax)",
}


def convention_in_chinese(text: str) -> str:
    """What a port does otherwise without being wrong, in Chinese."""
    for english, chinese in CONVENTIONS.items():
        found = re.fullmatch(english, text)
        if found:
            return chinese.format(*found.groups())
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
