"""A run that goes on as another one is refused, with both values; nothing of it is touched."""

import re
from pathlib import Path

import pytest

from tests.end_to_end.verbs import write_text
from tests.selection import few_of

OTHERS = {
    "width": ("model.width", "16", "32"),
    "optimizer": ("optimizer.name", "muon", "adamw"),
    "type": ("precision.parameter_dtype", "float32", "bfloat16"),
    "seed": ("seed", "0", "1"),
    "batch": ("data.global_batch_size", "4", "8"),
    "length": ("data.sequence_length", "16", "32"),
    "tokenizer": ("data.tokenizer.kind", "characters", "bytes"),
    "source": ("data.source", "text_files", "records"),
}
"""What is another one: the field, its value in the run, and the other value."""


def contents(workdir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", few_of(OTHERS, "width", "batch"))
def test_another_value_is_refused_with_both(stopped, what):
    field, was, now = OTHERS[what]
    before = contents(stopped.workdir)
    last = stopped.run(expect=2, **{field: now}).splitlines()[-1]
    assert f"{stopped.workdir} holds a run of another configuration: " in last
    assert f"{field} was {was}, is {now}" in last
    assert contents(stopped.workdir) == before


@pytest.mark.full
def test_other_data_is_refused_with_both_hashes_and_sizes(stopped, tmp_path):
    other = write_text(tmp_path / "other.txt", lines=440)
    before = contents(stopped.workdir)
    last = stopped.run(expect=2, data__path=str(other)).splitlines()[-1]
    found = re.search(
        r"the data changed \(its files, their order or their splits: their hash was (\w{12}), is "
        r"(\w{12}); train had ([\d,]+) windows, has ([\d,]+)\) since checkpoint 8 of ",
        last,
    )
    assert found and found[1] != found[2] and found[3] != found[4]
    assert contents(stopped.workdir) == before
    stopped.resumes_twice()


@pytest.mark.full
def test_a_layer_of_another_name_is_refused_with_both(stopped):
    before = contents(stopped.workdir)
    events = before.pop(stopped.workdir / "events.jsonl")
    last = stopped.run("start=rename_layer", expect=2).splitlines()[-1]
    assert f"checkpoint {stopped.workdir / 'checkpoints' / '8'} can't be resumed: " in last
    assert re.search(
        r"params\.trunk\.([\w.]+) is not in it \((float32\[[\d, ]+\]) in the model; the nearest is "
        r"params\.backbone\.\1, \2\)",
        last,
    )
    after = contents(stopped.workdir)
    assert after.pop(stopped.workdir / "events.jsonl").startswith(events)  # It was begun.
    assert after == before
    stopped.resumes_twice()
