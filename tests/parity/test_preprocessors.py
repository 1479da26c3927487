"""Pictures of every shape reach a model of a folder as the folder's image processor makes them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from data.codecs.pictures import encode_picture
from inference.loading import load_model

SIZE = 32
BLOCKS = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "image_size": SIZE,
    "patch_size": 8,
}
RESNET = {
    "layer_type": "basic",
    "depths": [2, 2, 2, 2],
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 32, 64],
}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit, as it is": ("vit", {"size": SIZE}),
    "vit of all colours": ("vit", {"size": {"height": SIZE, "width": SIZE}, "do_normalize": False}),
    "vit, the middle": (
        "vit",
        {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": SIZE, "resample": 3},
    ),
    "vit with the processor of CLIP": (
        "vit",
        {"image_processor_type": "CLIPImageProcessor", "size": SIZE, "crop_size": SIZE},
    ),
    "vit with the processor of DeiT": (
        "vit",
        {"image_processor_type": "DeiTImageProcessor", "size": 40, "crop_size": SIZE},
    ),
    "resnet, a part": ("resnet", {"size": SIZE, "crop_pct": 0.8, "image_mean": [0.4, 0.5, 0.6]}),
    "resnet, the usual part": ("resnet", {"size": SIZE}),
}


def make(folder: Path, name: str) -> torch.nn.Module:
    """A folder with random weights and a preprocessor_config.json, and its model."""
    family, fields = PROCESSORS[name]
    torch.manual_seed(0)
    if family == "vit":
        config = transformers.ViTConfig(**BLOCKS, num_labels=3, initializer_range=0.3)
        model = transformers.ViTForImageClassification(config)
    else:
        model = transformers.ResNetForImageClassification(
            transformers.ResNetConfig(**RESNET, num_labels=3)
        )
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(fields))
    return model.eval()


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("shape", [(90, 130, 3), (130, 90, 3), (SIZE, SIZE, 3)])
def test_pictures_and_scores_are_those_of_their_processor(tmp_path, name, shape):
    theirs = make(tmp_path, name)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = [np.sin(rows / (15 + c)) + np.cos(columns / (19 - c)) for c in range(3)]
    pixels = (127 + 60 * np.stack(waves, -1)).astype(np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        given = processor(Image.fromarray(pixels), return_tensors="pt")
        expected = theirs(**given).logits.softmax(-1)[0].numpy()
    file = tmp_path / "picture.png"
    file.write_bytes(encode_picture(pixels))
    model = load_model(tmp_path)
    (found,) = model.predict(input=[str(file)])
    config: Any = model.restored.model_def.config.model
    seen = model.default_predictor.read(file.read_bytes()) / 255
    seen = (seen - config.pixel_mean) / config.pixel_std
    theirs_seen = given["pixel_values"][0].numpy().transpose(1, 2, 0)
    # They resize to whole pixels and cut then; here it is one step.
    assert np.abs(seen - theirs_seen).mean() < 0.1 * theirs_seen.std()
    np.testing.assert_allclose([*found.scores.values()], expected, atol=0.05)
