"""ResNet and ConvNeXt of `transformers`: the same logits when they are read, after a train step,
and when they are written again.

Theirs are computed in float64: a deep ResNet of random weights makes a rounding of a step a hundred
times larger, and in float32 theirs is as far from the exact logits as the tolerance.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from configs.reading.recipes import load_config
from configs.schema.model import ARCHITECTURES
from configs.schema.settings import kind_name
from interop.converting import read_weights, to_tensors
from interop.families import describe
from interop.formats import huggingface
from interop.formats.source import Source
from parallel.mesh import flat_mesh
from tests.interop import folders
from training.model_def import ModelDef, build_model_def
from training.restore import Restored

TOLERANCE = 1e-4
CLASSES, B = 7, 6
LEARNING_RATE = 0.002
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
LABELS_B = np.arange(B) % CLASSES


def resnet(**changes: Any) -> torch.nn.Module:
    basic = {"layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16, 32, 64]}
    config = transformers.ResNetConfig(
        **basic | {"depths": [2, 2, 2, 2], "num_labels": CLASSES, "image_size": 48} | changes
    )
    return transformers.ResNetForImageClassification(config)


def bottlenecks(**changes: Any) -> torch.nn.Module:
    sizes = {"layer_type": "bottleneck", "embedding_size": 4, "hidden_sizes": [16, 32, 64, 128]}
    return resnet(**sizes | changes)


def convnext(version: str = "", **changes: Any) -> torch.nn.Module:
    sizes = {"num_stages": 3, "hidden_sizes": [8, 16, 24], "depths": [1, 2, 1], "patch_size": 2}
    config = getattr(transformers, f"ConvNext{version}Config")(
        **sizes | {"num_labels": CLASSES, "image_size": 24} | changes
    )
    return getattr(transformers, f"ConvNext{version}ForImageClassification")(config)


MODELS = {
    "resnet": resnet,
    "resnet of grey pictures with odd sides": lambda: resnet(num_channels=1, image_size=45),
    "resnet with bottlenecks": bottlenecks,
    "resnet, deeper": lambda: bottlenecks(depths=[3, 4, 6, 3]),
    "convnext": convnext,
    "convnext with another epsilon": lambda: convnext(
        layer_norm_eps=1e-3, patch_size=4, image_size=32
    ),
    "convnextv2": lambda: convnext("V2"),
}


class Pair:
    """A model of theirs with weights that each have a say, and ours of its folder."""

    def __init__(self, name: str, folder: Path):
        torch.manual_seed(0)
        self.theirs = MODELS[name]()
        _shake(self.theirs)
        self.theirs.save_pretrained(folder)
        self.theirs.double()
        channels = self.theirs.config.num_channels
        preprocessor = {"image_mean": MEAN[:channels], "image_std": STD[:channels]}
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        self.model_def = model_of(folder)
        self.params, self.statistics = weights_of(folder, self.model_def)
        self.pictures_BHWC = draw_pictures(*self.model_def.data_spec.require("image_shape"))
        self.channels = self.pictures_BHWC.shape[-1]

    def logits_of_ours(self) -> np.ndarray:
        def logits(params, statistics, pictures):
            return self.model_def.graph.bind(params, statistics)(pictures, train=False)

        return np.asarray(jax.jit(logits)(self.params, self.statistics, self.pictures_BHWC))

    def pixels_for(self, theirs: torch.nn.Module) -> torch.Tensor:
        mean, std = np.array(MEAN[: self.channels]), np.array(STD[: self.channels])
        pixels = (self.pictures_BHWC - mean) / std
        return torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=theirs.dtype)

    def logits_of(self, theirs: torch.nn.Module) -> np.ndarray:
        times = theirs.config.num_channels // self.channels
        with torch.no_grad():
            return theirs.eval()(self.pixels_for(theirs).repeat(1, times, 1, 1)).logits.numpy()

    def train_ours(self) -> float:
        """A step of gradient descent; the loss before it."""

        @jax.jit
        def step(params, statistics, pictures, labels):
            def loss(params):
                model = self.model_def.graph.bind(params, statistics)
                logits = jax.nn.log_softmax(model(pictures, train=True))
                picked = jnp.take_along_axis(logits, labels[:, None], axis=1)
                return -jnp.mean(picked), self.model_def.graph.statistics_of(model)

            (value, measured), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            moved = jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradient)
            return value, moved, measured

        value, params, statistics = step(
            self.params, self.statistics, self.pictures_BHWC, jnp.asarray(LABELS_B)
        )
        self.params, self.statistics = jax.device_get((params, statistics))
        return float(value)

    def train_theirs(self) -> float:
        self.theirs.train()
        optimizer = torch.optim.SGD(self.theirs.parameters(), lr=LEARNING_RATE)
        logits = self.theirs(self.pixels_for(self.theirs)).logits
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(LABELS_B))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def export(self, out: Path) -> torch.nn.Module:
        """Writes ours as a folder; the model that they make of it, which has three channels."""
        manifest = {"data": self.model_def.data_spec.to_manifest(), "metrics": {"loss": 1.0}}
        restored = Restored(1, manifest, self.model_def, self.params, self.statistics)
        assert not huggingface.write(Source(restored, None, None, "export.py"), out)
        written = json.loads((out / "preprocessor_config.json").read_text())
        mean, std = (MEAN, STD) if self.channels == 3 else (MEAN[:1] * 3, STD[:1] * 3)
        assert (written["image_mean"], written["image_std"]) == (mean, std)
        model, info = transformers.AutoModelForImageClassification.from_pretrained(
            out, output_loading_info=True
        )
        assert type(model) is type(self.theirs) and not any(info.values()), info
        if self.channels == 3:
            read = weights_of(out, model_of(out))
            folders.assert_same(read, (self.params, self.statistics))
        return model


def model_of(folder: Path) -> ModelDef:
    """The model of a run that begins with the folder."""
    found = describe(folder)
    kind = next(one for one in ARCHITECTURES if kind_name(one) == found.settings["architecture"])
    config = load_config("configs/digits_convnext.py", {}, inputs=False)
    config = config.model_copy(update={"model": kind(**found.settings)})
    return build_model_def(config, found.data_spec, flat_mesh(jax.devices()[:1]))


def weights_of(folder: Path, model_def: ModelDef) -> tuple[Any, Any]:
    shapes = (model_def.abstract_params, model_def.abstract_statistics)
    weights = read_weights(folder, *shapes, scanned=False)
    return weights.params, weights.statistics


def draw_pictures(height: int, width: int, channels: int) -> np.ndarray:
    """Pictures of coloured noise: a colour each, so that their logits differ."""
    random = np.random.default_rng(1)
    colours = random.uniform(size=(B, 1, 1, channels))
    noise = random.uniform(size=(B, height, width, channels))
    return (0.7 * colours + 0.3 * noise).astype(np.float32)


def _shake(model: torch.nn.Module) -> None:
    """Gives every parameter and running statistic of a model a value of its own."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim > 1 and "grn" not in name:
                gain = 16 if "classifier" in name else 2
                value.copy_(torch.randn(value.shape) * (gain / value[0].numel()) ** 0.5)
            else:
                scale = "bias" not in name and "grn" not in name
                value.copy_(0.5 * scale + 0.2 * torch.randn(value.shape))
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_(0.2 * torch.randn(value.shape))
            elif name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape))


def assert_equal_logits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape == (B, CLASSES)
    assert theirs.std(axis=0).mean() > 0.05, "the logits say nothing"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_same_when_read_after_a_step_and_when_written(tmp_path, name):
    pair = Pair(name, tmp_path / "theirs")
    assert_equal_logits(pair.logits_of_ours(), pair.logits_of(pair.theirs))

    before = jax.tree.leaves((pair.params, pair.statistics))
    assert pair.train_ours() == pytest.approx(pair.train_theirs(), abs=TOLERANCE)
    after = jax.tree.leaves((pair.params, pair.statistics))
    assert all(np.abs(new - old).max() > 0 for new, old in zip(after, before, strict=True))
    family = pair.theirs.config.model_type
    tensors = to_tensors(family, pair.params, pair.statistics, scanned=False)
    for key, value in pair.theirs.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_allclose(
                tensors[key], value.numpy(), rtol=0, atol=TOLERANCE, err_msg=key
            )
    assert_equal_logits(pair.logits_of_ours(), pair.logits_of(pair.theirs))

    assert_equal_logits(pair.logits_of_ours(), pair.logits_of(pair.export(tmp_path / "ours")))
