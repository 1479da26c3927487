"""Runs that were exported: `transformers` gives the answers of generate.py, offline."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import export
import generate
import train
from configs.reading.saved import read_config
from data.codecs.tokenizers import Tokenizer
from tests.end_to_end.verbs import write_text
from tests.interop.foreign import write_tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers

WORKDIRS = Path(__file__).parents[1] / "golden" / "workdirs"

TINY = {
    "model.width": "32",
    "model.depth": "2",
    "model.num_heads": "4",
    "data.tokenizer.vocabulary_size": "300",
    "data.sequence_length": "32",
    "data.global_batch_size": "8",
    "train.steps": "30",
    "optimizer.learning_rate": "1e-2",
    "optimizer.warmup_steps": "3",
    "mesh.data": "1",
}


def golden(tmp_path: Path, name: str) -> Path:
    return shutil.copytree(WORKDIRS / name, tmp_path / name)


def trained(tmp_path: Path, made: str, **fields: str) -> Path:
    """A short run of the recipe that `configs.base` makes."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"from configs import base\ndef get_config():\n    return base.{made}\n")
    given = TINY | {name.replace("__", "."): value for name, value in fields.items()}
    if "data.tokenizer.path" in given:
        del given["data.tokenizer.vocabulary_size"]
    flags = [f"--config.{name}={value}" for name, value in given.items()]
    workdir = tmp_path / "run"
    assert train.main([f"--config={recipe}", f"--workdir={workdir}", *flags]) == 0
    return workdir


def exported(workdir: Path, *flags: str) -> str:
    out = workdir.parent / f"exported{len(flags)}"
    arguments = [f"--workdir={workdir}", "--format=huggingface", f"--out={out}", *flags]
    assert export.main(arguments) == 0
    return str(out)


def answers(capsys: Any, workdir: Path, *flags: str) -> list[dict[str, Any]]:
    """What generate.py answers, as JSON."""
    capsys.readouterr()
    assert generate.main([f"--workdir={workdir}", "--json", *flags]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def continued(model: Any, prompts: list[str]) -> list[str]:
    """The greedy continuations of a pipeline, one prompt after the other and all in a batch."""
    options = {"do_sample": False, "max_new_tokens": 8, "return_full_text": False}
    texts = [model(prompt, **options)[0]["generated_text"] for prompt in prompts]
    batch = model(prompts, batch_size=len(prompts), **options)
    assert [found[0]["generated_text"] for found in batch] == texts
    return texts


GREEDY = ("--temperature=0", "--max_tokens=8")


@pytest.mark.parametrize("name", ["attention_text", "attention_text_lora"])
def test_a_language_model_continues_as_generate_does(tmp_path, capsys, name):
    workdir = golden(tmp_path, name)
    out = exported(workdir)
    letters = "".join(one for one in Tokenizer.load(f"{workdir}/tokenizer.json").vocabulary()
                      if len(one) == 1)  # fmt: skip
    prompts = ["", letters[:5], letters[-3:]]
    ours = answers(capsys, workdir, *GREEDY, *(f"--prompt={prompt}" for prompt in prompts))
    model = transformers.pipeline("text-generation", out)
    assert type(model.model).__name__ == "LlamaForCausalLM"
    (opened,) = model.model.generate(do_sample=False, max_new_tokens=8)  # from the first token on
    text = model.tokenizer.decode(opened, skip_special_tokens=True)
    assert [text, *continued(model, prompts[1:])] == [one["text"] for one in ours]


def test_the_words_of_a_trained_model_are_those_of_generate(tmp_path, capsys):
    text = write_text(tmp_path / "text.txt")
    workdir = trained(
        tmp_path,
        "language_modeling(source='text_files')",
        data__path=str(text),
        task__sample_prompts="()",
        model__num_kv_heads="2",
    )
    prompts = ["3 times 3", "7 times 0 is", "isn't"]
    ours = answers(capsys, workdir, *GREEDY, *(f"--prompt={prompt}" for prompt in prompts))
    model = transformers.pipeline("text-generation", exported(workdir))
    assert continued(model, prompts) == [one["text"] for one in ours]
    assert len({one["text"] for one in ours}) > 1


def test_ctranslate2_continues_as_generate_does(tmp_path, capsys):
    ctranslate2 = pytest.importorskip("ctranslate2")
    workdir = golden(tmp_path, "attention_text")
    out = exported(workdir)
    converted = str(tmp_path / "ctranslate2")
    ctranslate2.converters.TransformersConverter(out).convert(converted)
    model = ctranslate2.Generator(converted, compute_type="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    prompts = ["17 times", "3", "is "]
    ours = answers(capsys, workdir, *GREEDY, *(f"--prompt={prompt}" for prompt in prompts))
    for prompt, answer in zip(prompts, ours, strict=True):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt)["input_ids"])
        (found,) = model.generate_batch(
            [tokens],
            max_length=8,
            sampling_topk=1,
            include_prompt_in_result=False,
            suppress_sequences=[[tokenizer.unk_token]],
        )
        assert tokenizer.decode(found.sequences_ids[0]) == answer["text"]


