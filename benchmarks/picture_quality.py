"""Compares the accuracy of `image_folder_resnet` after a short training with PyTorch's, on CPU.

python benchmarks/picture_quality.py [FOLDER ...] [--steps=560] [--seeds=3] [--width=16]
                                     [--side=NAME ...] [--set=FIELD=VALUE ...] [--json=FILE]

Needs the `bench` extra. FOLDER contains `train/CLASS/*.png` and `validation/CLASS/*.png`, pictures
of one size of up to 64 pixels. Without any, two sets are made: `letters`, 9,000 small grey pictures
of ten letters in several fonts, turned, shifted and noisy; and `digits`, scikit-learn's 1,437
handwritten digits. The sides, each with the recipe's batches, schedule and number of steps:

- `triform`: `train.py` with the recipe, of this width; `--set` changes fields of it, for the other
  sides too where they follow it;
- `equal`: PyTorch's ResNet-18 with Triform's initial values, and an optimizer like the recipe's;
- `own`: PyTorch's, with its own initial values (all layers, no norm that starts at 0) and its own
  defaults of AdamW: beta2 0.999, weight decay of all parameters, no clipping.

A line has the accuracies on the validation pictures after the last step, in percent: the mean over
the seeds, and each.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import ROOT, overrides, print_head, print_row
from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.recipes import load_config

RECIPE = "configs/image_folder_resnet.py"
SIDES = ("triform", "equal", "own")
BATCH = 32
LETTERS, SIZE, PER_CLASS = "ABCDEFGHIJ", 28, {"train": 900, "validation": 200}
FLAGS = (
    Flag("steps", "of training", type=int, default=560, minimum=1),
    Flag("seeds", "runs of each side", type=int, default=3, minimum=1),
    Flag("width", "of the residual network's first stage", type=int, default=16, minimum=1),
    Flag("side", "of the three (default: all)", repeatable=True, choices=SIDES),
    Flag("set", "a field of the recipe and its value, as in model.dropout=0.1", repeatable=True),
    Flag("json", "a file for all that was measured"),
)


# ---- The sets of pictures.


def write_letters(folder: Path) -> None:
    """Write the set `letters`: grey pictures of 28 x 28 pixels in ten classes."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    random = np.random.default_rng(0)
    fonts = sorted(Path(matplotlib.get_data_path(), "fonts/ttf").glob("*.ttf"))
    fonts = [font for font in fonts if font.name.startswith(("DejaVu", "cmr", "cmb", "cmt", "cms"))]
    fonts = [font for font in fonts if not font.name.startswith(("cmsy", "DejaVuSansDisplay"))]
    for split, count in PER_CLASS.items():
        for letter in LETTERS:
            (folder / split / letter).mkdir(parents=True)
            for number in range(count):
                font = ImageFont.truetype(random.choice(fonts), int(random.integers(14, 30)))
                text = letter if random.random() < 0.6 else letter.lower()
                picture = Image.new("L", (2 * SIZE, 2 * SIZE))
                draw = ImageDraw.Draw(picture)
                draw.text((SIZE, SIZE), text, fill=255, font=font, anchor="mm")
                picture = picture.rotate(random.normal(0, 22), Image.Resampling.BILINEAR)
                left, top = (int(SIZE // 2 + random.integers(-5, 6)) for _ in range(2))
                pixels = np.asarray(picture.crop((left, top, left + SIZE, top + SIZE)), float)
                pixels = pixels * random.uniform(0.15, 1) + random.uniform(0, 120)
                pixels += random.normal(0, random.uniform(10, 60), pixels.shape)
                pixels = np.clip(pixels, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / letter / f"{number}.png")


def write_digits(folder: Path) -> None:
    """Write the set `digits`: grey pictures of 8 x 8 pixels in ten classes."""
    from PIL import Image
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(labels))
    for split, numbers in (("train", chosen[:1437]), ("validation", chosen[1437:])):
        for number in numbers:
            home = folder / split / str(labels[number])
            home.mkdir(parents=True, exist_ok=True)
            pixels = (pictures[number].reshape(8, 8) * 255 / 16).astype(np.uint8)
            Image.fromarray(pixels).save(home / f"{number}.png")


SETS: Mapping[str, Callable[[Path], None]] = {"letters": write_letters, "digits": write_digits}


# ---- The sides. Each returns an accuracy.


def triform_accuracy(fields: Mapping[str, Any]) -> float:
    """Train with `train.py`."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "train.py", f"--config={RECIPE}", f"--workdir={workdir}"]
        done = subprocess.run(
            [*command, *overrides(fields)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UsageError(f"train.py failed: {done.stderr.strip().splitlines()[-1]}")
        lines = Path(workdir, "metrics.jsonl").read_text().splitlines()
    key = "validation/accuracy"
    return [line[key] for line in map(json.loads, lines) if key in line][-1]


def torch_accuracy(fields: Mapping[str, Any], *, own: bool) -> float:
    """Train PyTorch's model with the batches, schedule and steps of the recipe.

    own: whether with PyTorch's own initial values and defaults of the optimizer.
    """
    import jax
    import torch
    from torch.nn import functional

    from benchmarks.peers import loading
    from benchmarks.peers.pictures import ResNet
    from data.batches import training_batches
    from data.evaluation_batches import EvaluationBatches
    from data.preparation import prepare
    from parallel.mesh import make_mesh
    from training.program import build_program
    from training.schedules import build_schedule

    config = load_config(ROOT / RECIPE, {name: str(value) for name, value in fields.items()})
    dataset = prepare(config.data)
    *size, colours = dataset.spec.require("image_shape")
    torch.manual_seed(config.seed)
    row = {"width": config.model.width, "depth": 18, "size": size[0], "colours": colours}
    model = ResNet(row | {"classes": dataset.spec.require("num_classes")})
    if not own:
        program = build_program(config, dataset.spec, make_mesh(config, jax.devices()[:1]))
        leaves = jax.tree.leaves_with_path(program.initialize().params)
        weights = {".".join(str(part.key) for part in path): leaf for path, leaf in leaves}
        loading.load(model, {name: np.asarray(leaf) for name, leaf in weights.items()})
    settings = config.optimizer
    decayed = [one for one in model.parameters() if own or one.ndim > 1]
    others = [one for one in model.parameters() if not own and one.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        betas=(settings.beta1, 0.999 if own else settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
    rate, batches = build_schedule(config), training_batches(config, dataset, rows=None)
    for step in range(config.train.steps):
        batch = batches[step]
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        optimizer.zero_grad(set_to_none=True)
        logits = model(torch.tensor(batch["image"]))
        labels = torch.tensor(batch["label"]).long()
        smoothing = config.task.label_smoothing
        functional.cross_entropy(logits, labels, label_smoothing=smoothing).backward()
        if not own and settings.gradient_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip_norm)
        optimizer.step()
    model.eval()
    right = total = 0.0
    with torch.no_grad():
        for batch in EvaluationBatches(dataset.splits["validation"], 256, rows=None):
            best = model(torch.tensor(batch["image"])).argmax(dim=-1).numpy()
            right += float(((best == batch["label"]) * batch["weights"]).sum())
            total += float(batch["weights"].sum())
    return right / total


def accuracy(side: str, fields: Mapping[str, Any]) -> float:
    """Return the accuracy of a side after its last step."""
    if side == "triform":
        return triform_accuracy(fields)
    return torch_accuracy(fields, own=side == "own")


def main(argv: list[str]) -> None:
    """Train each side on each set with each seed; print a line when a side is finished."""
    folders = [argument for argument in argv if not argument.startswith("-")]
    arguments = parse_command_line([one for one in argv if one.startswith("-")], FLAGS)
    pairs = [one.partition("=") for one in arguments.set or ()]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise UsageError(f"--set={wrong[0]}: give FIELD=VALUE")
    found: dict[str, dict[str, list[float]]] = {}
    print_head(("pictures", "side", "accuracy, %", "of each seed"))
    with tempfile.TemporaryDirectory() as home:
        sets = {Path(folder).name: Path(folder) for folder in folders}
        for name, write in SETS.items():
            if not folders:
                sets[name] = Path(home, name)
                write(sets[name])
        for name, folder in sets.items():
            fields = {
                "data.path": folder,
                "data.global_batch_size": BATCH,
                "model.width": arguments.width,
                "train.steps": arguments.steps,
                "train.evaluate_every_steps": arguments.steps,
                "checkpoint.every_steps": arguments.steps,
                "optimizer.warmup_steps": 100,
            } | {field: value for field, _, value in pairs}
            found[name] = {}
            for side in arguments.side or SIDES:
                each = [
                    accuracy(side, fields | {"seed": seed})
                    for seed in range(1, arguments.seeds + 1)
                ]
                found[name][side] = each
                shown = ", ".join(f"{100 * one:.1f}" for one in each)
                print_row((name, f"`{side}`", f"{100 * mean(each):.1f}", shown))
                if arguments.json is not None:
                    Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run_verb(main)
