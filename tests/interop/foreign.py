"""tokenizer.json as the families have them, learnt from a small text, in the folder of a model."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = "".join(f"{n} times {n % 7} is {n * (n % 7)}, or isn't it? It's naïve.\n" for n in range(80))


def gpt2() -> tokenizers.Tokenizer:
    """Byte pairs, with nothing around a text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return _trained(tokenizer, trainers.BpeTrainer, 300, ["<|endoftext|>"])


def llama() -> tokenizers.Tokenizer:
    """Llama 1 and 2: byte pairs of characters, bytes for others, a space before each text, <s>."""
    special = ["<unk>", "<s>", "</s>"]
    learner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    learner = _trained(learner, trainers.BpeTrainer, 120, special)
    told = json.loads(learner.to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += [token for token in told["vocab"] if token not in special]
    model = models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(pair) for pair in told["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = learner.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = _around(tokenizer, "<s> $A")
    return tokenizer


def llama3() -> tokenizers.Tokenizer:
    """Llama 3: as GPT-2, with a token of its own before each text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    tokenizer = _trained(tokenizer, trainers.BpeTrainer, 300, special)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), _around(tokenizer, "<|begin_of_text|> $A")]
    )
    return tokenizer


def bert() -> tokenizers.Tokenizer:
    """WordPiece of small letters, [CLS] before a text and [SEP] after it."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = _trained(tokenizer, trainers.WordPieceTrainer, 100, special)
    tokenizer.post_processor = _around(tokenizer, "[CLS] $A [SEP]")
    return tokenizer


FAMILIES = {"gpt2": gpt2, "llama": llama, "llama3": llama3, "bert": bert}

NAMES = {
    "gpt2": {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    "bert": {
        name: f"[{name.removesuffix('_token').upper()}]"
        for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    },
}
"""What tokenizer_config.json says that the special tokens are for."""


def write_tokenizer(folder: Path, name: str) -> int:
    """tokenizer.json and tokenizer_config.json of a family in `folder`; how many tokens it has."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = FAMILIES[name]()
    tokenizer.save(str(folder / "tokenizer.json"))
    told = NAMES[name] | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return tokenizer.get_vocab_size()


def _trained(
    tokenizer: tokenizers.Tokenizer, trainer: type, size: int, special: list[str]
) -> tokenizers.Tokenizer:
    asked = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    if isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        asked["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer(**asked))
    return tokenizer


def _around(tokenizer: tokenizers.Tokenizer, single: str) -> processors.TemplateProcessing:
    special = [token for token in single.split() if token != "$A"]
    ids = [(token, tokenizer.token_to_id(token)) for token in special]
    return processors.TemplateProcessing(single=single, special_tokens=ids)
