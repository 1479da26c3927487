"""Trains a GPT-2 of random weights with Hugging Face's Trainer, as its users write it, from a text
to a checkpoint. `whole_command.py` compares our command with this one.

python benchmarks/peer_trainer.py --text=input.txt --workdir=DIR [--NAME=VALUE ...]

In its fastest sensible state: no progress bar, no reporting, no other process for the data; exact
GELU, which is faster than GPT-2's own approximation written out; the fused optimizer.
`--bfloat16=1` is the Trainer's `bf16=True`: autocast. Tokens are kept in `--cache`, as Hugging
Face's `datasets` would keep them.
"""

import argparse
import os
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

DEFAULTS = {
    "text": "README.md", "workdir": "runs/peer", "cache": "", "vocabulary": 0, "width": 128,
    "depth": 4, "heads": 4, "length": 64, "batch": 12, "steps": 300, "warmup": 30, "log": 10,
    "learning_rate": 1e-3, "weight_decay": 0.1, "beta2": 0.99, "seed": 0, "compiled": 0,
    "bfloat16": 0,
}  # fmt: skip
PIECE_CHARACTERS = 2**15


def main() -> None:
    """Train the model that the command line describes."""
    parser = argparse.ArgumentParser()
    for name, value in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    asked = parser.parse_args()
    tokens, vocabulary = cached_tokens(asked)
    torch.manual_seed(asked.seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=asked.length,
        n_embd=asked.width,
        n_layer=asked.depth,
        n_head=asked.heads,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    arguments = TrainingArguments(
        output_dir=asked.workdir,
        per_device_train_batch_size=asked.batch,
        max_steps=asked.steps,
        learning_rate=asked.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=asked.warmup,
        optim="adamw_torch_fused",
        weight_decay=asked.weight_decay,
        adam_beta2=asked.beta2,
        max_grad_norm=1.0,
        logging_steps=asked.log,
        save_strategy="steps",
        save_steps=asked.steps,
        seed=asked.seed,
        torch_compile=bool(asked.compiled),
        bf16=bool(asked.bfloat16),
        use_cpu=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
    model = GPT2LMHeadModel(config)
    Trainer(model=model, args=arguments, train_dataset=Windows(tokens, asked.length)).train()


class Windows(torch.utils.data.Dataset):
    """Windows of `length` tokens; the target of a token is the next one."""

    def __init__(self, tokens: np.ndarray, length: int):
        count = (len(tokens) - 1) // length
        self.inputs = tokens[: count * length].reshape(count, length)
        self.targets = tokens[1 : count * length + 1].reshape(count, length)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        inputs, targets = self.inputs[index], self.targets[index]
        return {"input_ids": inputs, "labels": targets, "shift_labels": targets}


def cached_tokens(asked) -> tuple[np.ndarray, int]:
    """Return the text's token ids, int64, and the size of the vocabulary; from the cache if they
    are there."""
    path = Path(asked.cache or asked.workdir) / "tokens.npz"
    if not path.exists():
        tokens, size = tokenize(Path(asked.text).read_text(), asked.vocabulary)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, tokens=tokens, size=size)
    found = np.load(path)
    return found["tokens"], int(found["size"])


def tokenize(text: str, vocabulary: int) -> tuple[np.ndarray, int]:
    """Return the token ids and the size of the vocabulary.

    vocabulary: the size of a byte-level BPE that is trained on the text; 0: the characters of the
    text are the tokens. Id 0 opens the text; with characters, id 1 is for unknown ones, as in ours.
    """
    if not vocabulary:
        characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        found, ids = np.unique(characters, return_inverse=True)
        return np.concatenate([[0], ids + 2]), len(found) + 2
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    pieces = [
        text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces, trainer)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(pieces)]
    return np.concatenate([[0], *ids]), tokenizer.get_vocab_size()


if __name__ == "__main__":
    main()
