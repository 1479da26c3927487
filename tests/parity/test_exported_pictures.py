"""Classifiers of pictures that were trained and exported: `transformers` gives the labels, scores
and accuracy of evaluate.py, offline."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import evaluate
import export
import train

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers

SIZE = 16
RECIPES = {
    "resnet": "architecture='resnet'",
    "convnext": "architecture='convnext'",
    "convnextv2": "architecture='convnext'",
}
SETTINGS = {
    "resnet": {"width": "8", "stem": "large", "pixel_mean": "0.4,0.5,0.6", "pixel_std": "0.25"},
    "convnext": {"patch_size": "2", "channels": "8,16", "depths": "1,1"},
    "convnextv2": {
        "patch_size": "2",
        "channels": "8,16",
        "depths": "1,1",
        "response_norm": "true",
    },
}


def write_pictures(folder: Path) -> dict[str, Path]:
    """Red and blue noise, a folder each; the files by their names."""
    random, files = np.random.default_rng(0), {}
    for label, channel in (("blue", 2), ("red", 0)):
        (folder / label).mkdir(parents=True)
        for number in range(16):
            pixels = random.integers(0, 200, (SIZE, SIZE, 3), dtype=np.uint8)
            pixels[..., channel] += 30
            file = folder / label / f"{number}.png"
            Image.fromarray(pixels).save(file)
            files[f"{label}/{number}.png"] = file
    return files


def write_resnet(folder: Path) -> Path:
    """A random model of theirs that tells blue from red."""
    config = transformers.ResNetConfig(
        layer_type="basic",
        depths=[2, 2, 2, 2],
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 64],
        id2label={0: "blue", 1: "red"},
        label2id={"blue": 0, "red": 1},
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    processor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.25] * 3, "size": 224}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def trained(place: Path, name: str) -> Path:
    """A short run on the pictures in `place`. That of a ResNet begins with a folder of theirs."""
    recipe = place / "recipe.py"
    made = f"base.image_classification(source='image_folder', {RECIPES[name]})"
    recipe.write_text(f"from configs import base\ndef get_config():\n    return {made}\n")
    fields = {
        "data.path": str(place / "pictures"),
        "data.validation_fraction": "0.5",
        "data.global_batch_size": "8",
        "train.steps": "4",
        "optimizer.learning_rate": "1e-2",
        "optimizer.warmup_steps": "1",
        "mesh.data": "1",
    }
    if name == "resnet":
        fields["train.initialize_from"] = str(write_resnet(place / "theirs"))
    fields |= {f"model.{field}": value for field, value in SETTINGS[name].items()}
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    workdir = place / "run"
    assert train.main([f"--config={recipe}", f"--workdir={workdir}", *flags]) == 0
    return workdir


def evaluated(workdir: Path, capsys: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The metrics, and the predictions for each example."""
    predictions = workdir.parent / "predictions.jsonl"
    capsys.readouterr()
    assert evaluate.main([f"--workdir={workdir}", f"--predictions={predictions}"]) == 0
    lines = predictions.read_text().splitlines()
    return json.loads(capsys.readouterr().out.splitlines()[-1]), [json.loads(x) for x in lines]


@pytest.mark.parametrize("name", RECIPES)
def test_labels_scores_and_accuracy_are_those_of_evaluate(tmp_path, capsys, name):
    files = write_pictures(tmp_path / "pictures")
    workdir = trained(tmp_path, name)
    messages = capsys.readouterr().err
    assert ("begins with the weights of" in messages) == (name == "resnet")
    assert "fresh" not in messages
    metrics, predictions = evaluated(workdir, capsys)
    out = tmp_path / "exported"
    flags = [f"--workdir={workdir}", "--format=huggingface", f"--out={out}"]
    assert export.main(flags) == 0
    model = transformers.pipeline("image-classification", str(out))
    correct = 0
    for one in predictions:
        scores = {found["label"]: found["score"] for found in model(str(files[one["name"]]))}
        assert scores == pytest.approx(
            dict(zip(("blue", "red"), one["scores"], strict=True)), abs=1e-4
        )
        correct += max(scores, key=scores.__getitem__) == one["name"].partition("/")[0]
    assert correct / len(predictions) == pytest.approx(metrics["accuracy"])
