"""What is read from the disk, and what is said of it where it is missing or damaged."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs.errors import UsageError
from interop.converting import read_weights
from interop.families import describe
from interop.folder import Folder
from tests.interop import folders


@pytest.fixture
def gpt2(tmp_path):
    return folders.make_folder(tmp_path / "gpt2", "gpt2")[0]


def split(folder) -> None:
    """The tensors of a folder, in two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts_of = {}
    for number, names in enumerate((list(tensors)[::2], list(tensors)[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        parts_of |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts_of}))


def test_a_folder_in_parts_holds_what_it_held_whole(gpt2):
    whole = {name: Folder(gpt2).tensor(name) for name in Folder(gpt2).names}
    split(gpt2)
    parts = Folder(gpt2)
    assert set(parts.names) == set(whole)
    for name, tensor in whole.items():
        np.testing.assert_array_equal(parts.tensor(name), tensor)
        assert parts.shape(name) == tensor.shape


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_tensors_of_other_precisions_become_ours(gpt2, dtype):
    folders.rewrite(
        gpt2, lambda tensors: tensors.update({k: v.astype(dtype) for k, v in tensors.items()})
    )
    found = describe(gpt2)
    template = folders.template(found.settings, found.data_spec)
    params = read_weights(gpt2, folders.shapes(template), scanned=False).params
    table = params["embedding"]["tokens"]
    expected = folders.draw(template)["embedding"]["tokens"]["embedding"].astype(dtype)
    assert table["embedding"].dtype == np.float32
    np.testing.assert_array_equal(table["embedding"], expected.astype(np.float32))


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def without_a_part(folder):
    split(folder)
    (folder / "model-1.safetensors").unlink()


def with_a_false_index(folder):
    split(folder)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["no.such.tensor"] = "model-0.safetensors"
    path.write_text(json.dumps(index))


def with_a_part_elsewhere(folder):
    split(folder)
    (folder / "model-1.safetensors").rename(folder.parent / "elsewhere.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("model-1.safe", "../elsewhere.safe"))


def of_pickles(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"


def of_pointers(name):
    return lambda folder: (folder / name).write_text(POINTER)


def in_parts_of_pointers(folder):
    split(folder)
    (folder / "model-1.safetensors").write_text(POINTER)


def adapter(folder, base="org/base"):
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    beside_an_adapter(folder, base)


def beside_an_adapter(folder, base="org/base"):
    told = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(told))


def quantized(folder):
    folders.rewrite(folder, lambda tensors: tensors.update({"h": np.zeros(3, np.int8)}))


DAMAGE = {
    "no config": (remove("config.json"), r"config\.json is missing"),
    "config cut short": (cut("config.json"), r"config\.json is damaged"),
    "no weights": (remove("model.safetensors"), r"neither model\.safetensors nor model\.saf"),
    "weights cut short": (cut("model.safetensors"), r"model\.safetensors is damaged"),
    "a part missing": (without_a_part, r"model-1\.safetensors is missing"),
    "an index that lies": (with_a_false_index, r"model-0\.safetensors is damaged.*no\.such\.ten"),
    "a part outside": (
        with_a_part_elsewhere,
        r"index\.json is damaged: weight_map has \.\./elsewhere\.safetensors, which is not",
    ),
    "pickles alone": (of_pickles, r"pytorch_model\.bin is no safetensors file"),
    "a pointer": (
        of_pointers("model.safetensors"),
        r"model\.safetensors is a pointer of Git LFS, .*: run `git lfs pull` in ",
    ),
    "a pointer for a part": (in_parts_of_pointers, r"model-1\.safetensors is a pointer of Git"),
    "a pointer for the config": (of_pointers("config.json"), r"config\.json is a pointer of Git"),
    "an adapter": (adapter, r"holds an adapter of PEFT for org/base: .*merge_and_unload"),
    "an adapter of no model": (
        lambda folder: adapter(folder, None),
        "an adapter of PEFT for a model that it does not name: ",
    ),
    "an adapter and its model": (
        beside_an_adapter,
        "for org/base, beside a model to which transformers adds it: ",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_or_missing_file_is_named(gpt2, name):
    harm, message = DAMAGE[name]
    harm(gpt2)
    with pytest.raises(UsageError, match=message):
        describe(gpt2)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="nowhere is no folder"):
        describe(tmp_path / "nowhere")


def test_tensors_that_are_no_floating_point_numbers_are_refused(gpt2):
    quantized(gpt2)
    with pytest.raises(UsageError, match="h is stored as I8"):
        Folder(gpt2).tensor("h")


def test_special_tokens_are_those_that_the_tokenizer_names(tmp_path):
    folder = folders.write_config(tmp_path, folders.BERT)
    assert Folder(folder).special_tokens() == {}
    names = {"mask_token": {"content": "[MASK]"}, "cls_token": "[CLS]", "unk_token": "?", "x": 1}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    added = [{"id": 4, "content": "[MASK]"}, {"id": 2, "content": "[CLS]"}]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
    assert Folder(folder).special_tokens() == {"mask": 4, "cls": 2}
