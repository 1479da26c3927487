"""Runs of train.py that begin with a folder of Hugging Face, and go on without it."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import evaluate
import generate
import train
from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.reading.saved import read_config
from interop.converting import to_tensors
from interop.families import describe
from interop.loading import load_weights
from parallel.mesh import make_mesh
from tests.end_to_end.verbs import metrics, write_text
from tests.interop import folders
from tests.interop.foreign import write_tokenizer
from training.manifest import read_manifest
from training.parameters import LORA
from training.restore import restore_model

RECIPES = {
    "gpt2": "base.language_modeling(source='text_files')",
    "llama": "base.language_modeling(source='conversations')",
    "bert": "base.language_modeling(source='text_files', architecture='encoder', "
    "task='masked_language_modeling')",
    "bert of classes": "base.text_classification()",
    "vit": "base.image_classification(architecture='vit')",
}
TINY = {
    "train.steps": "3",
    "train.log_every_steps": "1",
    "data.global_batch_size": "8",
    "data.sequence_length": "16",
    "mesh.data": "1",
}


class Folder:
    """A small model of a family with its tokenizer, data for it, and runs that begin with it."""

    def __init__(self, place: Path, name: str, **changes):
        self.place, self.family = place, name.partition(" of ")[0]
        self.path, self.workdir = place / "model", place / "run"
        changes["n_layer" if self.family == "gpt2" else "num_hidden_layers"] = 1
        if self.family != "vit":
            changes["vocab_size"] = write_tokenizer(self.path, self.family)
        folders.make_folder(self.path, self.family, **changes)
        self.recipe = place / "recipe.py"
        made = f"from configs import base\ndef get_config():\n    return {RECIPES[name]}\n"
        self.recipe.write_text(made)
        self.fields = TINY | {"train.initialize_from": str(self.path)}
        if self.family == "vit":
            del self.fields["data.sequence_length"]
        if name in ("gpt2", "bert"):
            text = write_text(place / "input.txt", lines=120)
            self.fields |= {"data.path": str(text), "data.validation_fraction": "0.2"}
        if name == "gpt2":
            self.fields["task.sample_prompts"] = "()"

    def run(self, **fields: str) -> int:
        """train.py with what all of these runs have, and `fields`, in which __ is a dot."""
        given = self.fields | {name.replace("__", "."): value for name, value in fields.items()}
        flags = [f"--config.{name}={value}" for name, value in given.items()]
        return train.main([f"--config={self.recipe}", f"--workdir={self.workdir}", *flags])

    def refusal(self, **fields: str) -> str:
        """The line that a run ends with which never begins."""
        with pytest.raises(UsageError) as caught:
            self.run(**fields)
        assert not self.workdir.exists()
        return str(caught.value)

    def fit(self) -> None:
        """Gives what the refusal of a run asks for from here on."""
        flags = re.findall(r"--config\.([\w.]+)=(\S+)", self.refusal())
        assert flags
        self.fields |= dict(flags)

    def answer(self, capsys, *arguments: str) -> list[dict]:
        """What generate.py writes."""
        capsys.readouterr()
        assert generate.main([f"--workdir={self.workdir}", "--json", *arguments]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def params_of(workdir: Path):
    """The parameters of a run's last step, those of LoRA apart."""
    config = read_config(workdir)
    mesh = make_mesh(config)
    restored = restore_model(
        workdir, config, step="latest", weights="raw", mesh=mesh, warn=pytest.fail
    )
    return {name: tree for name, tree in restored.params.items() if name != LORA}


def test_gpt2_goes_on_as_a_language_model_and_then_without_its_folder(tmp_path, capsys):
    folder = Folder(tmp_path, "gpt2")
    folder.fit()
    assert folder.fields["data.tokenizer.path"] == str(folder.path / "tokenizer.json")
    assert folder.run() == 0
    told = capsys.readouterr().err
    assert f"begins with the weights of {folder.path}, of Hugging Face" in told
    assert "fresh" not in told and "begin as" not in told
    manifest = read_manifest(folder.workdir / "checkpoints" / "3")
    assert manifest["history"]["initialized_from"] == {"folder": str(folder.path)}

    shutil.rmtree(folder.path)
    assert folder.run(train__steps="5") == 0
    assert "going on from checkpoint 3" in capsys.readouterr().err
    assert sorted(metrics(folder.workdir)) == [1, 2, 3, 4, 5]
    assert evaluate.main([f"--workdir={folder.workdir}"]) == 0
    (found,) = folder.answer(capsys, "--prompt=3 times 3", "--max_tokens=4", "--temperature=0")
    assert found["tokens"] <= 4


