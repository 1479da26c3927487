"""Weights of `transformers`: imported, they give the same logits; exported, they are the same."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file

from configs.errors import UsageError
from interop.converting import read_weights, to_tensors
from interop.families import describe
from tests.interop import folders

TOLERANCE = 1e-4
B, T = 3, 12
TOKENS_BT = np.random.default_rng(0).integers(0, 61, (B, T), dtype=np.int32)
LENGTHS_B = np.array([12, 7, 10])
REAL_BT = np.arange(T) < LENGTHS_B[:, None]

BLOCKS = {
    "vocab_size": 61,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8,
}


def gpt2(**changes):
    config = {"vocab_size": 61, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config | changes))


def llama(**changes):
    config = BLOCKS | {"num_key_value_heads": 2} | changes
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))


def mistral(**changes):
    config = BLOCKS | {"num_key_value_heads": 2, "sliding_window": 5} | changes
    return transformers.MistralForCausalLM(transformers.MistralConfig(**config))


def ministral(**changes):
    types = ["sliding_attention", "full_attention", "full_attention"]
    config = BLOCKS | {"num_key_value_heads": 2, "sliding_window": 4}
    config |= {"layer_types": types, "head_dim": 12}
    return transformers.MinistralForCausalLM(transformers.MinistralConfig(**config | changes))


def qwen2(**changes):
    config = BLOCKS | {"num_key_value_heads": 2} | changes
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**config))


def qwen3(**changes):
    config = BLOCKS | {"num_key_value_heads": 2, "head_dim": 16} | changes
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**config))


def eurobert(**changes):
    config = BLOCKS | {"num_key_value_heads": 2, "pad_token_id": None} | changes
    return transformers.EuroBertForMaskedLM(transformers.EuroBertConfig(**config))


def siglip(**changes):
    config = BLOCKS | {"image_size": 12, "patch_size": 4, "vision_use_head": False} | changes
    del config["vocab_size"]
    told = transformers.SiglipConfig(vision_config=config, num_labels=7)
    return transformers.SiglipForImageClassification(told)


WINDOWS = {"use_sliding_window": True, "sliding_window": 4}


def bert(kind: str = "MaskedLM", **changes):
    config = transformers.BertConfig(**BLOCKS | {"max_position_embeddings": 16} | changes)
    return getattr(transformers, f"BertFor{kind}")(config)


def vit(**changes):
    config = BLOCKS | {"image_size": 12, "patch_size": 4, "num_labels": 7} | changes
    del config["vocab_size"]
    return transformers.ViTForImageClassification(transformers.ViTConfig(**config))


MODELS = {
    "gpt2": gpt2,
    "gpt2 untied, wide": lambda: gpt2(tie_word_embeddings=False, n_inner=72),
    "gpt2 with gelu": lambda: gpt2(activation_function="gelu"),
    "llama": llama,
    "llama tied, with biases": lambda: llama(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True, num_key_value_heads=4
    ),
    "llama with large heads": lambda: llama(head_dim=16, num_key_value_heads=1),
    "llama stretched": lambda: llama(rope_parameters=LLAMA_3),
    "mistral": mistral,
    "mistral without a window": lambda: mistral(sliding_window=None, head_dim=8),
    "ministral": ministral,
    "qwen2": qwen2,
    "qwen2 with windows": lambda: qwen2(**WINDOWS, max_window_layers=1, tie_word_embeddings=True),
    "qwen3": qwen3,
    "qwen3 with windows": lambda: qwen3(
        **WINDOWS, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "bert": bert,
    "bert before its tasks": lambda: bert("PreTraining", hidden_act="gelu_new"),
    "bert of classes": lambda: bert("SequenceClassification", num_labels=5),
    "eurobert": eurobert,
    "siglip": siglip,
    "siglip of grey pictures": lambda: siglip(num_channels=1, hidden_act="relu"),
    "vit": vit,
    "vit of grey oblongs": lambda: vit(num_channels=1, image_size=[8, 16], hidden_act="relu"),
}


@pytest.fixture
def saved(tmp_path):
    """Makes one of `MODELS` with weights that each have a say, and saves it."""

    def make(name: str, **how: Any) -> tuple[torch.nn.Module, Path]:
        torch.manual_seed(0)
        theirs = MODELS[name]().eval()
        with torch.no_grad():
            for key, parameter in theirs.named_parameters():
                scale = "norm" in key.lower() or ".ln_" in key
                parameter.copy_((scale and "weight" in key) + 0.2 * torch.randn(parameter.shape))
        theirs.save_pretrained(tmp_path, **how)
        return theirs, tmp_path

    return make


def imported(folder: Path, **changes: Any) -> tuple[Any, Any]:
    """Our model with the folder's weights, and they alone."""
    found = describe(folder)
    template = folders.template(found.settings, found.data_spec, **changes)
    scanned = changes.get("scan_layers", False)
    params = read_weights(folder, folders.shapes(template), scanned=scanned).params
    return template.bind(jax.tree.map(jnp.asarray, params), {}), params


def logits_of_ours(model: Any, folder: Path) -> np.ndarray:
    graph, state = nnx.split(model)
    return np.asarray(jax.jit(lambda state: logits_in(nnx.merge(graph, state), folder))(state))


