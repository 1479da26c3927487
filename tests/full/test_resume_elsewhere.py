"""A run that goes on with other numbers of devices has the same batches and losses."""

import signal

import numpy as np

from tests.end_to_end.test_resume import RECIPES, settings, stop_at
from tests.end_to_end.verbs import metrics, run, write_text


def test_the_same_batches_and_losses_on_eight_then_four_devices_then_one(tmp_path):
    text = write_text(tmp_path / "input.txt")
    recipe = f"--config=configs/{RECIPES['attention']}.py"
    fields = settings(text)
    run("train.py", recipe, f"--workdir={tmp_path / 'whole'}", **fields)
    moved = tmp_path / "moved"
    eight = {"mesh__data": "2", "mesh__fsdp": "2", "mesh__tensor": "2"}
    four = {"mesh__data": "1", "mesh__fsdp": "4"}
    slow = {"recipe": RECIPES["attention"], "checkpoint__every_steps": "5"}
    status, errors = stop_at(8, signal.SIGTERM, moved, devices=8, **settings(text, **eight, **slow))
    assert status == 75, errors
    status, errors = stop_at(22, signal.SIGINT, moved, devices=4, **settings(text, **four, **slow))
    assert status == 75, errors
    run("train.py", recipe, f"--workdir={moved}", **fields)
    whole, again = metrics(tmp_path / "whole"), metrics(moved)
    assert [m["batch_crc32"] for m in whole.values()] == [m["batch_crc32"] for m in again.values()]
    np.testing.assert_allclose(
        [m["loss"] for m in again.values()], [m["loss"] for m in whole.values()], rtol=1e-6
    )