def test_llama_learns_conversations_by_lora_and_stays_what_it_was(tmp_path, capsys):
    folder = Folder(tmp_path, "llama")
    folder.fields |= {"train.lora.rank": "2", "task.sample_prompts": "()",
                      "data.sequence_length": "64"}  # fmt: skip
    folder.fit()
    assert folder.run() == 0
    told = capsys.readouterr().err
    assert re.search(r"token \d+ begins as its token 2", told)  # the separator as </s>
    assert re.search(r"trains [\d,]+ of [\d,]+ parameters", told)
    (found,) = folder.answer(capsys, "--prompt=What comes after Monday?", "--max_tokens=4")
    assert found["tokens"] <= 4

    tensors = to_tensors("llama", params_of(folder.workdir), scanned=False)
    theirs = load_file(folder.path / "model.safetensors")
    assert tensors.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(tensors[name][: len(tensor)], tensor, err_msg=name)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_of_conversations_that_is_not_taken_is_told(tmp_path, place):
    folder = Folder(tmp_path, "llama")
    template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    if place == "chat_template.jinja":
        (folder.path / place).write_text(template)
    else:
        told = json.loads((folder.path / place).read_text())
        (folder.path / place).write_text(json.dumps(told | {"chat_template": template}))
    folder.fields["data.sequence_length"] = "64"
    folder.fit()
    config = load_config(folder.recipe, folder.fields, inputs=False)
    found = describe(folder.path)
    shapes = folders.shapes(folders.template(found.settings, found.data_spec))
    rows = shapes["embedding"]["tokens"]["embedding"].shape[0]
    (message,) = load_weights(folder.path, config, DataSpec(vocabulary_size=rows), shapes).messages
    assert place in message and "--config.data.chat_template" in message


def test_bert_of_masked_words_gives_labels_with_a_fresh_head(tmp_path, capsys):
    folder = Folder(tmp_path, "bert of classes")
    texts = [(f"{n} times {n % 7} is {n * n % 7}.", "odd" if n % 2 else "even") for n in range(60)]
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *texts])
    folder.fields |= {"data.path": str(tmp_path / "texts.csv"), "data.validation_fraction": "0.3"}
    folder.fit()
    assert folder.run() == 0
    told = capsys.readouterr().err
    assert "fresh: " in told and "classes.kernel (not there)" in told
    assert "left aside: " in told and "cls.predictions" in told

    predictions = tmp_path / "predictions.jsonl"
    assert evaluate.main([f"--workdir={folder.workdir}", f"--predictions={predictions}"]) == 0
    seen = [json.loads(line) for line in predictions.read_text().splitlines()]
    by_text = dict(texts)
    answers = folder.answer(capsys, *(f"--prompt={text}" for text in by_text))
    scores = {one["input"]: one["scores"] for one in answers}
    assert len(scores) == len(texts) and seen
    for one in seen:
        text, _ = texts[int(one["name"].rpartition(":")[2]) - 2]  # line 1 is the header
        assert one["scores"] == pytest.approx([*scores[text].values()], abs=1e-5)


def test_bert_goes_on_filling_in_what_is_masked(tmp_path, capsys):
    folder = Folder(tmp_path, "bert")
    folder.fit()
    assert folder.run() == 0
    told = capsys.readouterr().err
    assert "fresh" not in told and re.search(r"token \d+ begins as its token 4", told)  # the mask
    (found,) = folder.answer(capsys, "--prompt=3 times [MASK] is 9.")
    assert len(found["candidates"]) == 1


def test_vit_of_other_classes_learns_digits(tmp_path, capsys):
    folder = Folder(tmp_path, "vit", num_channels=1, num_classes=5)
    folder.fit()
    assert folder.run() == 0
    told = capsys.readouterr().err
    assert "fresh: " in told and "classes.kernel (not there)" in told
    assert "left aside: classifier." in told


WRONG = {
    "width": ("model__width", "32", "--config.model.width=24"),
    "layers": ("model__depth", "2", "--config.model.depth=1"),
    "heads": ("model__num_heads", "4", "--config.model.num_heads=2"),
    "positions": ("data__sequence_length", "64", "--config.data.sequence_length=16"),
    "activation": ("model__feed_forward", "relu", "--config.model.feed_forward=gelu_tanh"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_one_line_with_the_field_to_set(name, tmp_path):
    folder = Folder(tmp_path, "gpt2")
    folder.fit()
    field, value, flag = WRONG[name]
    line = folder.refusal(**{field: value})
    assert f"{field.replace('__', '.')} is {value}; give {flag}" in line
    assert "\n" not in line


def test_tokens_of_another_vocabulary_are_refused_with_the_field_to_set(tmp_path):
    folder = Folder(tmp_path, "gpt2")
    folder.fit()
    write_tokenizer(tmp_path / "other", "llama3")
    own = f"--config.data.tokenizer.path={folder.path / 'tokenizer.json'}"
    line = folder.refusal(data__tokenizer__path=str(tmp_path / "other" / "tokenizer.json"))
    assert "data.tokenizer.path is " in line and line.endswith(f"; give {own}")


def rename(tensors):
    tensors["transformer.h.0.attn.c_atn.weight"] = tensors.pop("transformer.h.0.attn.c_attn.weight")


def drop(tensors):
    del tensors["transformer.ln_f.bias"]


def shorten(tensors):
    tensors["transformer.h.0.mlp.c_fc.bias"] = tensors["transformer.h.0.mlp.c_fc.bias"][:-1]


HARM = {
    "renamed": (rename, r"lacks transformer\.h\.0\.attn\.c_attn\.weight; it has .*c_atn\.weight"),
    "missing": (drop, r"lacks transformer\.ln_f\.bias$"),
    "of another shape": (shorten, r"h\.0\.mlp\.c_fc\.bias is \[95\], but must be \[96\]"),
}


@pytest.mark.parametrize("name", HARM)
def test_weights_that_do_not_fit_are_refused_by_name(name, tmp_path):
    folder = Folder(tmp_path, "gpt2")
    folder.fit()
    harm, message = HARM[name]
    folders.rewrite(folder.path, harm)
    assert re.search(message, folder.refusal())
