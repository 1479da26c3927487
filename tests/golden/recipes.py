"""Every recipe, so small that twenty steps take seconds, on inputs that are made here."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import tensorflow_datasets as tfds
from PIL import Image

from tests.data.test_prepared_pictures import builder

Fields = Mapping[str, str]

STEPS = 20
COMMON: Fields = {
    "train.steps": str(STEPS),
    "train.log_every_steps": "1",
    "train.log_batch_crc32": "true",
    "train.evaluate_every_steps": "10",
    "checkpoint.every_steps": str(STEPS),
    "data.global_batch_size": "16",
    "precision.compute_dtype": "float32",
}
BLOCKS: Fields = {"model.width": "32", "model.depth": "2", "model.num_heads": "2"}
TEXT: Fields = {"data.sequence_length": "16", "task.sample_prompts": "()"}
SMALL_VOCABULARY: Fields = {"data.tokenizer.vocabulary_size": "300"}
PICTURES: Fields = {"data.image_size": "16"}
CONFORMER: Fields = BLOCKS | {"model.depth": "1", "model.subsampling_channels": "4"}
PAIRS: Fields = SMALL_VOCABULARY | {"task.answered_examples": "4"}

RECIPES: Mapping[str, Fields] = {
    "cifar10_resnet18": {"data.data_dir": "{sets}", "model.depth": "18", "model.width": "4"},
    "dates_seq2seq": BLOCKS | {"task.answered_examples": "4"},
    "digits_cnn": {"model.channels": "4,8", "model.width": "16"},
    "digits_convnext": {"model.channels": "4,8", "model.depths": "1,1"},
    "digits_vit": BLOCKS,
    "finetune_chat": TEXT
    | {
        "data.sequence_length": "64",
        "train.initialize_from": "{golden}/attention_text",
        "train.lora.train_also": "()",
    },
    "gpt2_124m": BLOCKS
    | TEXT
    | SMALL_VOCABULARY
    | {
        "data.path": "{text}",
        "data.validation_fraction": "0.1",
        "train.gradient_accumulation": "2",
    },
    "image_folder_resnet": PICTURES | {"data.path": "{pictures}", "model.width": "4"},
    "imagenet_resnet50": PICTURES
    | {"data.data_dir": "{sets}", "model.width": "4", "data.workers": "0"},
    "imagenet_vit_s16": PICTURES
    | BLOCKS
    | {"data.data_dir": "{sets}", "data.workers": "0", "model.patch_size": "8"},
    "llama_1b": {"data.path": "{text}"},
    "llama_8b": {"data.path": "{text}"},
    "masked_language_model": BLOCKS | SMALL_VOCABULARY | {"data.sequence_length": "16"},
    "python_stdlib": BLOCKS | TEXT | SMALL_VOCABULARY,
    "shakespeare_char": BLOCKS | TEXT | {"data.path": "{text}"},
    "shakespeare_char_lstm": TEXT
    | {"data.path": "{text}", "model.width": "32", "model.depth": "2"},
    "speech_classification": CONFORMER | {"data.path": "{sound_labels}"},
    "speech_conformer_ctc": CONFORMER | {"data.path": "{transcripts}"},
    "text_classification": BLOCKS
    | SMALL_VOCABULARY
    | {"data.path": "{table}", "data.sequence_length": "16"},
    "text_hybrid": BLOCKS | TEXT | {"data.path": "{text}", "model.depth": "3"},
    "text_lstm": TEXT
    | {"data.path": "{text}", "model.width": "32", "data.tokenizer.vocabulary_size": "100"},
    "tones_ctc": {"model.width": "16", "model.depth": "1", "model.subsampling_channels": "4"},
    "translation_rnn": PAIRS | {"data.path": "{pairs}", "model.width": "32"},
    "translation_transformer": PAIRS | BLOCKS | {"data.path": "{pairs}"},
}
"""The fields that make each recipe small; `{text}` and the like are the inputs of `make_inputs`."""

LLAMA = (
    BLOCKS
    | TEXT
    | {
        "model.num_kv_heads": "1",
        "model.feed_forward_width": "64",
        "data.validation_fraction": "0.1",
        "data.tokenizer.path": "{golden}/recurrence_text/tokenizer.json",
    }
)


def fields_of(recipe: str, inputs: Mapping[str, Path]) -> dict[str, str]:
    """Return the overrides of a recipe, with the paths of `inputs` in them."""
    fields = COMMON | (LLAMA if recipe.startswith("llama") else {}) | RECIPES[recipe]
    return {name: text.format(**inputs) if "{" in text else text for name, text in fields.items()}


def make_inputs(folder: Path, golden: Path) -> dict[str, Path]:
    """Write small inputs of every kind into `folder`; return their paths by name."""
    random = np.random.default_rng(0)
    words = golden.parent.joinpath("text.txt").read_text().split()
    lines = [" ".join(random.choice(words, 8)) for _ in range(120)]
    inputs = {"golden": golden, "text": golden.parent / "text.txt", "sets": folder / "sets"}

    inputs["table"] = folder / "table.csv"
    rows = [f"{line.replace(',', ' ')},{('good', 'bad')[i % 2]}" for i, line in enumerate(lines)]
    inputs["table"].write_text("\n".join(["text,label", *rows]) + "\n")

    inputs["pairs"] = folder / "pairs"
    inputs["pairs"].mkdir()
    for language, text in (("en", lines), ("de", [line[::-1] for line in lines])):
        for split, part in (("train", text[:100]), ("validation", text[100:])):
            (inputs["pairs"] / f"{split}.{language}").write_text("\n".join(part) + "\n")

    inputs["pictures"] = folder / "pictures"
    for number in range(60):
        place = inputs["pictures"] / ("round", "square", "long")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (20 + number % 5, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")

    labels, transcripts = ["path,label"], []
    for number in range(60):
        hertz = (300, 600, 1200)[number % 3]
        wave = 0.3 * np.sin(2 * np.pi * hertz / 8000 * np.arange(3000 + 40 * number))
        name = f"{number}.wav"  # not the whole path, whose hash would choose what is held out
        soundfile.write(folder / name, wave + random.normal(0, 0.02, len(wave)), 8000)
        labels.append(f"{name},{('low', 'middle', 'high')[number % 3]}")
        text = ("low", "mid", "high")[number % 3]
        transcripts.append(json.dumps({"path": name, "text": text}))
    inputs["sound_labels"] = folder / "sound.csv"
    inputs["sound_labels"].write_text("\n".join(labels) + "\n")
    inputs["transcripts"] = folder / "transcripts.jsonl"
    inputs["transcripts"].write_text("\n".join(transcripts) + "\n")

    tfds.disable_progress_bar()
    for name in ("cifar10", "imagenet2012"):
        builder(name, inputs["sets"]).download_and_prepare()
    return inputs