def test_a_chat_model_answers_as_generate_does(tmp_path, capsys):
    workdir = trained(
        tmp_path, "language_modeling(source='conversations')", data__sequence_length="64"
    )
    prompts = ["What comes after Monday?", "What is the opposite of hot?"]
    ours = answers(capsys, workdir, *GREEDY, *(f"--prompt={prompt}" for prompt in prompts))
    model = transformers.pipeline("text-generation", exported(workdir))
    for prompt, answer in zip(prompts, ours, strict=True):
        (found,) = model([{"role": "user", "content": prompt}], do_sample=False, max_new_tokens=8)
        assert found["generated_text"][-1] == {"role": "assistant", "content": answer["text"]}


def test_a_masked_model_fills_gaps_as_generate_does(tmp_path, capsys):
    text = write_text(tmp_path / "text.txt")
    workdir = trained(
        tmp_path,
        "language_modeling(source='text_files', architecture='encoder', "
        "task='masked_language_modeling')",
        data__path=str(text),
    )
    prompts = ["3 times [MASK] is 9", "[MASK] times 3 is 9", "3 times 3 is[MASK]"]
    ours = answers(capsys, workdir, *(f"--prompt={prompt}" for prompt in prompts))
    model = transformers.pipeline("fill-mask", exported(workdir))
    assert type(model.model).__name__ == "EuroBertForMaskedLM"
    for prompt, answer in zip(prompts, ours, strict=True):
        (gap,) = answer["candidates"]
        found = model(prompt, top_k=len(gap))
        assert [one["token_str"] for one in found] == [one["token"] for one in gap]
        assert [one["score"] for one in found] == pytest.approx(
            [one["score"] for one in gap], abs=1e-4
        )


BERT = {
    "norm": "layer_norm",
    "norm_placement": "post",
    "positions": "learned",
    "feed_forward": "gelu",
    "use_bias": "true",
    "embedding_norm": "true",
    "token_types": "2",
}


def test_a_classifier_of_texts_labels_as_generate_does(tmp_path, capsys):
    texts = [(f"{n} times {n % 7} is {n * n % 7}.", "odd" if n % 2 else "even") for n in range(60)]
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *texts])
    write_tokenizer(tmp_path / "foreign", "bert")
    workdir = trained(
        tmp_path,
        "text_classification(tokenizer='file')",
        data__path=str(tmp_path / "texts.csv"),
        data__validation_fraction="0.3",
        data__tokenizer__path=str(tmp_path / "foreign" / "tokenizer.json"),
        model__pooling="first_dense",
        **{f"model__{name}": value for name, value in BERT.items()},
    )
    prompts = [text for text, _ in texts[:5]]
    ours = answers(capsys, workdir, *(f"--prompt={prompt}" for prompt in prompts))
    model = transformers.pipeline("text-classification", exported(workdir), top_k=None)
    assert type(model.model).__name__ == "BertForSequenceClassification"
    for found, answer in zip(model(prompts, batch_size=5), ours, strict=True):
        scores = {one["label"]: one["score"] for one in found}
        assert scores == pytest.approx(answer["scores"], abs=1e-5)


def test_a_classifier_of_pictures_labels_as_generate_does(tmp_path, capsys):
    workdir = golden(tmp_path, "attention_pictures")
    picture = tmp_path / "picture.png"
    pixels = bytes((row * 37 + column * 53) % 256 for row in range(8) for column in range(8))
    Image.frombytes("L", (8, 8), pixels).save(picture)
    (ours,) = answers(capsys, workdir, f"--input={picture}")
    model = transformers.pipeline("image-classification", exported(workdir))
    found = {one["label"]: one["score"] for one in model(Image.open(picture), top_k=10)}
    assert found == pytest.approx(ours["scores"], abs=1e-5)
    assert max(found, key=found.__getitem__) == ours["label"]


def test_an_adapter_on_its_base_is_the_merged_model(tmp_path):
    peft = pytest.importorskip("peft")
    import torch

    workdir = golden(tmp_path, "attention_text_lora")
    base = exported(golden(tmp_path, "attention_text"), "--dtype=bfloat16")
    merged = transformers.AutoModelForCausalLM.from_pretrained(exported(workdir)).float()
    adapter = exported(workdir, "--lora=adapter", "--dtype=float32")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    adapted = peft.PeftModel.from_pretrained(model, adapter)
    tokens = torch.arange(2, 18)[None]
    assert read_config(workdir).train.lora.rank == 2
    with torch.no_grad():
        expected, found = (one(tokens).logits for one in (merged, adapted))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
