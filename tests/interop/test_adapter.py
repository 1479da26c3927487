"""LoRA pairs as an adapter of PEFT: the base with it is the merged model."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.recipes import load_config
from interop.converting import to_tensors
from interop.formats import huggingface
from interop.formats.adapter import adapter_tensors, write_adapter
from interop.formats.source import Source
from parallel.mesh import flat_mesh
from training.model_def import build_model_def
from training.restore import Restored
from training.trees import flat, nested

TINY = {"model.width": "16", "model.depth": "2", "model.num_heads": "2", "model.num_kv_heads": "1"}
GPT2 = {
    "model.positions": "learned",
    "model.norm": "layer_norm",
    "model.feed_forward": "gelu",
    "model.use_bias": "true",
}
WINDOWS = {"model.depth": "4", "model.pattern": "AG", "model.attention_window": "8"}
CASES = {
    "every matrix": {},
    "scanned": {"model.scan_layers": "true"},
    "some matrices": {"train.lora.on": "backbone.*.query.*,backbone.layers.1.feed_forward.*"},
    "trained also": {"train.lora.train_also": "embedding.head.*,backbone.layers.1.mixer_norm.*"},
    "scanned, trained also": {
        "model.scan_layers": "true",
        "train.lora.train_also": "embedding.head.*,*.mixer_norm.*",
    },
    "inputs first": {
        **GPT2,
        "model.num_kv_heads": "none",
        "train.lora.on": "backbone.*.feed_forward.*,backbone.*.mixer.out.*",
    },
    "windows, norms": {**WINDOWS, "model.qk_norm": "true", "model.tied_embeddings": "true"},
    "scanned, one letter": {
        **WINDOWS,
        "model.qkv_bias": "true",
        "model.scan_layers": "true",
        "train.lora.on": "backbone.layers.1.*",
        "train.lora.train_also": "backbone.layers.1.mixer_norm.*",
    },
    "scanned, second of two layers": {
        "model.depth": "4",
        "model.pattern": "AA",
        "model.scan_layers": "true",
        "train.lora.on": "backbone.layers.1.feed_forward.*",
    },
}


def source_of(fields: dict[str, str], rank: str = "3") -> Source:
    """A model of random arrays, with LoRA pairs of all matrices or some."""
    config = load_config(
        "configs/python_stdlib.py", TINY | {"train.lora.rank": rank} | fields, inputs=False
    )
    sizes = DataSpec(vocabulary_size=11, max_length=128)
    model_def = build_model_def(config, sizes, flat_mesh(jax.devices()[:1]))
    generator = np.random.default_rng(0)
    params = {
        name: jax.numpy.asarray(generator.normal(size=leaf.shape), leaf.dtype)
        for name, leaf in flat(model_def.abstract_params).items()
    }
    return Source(Restored(1, {}, model_def, nested(params), {}), None, None, "", "adapter")


@pytest.mark.parametrize("name", CASES)
def test_the_base_and_the_adapter_are_the_merged_model(name):
    source = source_of(CASES[name])
    config = source.config
    family = huggingface.counterpart(config, source.data_spec).family
    scanned = config.model.scan_layers
    tensors, modules, whole = adapter_tensors(source, family)
    own = {n: one for n, one in source.unmerged_params().items() if not n.startswith("lora.")}
    expected = to_tensors(family.name, nested(source.params()), scanned=scanned)
    found = to_tensors(family.name, nested(own), scanned=scanned)
    for module in modules:
        a = tensors.pop(f"base_model.model.{module}.lora_A.weight")
        b = tensors.pop(f"base_model.model.{module}.lora_B.weight")
        change = config.train.lora.alpha / 3 * (b @ a)
        change = change.T if name == "inputs first" else change
        found[f"{module}.weight"] = found[f"{module}.weight"] + change
    for tensor in found:
        np.testing.assert_allclose(found[tensor], expected[tensor], rtol=1e-4, atol=1e-4)
    assert {one.removeprefix("base_model.model.") for one in tensors} == {
        tensor for tensor in found if tensor.rpartition(".")[0] in whole
    }
    for tensor, array in tensors.items():
        np.testing.assert_array_equal(array, expected[tensor.removeprefix("base_model.model.")])
    if name.endswith("trained also"):
        layers = 2 if scanned else 1
        assert len(whole) == 1 + layers and "lm_head" in whole


REFUSED = {
    "no LoRA": ({}, "none", "this run has no LoRA pairs, as train.lora.rank is none"),
    "one of several": (
        GPT2 | {"model.num_kv_heads": "none"},
        "2",
        r"backbone\.layers\.0\.mixer\.\w+\.kernel is no linear layer of its own in gpt2",
    ),
    "a table": (
        {"train.lora.on": "embedding.*"},
        "2",
        "embedding.tokens.embedding is no linear layer of its own in llama",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_adapter_is_told(name):
    fields, rank, message = REFUSED[name]
    source = source_of(fields, rank)
    family = huggingface.counterpart(source.config, source.data_spec).family
    with pytest.raises(UsageError, match=message):
        adapter_tensors(source, family)


def test_the_task_is_named_as_in_peft(tmp_path):
    source = source_of({})
    family = huggingface.counterpart(source.config, source.data_spec).family
    write_adapter(source, family, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"


def test_other_dtypes_are_written():
    source = dataclasses.replace(source_of({}), dtype="bfloat16")
    family = huggingface.counterpart(source.config, source.data_spec).family
    tensors, _, _ = adapter_tensors(source, family)
    assert {array.dtype.name for array in tensors.values()} == {"bfloat16"}
