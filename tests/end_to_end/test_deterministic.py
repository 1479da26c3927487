"""With `train.deterministic`, two runs are equal bit by bit."""

import numpy as np
import pytest

from benchmarks.gpu_training import arrays_of
from tests.end_to_end.verbs import TINY_TEXT, metrics, run, write_text
from tests.selection import few_of

MEASURED = {"examples_per_second", "step_seconds", "input_wait_fraction", "tokens_per_second"}
RECIPES = {
    "attention": "shakespeare_char",
    "recurrence": "shakespeare_char_lstm",
    "pictures": "digits_cnn",
}
STEPS = 12


def fields_of(kind: str, text: str) -> dict[str, str]:
    fields = {name.replace(".", "__"): value for name, value in TINY_TEXT.items()}
    if kind == "pictures":
        kept = ("train__log", "train__evaluate", "data__global")
        fields = {name: value for name, value in fields.items() if name.startswith(kept)}
    else:
        fields |= {"data__path": text, "model__dropout": "0.1", "precision__products": "bfloat16"}
    return fields | {"train__steps": str(STEPS), "train__deterministic": "true"}


@pytest.mark.parametrize("devices", few_of([1, 8], 1))
@pytest.mark.parametrize("kind", few_of(RECIPES, "attention"))
def test_two_runs_are_equal(kind, devices, tmp_path):
    text = write_text(tmp_path / "input.txt")
    found = []
    for name in ("one", "other"):
        workdir = tmp_path / name
        fields = fields_of(kind, str(text)) | {"data__cache_dir": str(tmp_path / f"{name}_cache")}
        recipe = f"--config=configs/{RECIPES[kind]}.py"
        run("train.py", recipe, f"--workdir={workdir}", devices=devices, **fields)
        lines = metrics(workdir).values()
        numbers = [{k: v for k, v in line.items() if k not in MEASURED} for line in lines]
        found.append((numbers, arrays_of(workdir, STEPS)))
    (numbers, arrays), (other_numbers, others) = found
    assert len(numbers) == STEPS and numbers == other_numbers
    assert {"loss", "gradient_norm", "batch_crc32"} <= numbers[0].keys()
    assert arrays.keys() == others.keys() and len(arrays) > 10
    for name, array in arrays.items():
        assert np.asarray(array).tobytes() == np.asarray(others[name]).tobytes(), name
