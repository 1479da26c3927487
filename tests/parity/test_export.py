"""Models of `transformers` that are trained here and exported: their logits are ours."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.schema.config import Config
from configs.schema.model import ARCHITECTURES
from configs.schema.settings import kind_name
from interop.converting import read_weights
from interop.families import describe
from interop.formats import huggingface
from interop.formats.source import Source
from parallel.mesh import flat_mesh
from tests.parity import test_interop as made
from training.model_def import ModelDef, build_model_def
from training.restore import Restored
from training.trees import flat

RECIPES = {
    "next_tokens": "python_stdlib",
    "missing_tokens": "masked_language_model",
    "pictures": "digits_vit",
    "classes": "text_classification",
}
FAMILIES = {
    "llama": made.llama,
    "llama stretched, tied": lambda: made.llama(
        rope_parameters=made.LLAMA_3, tie_word_embeddings=True
    ),
    "mistral": made.mistral,
    "ministral": made.ministral,
    "qwen2": lambda: made.qwen2(**made.WINDOWS, max_window_layers=2),
    "qwen3": made.qwen3,
    "gpt2": made.gpt2,
    "bert": made.bert,
    "bert of classes": lambda: made.bert("SequenceClassification", num_labels=5),
    "eurobert": made.eurobert,
    "vit": made.vit,
    "siglip": made.siglip,
}


def random_folder(folder: Path, name: str) -> torch.nn.Module:
    """Save a model of `FAMILIES` whose weights all have a say."""
    torch.manual_seed(0)
    theirs = FAMILIES[name]().eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            scale = "norm" in key.lower() or ".ln_" in key
            parameter.copy_((scale and "weight" in key) + 0.2 * torch.randn(parameter.shape))
    theirs.save_pretrained(folder)
    return theirs


def model_of(folder: Path) -> ModelDef:
    """The model of a run that begins with the folder."""
    found = describe(folder)
    sizes, output = found.data_spec, "next_tokens"
    if sizes.image_shape is not None:
        output = "pictures"
    elif sizes.num_classes is not None:
        output = "classes"
    elif found.settings["architecture"] == "encoder":
        output = "missing_tokens"
    kind = next(one for one in ARCHITECTURES if kind_name(one) == found.settings["architecture"])
    fields = {"precision.products": "float32"}
    config: Config = load_config(f"configs/{RECIPES[output]}.py", fields, inputs=False)
    config = config.model_copy(update={"model": kind(**found.settings)})
    values = sizes.to_manifest()["sizes"]
    if output == "missing_tokens":  # The mask is none of the tokenizer's tokens.
        values["vocabulary_size"] -= 1
    if output != "pictures":
        values.setdefault("max_length", 16)
    return build_model_def(config, DataSpec(**values), flat_mesh(jax.devices()[:1]))


def weights_of(folder: Path, model_def: ModelDef) -> Any:
    return read_weights(folder, model_def.abstract_params, scanned=False).params


def stepped(model_def: ModelDef, params: Any, folder: Path) -> Any:
    """The parameters after one step of gradient descent, with which each of them changes."""
    labels = np.random.default_rng(2).integers(0, 5, (made.B, made.T))

    def loss(params):
        logits = made.logits_in(model_def.bind(params, {}), folder)
        flat_labels = labels[:, 0] if logits.ndim == 2 else labels
        return optax.softmax_cross_entropy_with_integer_labels(logits, flat_labels).mean()

    gradients = jax.jit(jax.grad(loss))(params)
    return jax.tree.map(lambda one, change: np.asarray(one - 0.02 * change), params, gradients)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_same_before_a_step_after_it_and_in_transformers_again(tmp_path, name):
    folder, out = tmp_path / "theirs", tmp_path / "out"
    theirs = random_folder(folder, name)
    model_def = model_of(folder)
    params = weights_of(folder, model_def)
    before = np.asarray(made.logits_in(model_def.bind(params, {}), folder))
    made.assert_equal_logits(before, made.logits_of_theirs(theirs, folder))
    params = stepped(model_def, params, folder)
    after = np.asarray(made.logits_in(model_def.bind(params, {}), folder))
    assert np.abs(after - before).max() > 0.01
    manifest = {"data": model_def.data_spec.to_manifest(), "metrics": {"loss": 1.0}}
    source = Source(Restored(1, manifest, model_def, params, {}), None, None, "export.py")
    assert not huggingface.write(source, out)
    architecture = json.loads((out / "config.json").read_text())["architectures"][0]
    again, messages = getattr(transformers, architecture).from_pretrained(
        out, output_loading_info=True
    )
    assert not any(messages.values()), messages
    made.assert_equal_logits(after, made.logits_of_theirs(again.eval(), folder))
    read = flat(weights_of(out, model_of(out)))
    for path, array in flat(params).items():
        np.testing.assert_array_equal(read[path], array)


FAULTS = {
    "missing": (lambda tensors, key: tensors.pop(key), "lacks {key}"),
    "renamed": (
        lambda tensors, key: tensors.update({f"{key}x": tensors.pop(key)}),
        "lacks {key}; it has {key}x",
    ),
    "unknown": (lambda tensors, key: tensors.update(x=tensors[key]), "it has x, for which"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_weight_that_does_not_fit_is_named(tmp_path, name):
    random_folder(tmp_path, name)
    model_def = model_of(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    key = min(one for one in whole if ".1." in one)
    for change, message in FAULTS.values():
        tensors = dict(whole)
        change(tensors, key)
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(UsageError) as caught:
            weights_of(tmp_path, model_def)
        assert message.format(key=key) in str(caught.value)
