"""Writes a Llama with random weights as a folder of `transformers`, for `decoding.py`.

The folder has config.json, model.safetensors and tokenizer.json, as `save_pretrained` writes them.
Writing it needs neither PyTorch nor `transformers`.
"""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import overrides, start_verb
from data.codecs.tokenizers import SEPARATOR, Tokenizer

EMBEDDING_SCALE = 0.05
ATTENTION_SCALE = 2.0
"""Factor for the weights of queries and keys. It makes greedy texts seldom repeat themselves."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama with tied embeddings. The vocabulary becomes smaller than requested if
    the training texts have no more pairs of tokens to merge."""

    width: int
    depth: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    context: int


ABOUT_30M = Shape(
    width=512, depth=8, heads=8, kv_heads=4, hidden=1408, vocabulary=12_288, context=512
)
LARGE_VOCABULARY = Shape(
    width=512, depth=8, heads=8, kv_heads=4, hidden=1408, vocabulary=50_000, context=512
)
PYTHON_STDLIB = Shape(
    width=192, depth=4, heads=4, kv_heads=4, hidden=512, vocabulary=4096, context=128
)
TOY = Shape(width=32, depth=2, heads=4, kv_heads=2, hidden=64, vocabulary=512, context=64)


def library_texts(limit: int | None = None) -> list[str]:
    """Return source files of Python's standard library; at most `limit` characters in all."""
    texts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if limit is not None and size >= limit:
            break
        texts.append(path.read_text("utf-8", "replace"))
        size += len(texts[-1])
    return texts


def write_folder(folder: Path, shape: Shape, *, corpus_characters: int | None = None) -> None:
    """Write the folder. Its weights are the same each time. Greedy texts don't end by themselves:
    the end-of-text token is never the likeliest.

    corpus_characters: length of the text on which the tokenizer is trained; None: all.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    tokenizer = Tokenizer.train_bpe(library_texts(corpus_characters), shape.vocabulary)
    tokenizer.save(folder / "tokenizer.json")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
        "tie_word_embeddings": True,
        "vocab_size": tokenizer.vocabulary_size,
        "bos_token_id": tokenizer.separator_id,
        "eos_token_id": tokenizer.end_id,
        "dtype": "float32",
    }
    names = {"tokenizer_class": "PreTrainedTokenizerFast"}
    names |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), SEPARATOR)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=2))
    weights = random_weights(shape, tokenizer.vocabulary_size, tokenizer.end_id)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def random_weights(shape: Shape, vocabulary: int, end_id: int) -> dict[str, np.ndarray]:
    """Return float32 weights by the names of `transformers`. The logits of `end_id` are near zero:
    its embedding is a tenth as large as others."""
    generator = np.random.default_rng(0)

    def normal(outputs: int, inputs: int, scale: float) -> np.ndarray:
        return generator.normal(0, scale, (outputs, inputs)).astype(np.float32)

    head_dim = shape.width // shape.heads
    embeddings = normal(vocabulary, shape.width, EMBEDDING_SCALE)
    embeddings[end_id] *= 0.1
    weights = {"model.embed_tokens.weight": embeddings}
    ones = np.ones(shape.width, np.float32)
    for layer in range(shape.depth):
        sizes = {
            "self_attn.q_proj": (shape.heads * head_dim, shape.width),
            "self_attn.k_proj": (shape.kv_heads * head_dim, shape.width),
            "self_attn.v_proj": (shape.kv_heads * head_dim, shape.width),
            "self_attn.o_proj": (shape.width, shape.heads * head_dim),
            "mlp.gate_proj": (shape.hidden, shape.width),
            "mlp.up_proj": (shape.hidden, shape.width),
            "mlp.down_proj": (shape.width, shape.hidden),
        }
        for name, (outputs, inputs) in sizes.items():
            scale = inputs**-0.5
            if name in ("self_attn.q_proj", "self_attn.k_proj"):
                scale *= ATTENTION_SCALE
            weights[f"model.layers.{layer}.{name}.weight"] = normal(outputs, inputs, scale)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = ones.copy()
    return weights | {"model.norm.weight": ones}


def write_workdir(folder: Path, workdir: Path, shape: Shape) -> None:
    """Make a workdir of the folder's model, as a user does: train.py starts from the folder, and
    takes one step that is too small to change a weight."""
    text = folder / "text.txt"
    text.write_text("\n".join(library_texts(20 * shape.context))[: 20 * shape.context], "utf-8")
    fields = {
        "train.initialize_from": folder,
        "train.steps": 1,
        "data.path": text,
        "data.tokenizer.path": folder / "tokenizer.json",
        "data.sequence_length": shape.context,
        "data.global_batch_size": 1,
        "data.workers": 0,
        "data.validation_fraction": 0.2,
        "data.cache_dir": workdir.parent / "cache",
        "model.width": shape.width,
        "model.depth": shape.depth,
        "model.num_heads": shape.heads,
        "model.num_kv_heads": shape.kv_heads,
        "model.feed_forward_width": shape.hidden,
        "model.norm_epsilon": 1e-5,
        "model.scan_layers": "false",
        "model.remat": "none",
        "optimizer.learning_rate": 1e-30,
        "optimizer.weight_decay": 0,
        "precision.compute_dtype": "float32",
        "mesh.data": 1,
        "mesh.fsdp": 1,
    }
    command = ("train.py", "--config=configs/llama_1b.py", f"--workdir={workdir}")
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with start_verb(*command, *overrides(fields), **streams, text=True) as process:
        output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"train.py ended with status {process.returncode}:\n{output}")


def convert_for_ctranslate2(folder: Path, output: Path) -> None:
    """Convert the folder with CTranslate2's own command; the weights stay float32."""
    converter = Path(sys.executable).with_name("ct2-transformers-converter")
    command = [str(converter), "--model", str(folder), "--output_dir", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{converter.name} ended with status {done.returncode}:\n{done.stderr}")


def prompts_of(tokenizer: Tokenizer, lengths: Iterable[int], seed: int = 0) -> list[str]:
    """Return a text of exactly as many tokens for each of `lengths`, from the standard library."""
    generator = np.random.default_rng(seed)
    ids = tokenizer.encode("\n".join(library_texts(2_000_000)))
    prompts = []
    for length in lengths:
        for start in generator.integers(0, len(ids) - length, 1000):
            text = tokenizer.decode(ids[start : start + length])
            if len(tokenizer.encode(text)) == length:
                break
        else:
            raise ValueError(f"found no text of {length} tokens")
        prompts.append(text)
    return prompts
