"""Models that transformers has only in another form: the equal model gives the same logits."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from configs.data_spec import DataSpec
from configs.reading.recipes import load_config
from configs.schema.config import Config
from interop.converting import read_weights
from interop.formats import huggingface
from interop.formats.equal_models import equal_config, equal_params, equal_sizes
from interop.formats.source import Source
from parallel.mesh import flat_mesh
from tests.selection import few_of
from training.model_def import build_model_def
from training.restore import Restored
from training.trees import flat, nested

TINY = {"model.width": "16", "model.depth": "1", "model.num_heads": "2", "data.image_size": "8"}
SIZES = DataSpec(num_classes=3, image_shape=(8, 8, 3))
CASES = {
    "mean, sines": {"model.positions": "sincos"},
    "mean, no positions": {"model.positions": "none"},
    "mean, an unused position": {"model.class_token_position": "true"},
    "class token, sines": {"model.pooling": "class_token", "model.positions": "sincos"},
    "class token without a position": {"model.pooling": "class_token"},
    "class token with a position": {
        "model.pooling": "class_token",
        "model.class_token_position": "true",
    },
}


def drawn(fields: dict[str, str], sizes: DataSpec, dtype: str = "float32") -> Restored:
    """A vision transformer of random arrays."""
    fields = TINY | {"precision.parameter_dtype": dtype} | fields
    of_token = fields.pop("model.class_token_position", "false") == "true"
    config = load_config("configs/digits_vit.py", fields, inputs=False)
    model = config.model.model_copy(update={"class_token_position": of_token})
    return randomised(config.model_copy(update={"model": model}), sizes)


def randomised(config: Config, sizes: DataSpec) -> Restored:
    model_def = build_model_def(config, sizes, flat_mesh(jax.devices()[:1]))
    generator = np.random.default_rng(0)
    params = {
        name: jax.numpy.asarray(0.3 * generator.normal(size=leaf.shape), leaf.dtype)
        for name, leaf in flat(model_def.abstract_params).items()
    }
    manifest = {"data": sizes.to_manifest(), "metrics": {}}
    return Restored(1, manifest, model_def, nested(params), {})


def pictures(channels: int) -> np.ndarray:
    shape = (2, 8, 8, channels)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", [3, 1], ids=["colours", "grey"])
@pytest.mark.parametrize("name", few_of(CASES, "class token with a position"))
def test_the_logits_are_the_same(name, channels):
    sizes = replace(SIZES, image_shape=(8, 8, channels))
    restored = drawn(CASES[name], sizes)
    config = restored.model_def.config
    equal = build_model_def(
        equal_config(config), equal_sizes(config, sizes), restored.model_def.mesh
    )
    params = equal_params(config, sizes, Source(restored, None, None, "").params())
    model = equal.bind(nested({n: jax.numpy.asarray(x) for n, x in params.items()}), {})
    given = pictures(channels)
    ours = restored.module(given, train=False)
    theirs = model(np.repeat(given, 3 // channels, axis=-1), train=False)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.ptp(np.asarray(ours)) > 0.1


BERT = {
    "model.norm": "layer_norm",
    "model.norm_placement": "post",
    "model.positions": "learned",
    "model.feed_forward": "gelu",
    "model.use_bias": "true",
    "model.embedding_norm": "true",
    "model.head_transform": "true",
}


def test_bert_without_types_of_tokens_gets_one(tmp_path):
    fields = {n: value for n, value in TINY.items() if n.startswith("model.")} | BERT
    config = load_config("configs/masked_language_model.py", fields, inputs=False)
    sizes = DataSpec(vocabulary_size=11, max_length=12)
    restored = randomised(config, sizes)
    huggingface.write(Source(restored, None, None, ""), tmp_path / "out")
    equal = build_model_def(equal_config(config), sizes, restored.model_def.mesh)
    read = read_weights(tmp_path / "out", equal.abstract_params, scanned=False).params
    tokens = np.random.default_rng(1).integers(0, 12, (2, 9))
    ours, theirs = restored.module(tokens)[0], equal.bind(read, {})(tokens)[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_grey_pictures_is_read_again(tmp_path, dtype):
    restored = drawn({}, replace(SIZES, image_shape=(8, 8, 1)), dtype)
    huggingface.write(Source(restored, None, None, ""), tmp_path / "out")
    shapes = restored.model_def.abstract_params
    read = read_weights(tmp_path / "out", shapes, scanned=False)
    assert read.messages == ("its three channels are added up for grey pictures",)
    for name, array in flat(restored.params).items():
        found = np.asarray(flat(read.params)[name], np.float32)
        np.testing.assert_allclose(found, np.asarray(array, np.float32), atol=1e-6)