def logits_in(model: Any, folder: Path) -> jax.Array:
    data_spec = describe(folder).data_spec
    if data_spec.image_shape is not None:
        return model(jnp.asarray(pictures(data_spec.image_shape)), train=False)
    if data_spec.num_classes is not None:
        return model.classify(TOKENS_BT, segments_BT=jnp.asarray(REAL_BT, jnp.int32))
    return model(TOKENS_BT)[0]


def logits_of_theirs(model: torch.nn.Module, folder: Path) -> np.ndarray:
    data_spec = describe(folder).data_spec
    with torch.no_grad():
        if data_spec.image_shape is not None:
            channels_first = pictures(data_spec.image_shape).transpose(0, 3, 1, 2)
            return model(pixel_values=torch.tensor(2 * channels_first - 1)).logits.numpy()
        tokens, mask = torch.tensor(TOKENS_BT).long(), torch.tensor(REAL_BT).long()
        if data_spec.num_classes is not None:
            return model(tokens, attention_mask=mask).logits.numpy()
        found = model(tokens)
        return (found["prediction_logits" if "prediction_logits" in found else "logits"]).numpy()


def pictures(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(B, *shape)).astype(np.float32)


def assert_equal_logits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape and theirs.std(axis=0).mean() > 0.1, "the logits say nothing"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_same_and_what_goes_back_is_too(saved, name):
    theirs, folder = saved(name)
    model, params = imported(folder)
    assert_equal_logits(logits_of_ours(model, folder), logits_of_theirs(theirs, folder))
    file = load_file(folder / "model.safetensors")
    if name == "bert before its tasks":  # the guess of the next sentence is none of ours
        file = {k: v for k, v in file.items() if "pooler" not in k and "seq_relationship" not in k}
    folders.assert_same(to_tensors(describe(folder).family, params, scanned=False), file)


DEFAULT = {"rope_type": "default", "rope_theta": 500.0}
SCALING = {name: value for name, value in LLAMA_3.items() if name != "rope_theta"}
BOTH = {
    "beside null": {"rope_scaling": SCALING, "rope_parameters": None, "rope_theta": 500.0},
    "beside the default": {"rope_scaling": SCALING, "rope_parameters": DEFAULT},
    "beside another": {"rope_scaling": SCALING, "rope_parameters": LLAMA_3 | {"factor": 2.0}},
    "empty": {"rope_scaling": {}, "rope_parameters": LLAMA_3},
    "an old name": {"rope_scaling": {**SCALING, "rope_type": None, "type": "llama3"}},
    "two bases": {"rope_parameters": LLAMA_3, "rope_theta": 9.0},
    "without a length": {
        "rope_scaling": {k: v for k, v in SCALING.items() if not k.startswith("original")},
        "max_position_embeddings": 16,
    },
}


@pytest.mark.parametrize("name", BOTH)
def test_of_two_rotary_sections_the_same_one_counts(saved, name):
    _, folder = saved("llama")
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config.pop("rope_parameters")
    sections = {
        key: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        for key, value in BOTH[name].items()
    }
    file.write_text(json.dumps(config | sections))
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    model, _ = imported(folder)
    assert_equal_logits(logits_of_ours(model, folder), logits_of_theirs(theirs, folder))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "bert", "vit"])
def test_scanned_and_in_parts_the_logits_are_the_same(saved, name):
    theirs, folder = saved(name, max_shard_size="60KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    model, _ = imported(folder, scan_layers=True)
    assert_equal_logits(logits_of_ours(model, folder), logits_of_theirs(theirs, folder))


def test_what_was_exported_opens_with_their_library(saved):
    theirs, folder = saved("llama")
    _, params = imported(folder)
    tensors = to_tensors("llama", params, scanned=False)
    state = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    fresh = transformers.LlamaForCausalLM(theirs.config).eval()
    fresh.load_state_dict(state, strict=True)
    np.testing.assert_array_equal(logits_of_theirs(fresh, folder), logits_of_theirs(theirs, folder))


@pytest.mark.parametrize("name", ["llama stretched", "mistral", "qwen2 with windows", "qwen3"])
def test_cached_decoding_is_the_whole_sequence(saved, name):
    theirs, folder = saved(name)
    model, _ = imported(folder)
    state, parts = model.initial_state(B, T), []
    for start in range(0, T, 4):
        part, state = model(TOKENS_BT[:, start : start + 4], state=state)
        parts.append(part)
    assert_equal_logits(np.concatenate(parts, axis=1), logits_of_theirs(theirs, folder))


def test_the_body_of_a_masked_model_classifies_as_its_classifier_does(saved):
    theirs, folder = saved("bert of classes")
    _, params = imported(folder)
    found = describe(folder)
    template = folders.template(found.settings, found.data_spec)
    body = read_weights(folder, folders.shapes(template), scanned=False, body_only=True).params
    assert params.keys() - body.keys() == {"classes"}
    ours = template.bind(jax.tree.map(jnp.asarray, params | body), {})
    assert_equal_logits(logits_of_ours(ours, folder), logits_of_theirs(theirs, folder))


def test_a_renamed_weight_is_refused_by_name(saved):
    _, folder = saved("gpt2")
    old, new = "transformer.h.2.mlp.c_fc.weight", "transformer.h.2.mlp.c_fz.weight"
    folders.rewrite(folder, lambda tensors: tensors.update({new: tensors.pop(old)}))
    with pytest.raises(UsageError, match=f"lacks {old}; it has {new}, for which"):
        imported(folder)
