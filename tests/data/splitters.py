"""A tokenizer for each way to split a text, learnt from a small text; and long texts to encode."""

import random
from collections.abc import Callable

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, trainers

SAMPLE = "".join(f"{n} times {n % 7} is {n * (n % 7)}, or isn't it?\n  It's naïve 你好 (); x\n"
                 for n in range(60))  # fmt: skip

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(*, prefix: bool = False) -> tokenizers.Tokenizer:
    return _bpe(pre_tokenizers.ByteLevel(add_prefix_space=prefix))


def _with_added_tokens() -> tokenizers.Tokenizer:
    tokenizer = _byte_level()
    tokenizer.add_tokens([AddedToken("times", lstrip=True, rstrip=True), AddedToken("it?\n  It")])
    return tokenizer


def _llama_3(pattern: str = _LLAMA_3) -> tokenizers.Tokenizer:
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    return _bpe(pre_tokenizers.Sequence([words, by_bytes]))


def _qwen_2() -> tokenizers.Tokenizer:
    tokenizer = _llama_3(_LLAMA_3.replace("{1,3}", ""))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("n't", normalized=False), AddedToken("it?")])
    return tokenizer


def _metaspace(scheme: str, *, split: bool) -> tokenizers.Tokenizer:
    tokenizer = _bpe(pre_tokenizers.Metaspace(prepend_scheme="always"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    return tokenizer


def _prepended() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(_metaspace("always", split=True).model)
    space = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.normalizer = normalizers.Sequence(space)
    return tokenizer


def _wordpiece(splitter: pre_tokenizers.PreTokenizer, normalizer=None) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitter
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[UNK]"], show_progress=False
    )
    tokenizer.train_from_iterator([SAMPLE], trainer)
    return tokenizer


def _unigram() -> tokenizers.Tokenizer:
    """As T5 and XLM-R have it."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SAMPLE.splitlines(), trainer)
    return tokenizer


def _bpe(splitter: pre_tokenizers.PreTokenizer) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=450,
        special_tokens=["<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE], trainer)
    return tokenizer


SPLITTERS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte level": _byte_level,
    "byte level with a space before": lambda: _byte_level(prefix=True),
    "byte level with added tokens": _with_added_tokens,
    "Llama 3": _llama_3,
    "Qwen 2": _qwen_2,
    "a pattern of one's own": lambda: _llama_3(r"\w+ ?\w+|\s+|."),
    "metaspace before the first": lambda: _metaspace("first", split=False),
    "metaspace before all": lambda: _metaspace("always", split=True),
    "metaspace before none": lambda: _metaspace("never", split=True),
    "Llama 2": _prepended,
    "BERT": lambda: _wordpiece(
        pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(lowercase=True)
    ),
    "whitespace": lambda: _wordpiece(pre_tokenizers.Whitespace()),
    "whitespace split": lambda: _wordpiece(pre_tokenizers.WhitespaceSplit()),
    "unigram": _unigram,
    "characters": lambda: tokenizers.Tokenizer(models.BPE(vocab={"i": 0, "s": 1}, merges=[])),
}

_BITS = ["times", " is", "it", "isn't", " It's", "naïve", "你好", "x", "42", "1234", "();", "?!",
         ",", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\xa0", "\u2028",
         "\u3000", "\u200b", "e\u0301", "👩\u200d🔬", "ﬁ", "it?\n  It"]  # fmt: skip


def random_text(seed: int, length: int, bits=_BITS) -> str:
    """At least `length` characters of random `bits`."""
    draw, text = random.Random(seed), ""
    while len(text) < length:
        text += "".join(draw.choices(bits, k=min(length, 500)))
    return text


LONG = {
    "of words": random_text(0, 33_500, [" times", " is", " it", " naïve,", " or", ".\n"]),
    "of all": random_text(1, 33_500),
    "of code": "call();\n" * 4300,
    "without white space": random_text(2, 33_500, ["times", "it", "12", "x", "()"]),
    "of Chinese": random_text(3, 33_500, [*"你好世界時間，。"]),
    "of runs of spaces": "is" + " " * 33_000 + "it" + "  \n" * 1000 + "x",
    "of runs of lines": "\n" * 33_000 + "it is" + "\r\n" * 1000,
}
"""Texts of over 16,384 characters."""
