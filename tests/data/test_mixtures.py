"""Promises of mixtures: shares are exact, and any batch is a function of its number."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.schema.data import Cleaning, Mixture, TextFiles
from configs.schema.tokenizers import BPE, Bytes, Characters
from data.batches import Batches
from data.mixing import PERIOD, ROUND, millionths, schedule
from data.order import permutation
from data.prefetch import stream
from data.preparation import prepare
from data.show import data_table
from tests.data.test_records import write

TEXT = "tests/configs/text_recipe.py"


def counts(sources: np.ndarray, number: int, size: int) -> np.ndarray:
    """Examples of a source in all stretches of `size`."""
    sums = np.concatenate([[0], np.cumsum(sources == number)])
    return sums[size:] - sums[:-size]


@given(st.lists(st.floats(0.001, 1000.0), min_size=3, max_size=3))
@example([1, 1, 1])
@example([0.7, 0.2, 0.1])
@example([0.333, 0.333, 0.334])
@example([999999, 1, 1])
@example([0.3337, 0.3337, 0.3326])
@example([0.49995, 0.49995, 0.0001])
@settings(max_examples=25)
def test_any_thousand_examples_hold_each_share_to_within_one(weights):
    plan = schedule(tuple(weights))
    twice = np.concatenate([plan.sources, plan.sources[: 2 * ROUND]])  # over the period's end too
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        found = counts(twice, number, ROUND)
        assert np.abs(found - ROUND * share).max() <= 1
        assert abs(counts(plan.sources, number, PERIOD)[0] - PERIOD * share) < 1


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=12))
@settings(max_examples=15)
def test_so_do_those_of_any_number_of_sources(weights):
    weights = [weight for weight in weights if weight / sum(weights) > 1e-6]
    plan, shares = schedule(tuple(weights)), millionths(weights)
    assert shares.sum() == PERIOD
    twice = np.concatenate([plan.sources, plan.sources[: 2 * ROUND]])
    for number, share in enumerate(shares):
        found = counts(twice, number, ROUND)
        assert found.min() >= share // ROUND and found.max() <= -(-share // ROUND)


def test_sources_take_turns_also_among_few_examples():
    plan = schedule((7.0, 2.0, 1.0))
    for number, share in enumerate((0.7, 0.2, 0.1)):
        assert np.abs(counts(plan.sources, number, 20) - 20 * share).max() <= 2


def test_the_place_in_a_source_is_what_came_of_it_before():
    plan = schedule((3.0, 1.5, 0.25))
    for start in (0, 999, PERIOD - 5, 7 * PERIOD + 123):
        sources, before = plan.pick(np.arange(start, start + 50))
        earlier, places = plan.pick(np.arange(max(0, start - 5000), start))
        for number in range(3):
            mine = np.concatenate([places[earlier == number], before[sources == number]])
            assert (np.diff(mine) == 1).all()
    assert plan.pick(np.arange(PERIOD))[1].max() < PERIOD


@pytest.fixture
def parts(tmp_path) -> tuple[str, ...]:
    """Three sources: files with a test part, JSON lines, Parquet."""
    for split, count in (("train", 40), ("validation", 6), ("test", 5)):
        for number in range(count):
            path = tmp_path / "notes" / split / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"A note for {split}, number {number}.\n" * 3)
    write(tmp_path / "lines.jsonl", [f"line {number} of many lines" for number in range(90)])
    write(tmp_path / "table.parquet", [f"ROW {number} OF A TABLE" for number in range(50)])
    return (f"text_files:{tmp_path}/notes", f"records:{tmp_path}/lines.jsonl",
            f"records:{tmp_path}/table.parquet")  # fmt: skip


def mixture(parts, **changes) -> Mixture:
    options = {"weights": (5.0, 3.0, 2.0), "sequence_length": 16, "tokenizer": Bytes()}
    return Mixture(parts=parts, **options | changes)


def test_batches_draw_from_each_source_in_epochs_of_its_own(parts):
    dataset = prepare(mixture(parts))
    split = dataset.splits["train"]
    batches = Batches(split, global_batch_size=30, seed=3, shuffle=True)
    stored = [
        Batches(part, global_batch_size=part.examples, seed=0, shuffle=False)[0]["tokens"]
        for part in split.parts
    ]
    seen = [0, 0, 0]
    names = [part.name for part in split.parts]
    assert tuple(names) == parts
    for number in range(30):
        batch, origins = batches[number], batches.origins(number)
        for row, name in enumerate(origins):
            source = names.index(name)
            epoch, place = divmod(seen[source], split.parts[source].examples)
            record = permutation(place, size=split.parts[source].examples,
                                 seed=3 + (source << 32), epoch=epoch)  # fmt: skip
            assert (batch["tokens"][row] == stored[source][record]).all()
            seen[source] += 1
    assert seen == [450, 270, 180]


def test_a_batch_is_the_same_at_any_time_on_any_host(parts):
    split = prepare(mixture(parts)).splits["train"]
    options = {"global_batch_size": 12, "seed": 1, "shuffle": True}
    whole = Batches(split, **options)
    hosts = [Batches(split, rows=slice(a, a + 3), **options) for a in range(0, 12, 3)]
    for number in (0, 7, 10**7):
        joined = np.concatenate([host[number]["tokens"] for host in hosts])
        assert (joined == whole[number]["tokens"]).all()
        assert (pickle.loads(pickle.dumps(whole))[number]["tokens"] == joined).all()
    for number, batch in enumerate(stream(whole, 5, 9, workers=0), 5):
        assert (batch["tokens"] == whole[number]["tokens"]).all()


def test_evaluation_takes_every_target_of_every_source_once(parts):
    dataset = prepare(mixture(parts, packing="best_fit", cleaning=Cleaning(duplicates="exact")))
    assert [part.name for part in dataset.splits["test"].parts] == [parts[0]]
    for split in dataset.splits.values():
        batches = Batches(split, global_batch_size=7, seed=0, shuffle=False)
        total = sum(batches[number]["weights"].sum() for number in range(len(batches)))
        assert total == split.targets == sum(part.targets for part in split.parts)
        assert split.bytes == sum(part.bytes for part in split.parts)
    validation = dataset.splits["validation"]
    assert 0 < validation.padding < 1 and validation.gzip_bits_per_byte > 0
    table = {name: cells for name, *cells in data_table(dataset)}
    assert table[f"of {parts[1]}"][-1] == ""


@pytest.mark.parametrize("tokenizer", [Characters(), BPE(vocabulary_size=300)], ids=str)
def test_one_tokenizer_learns_from_all_sources(parts, tokenizer):
    dataset = prepare(mixture(parts, tokenizer=tokenizer))
    for text in ("A note for", "line 7 of many", "ROW 3 OF A TABLE"):
        assert dataset.tokenizer.decode(dataset.tokenizer.encode(text)) == text


def test_what_stands_in_one_source_held_out_is_lost_by_the_others(tmp_path):
    files = {"a/train": ["one", "two"], "a/validation": ["v"], "a/test": ["three"],
             "b/train": ["three", "four"], "b/validation": ["one"]}  # fmt: skip
    for name, texts in files.items():
        write(tmp_path / f"{name}.jsonl", texts)
    settings = mixture((f"records:{tmp_path}/a", f"records:{tmp_path}/b"), weights=(),
                       cleaning=Cleaning(duplicates="exact"))  # fmt: skip
    dataset = prepare(settings)
    assert dataset.cleaning["train"]["documents"] == [4, 2]
    assert [part.bytes for part in dataset.splits["train"].parts] == [3, 4]


def test_moved_sources_and_other_weights_are_the_same_preparation(parts, tmp_path):
    told: list[str] = []
    first = prepare(mixture(parts))
    (tmp_path / "notes").rename(tmp_path / "moved")
    moved = mixture((parts[0].replace("notes", "moved"), *parts[1:]), weights=(1.0, 1.0, 1.0))
    again = prepare(moved, progress=lambda stage, *_: told.append(stage))
    assert again.fingerprint == first.fingerprint
    assert not told
    assert again.splits["train"].parts[0].name.endswith("moved")
    swapped = prepare(mixture((*parts[1:], moved.parts[0])))
    assert swapped.fingerprint != first.fingerprint


def test_a_mixture_of_one_is_its_source(corpus):
    options = {"tokenizer": Bytes(), "sequence_length": 16}
    alone = prepare(TextFiles(path=str(corpus), **options)).splits["train"]
    mixed = prepare(Mixture(parts=(f"text_files:{corpus}",), **options)).splits["train"]
    for number in range(3):
        one, other = (
            Batches(split, global_batch_size=9, seed=4, shuffle=True)[number]["tokens"]
            for split in (alone, mixed)
        )
        assert (one == other).all()


@pytest.mark.parametrize(
    ("parts", "weights", "told"),
    [
        ("text_file:a", "", "'text_file' is no source of text: did you mean text_files?"),
        ("digits", "", "'digits' is no source of text: there are python_stdlib, text_files"),
        ("records", "", "records needs a path: records:PATH"),
        ("python_stdlib:3", "", "python_stdlib takes no path"),
        ("python_stdlib,python_stdlib", "", "python_stdlib stands there twice"),
        ("python_stdlib", "1,2", "data.weights has 2 numbers, but data.parts 1"),
        ("python_stdlib,text_files:.", "1,1e7", "less than a millionth"),
        ("python_stdlib", "0", "--config.data.weights must be"),
        ("python_stdlib,text_files:gone", "", "data.parts: gone is not there"),
        ("none", "", "data.parts is not given: say what is mixed"),
    ],
)
def test_a_wrong_mixture_is_refused_in_a_line(parts, weights, told):
    given = {"data.source": "mixture", "data.parts": parts}
    with pytest.raises(UsageError) as raised:
        load_config(TEXT, given | ({"data.weights": weights} if weights else {}))
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_fields_that_no_source_has_are_told(tmp_path):
    given = {"data.source": "mixture", "data.parts": f"text_files:{Path(__file__)}"}
    assert load_config(TEXT, given | {"data.invalid_utf8": "replace"})
    with pytest.raises(UsageError, match=r"no source of data\.parts has it"):
        load_config(TEXT, given | {"data.text_field": "body"})


def test_the_shares_in_use_are_those_asked_for(parts):
    split = prepare(mixture(parts)).splits["train"]
    batches = Batches(split, global_batch_size=100, seed=0, shuffle=True)
    origins = list(itertools.chain.from_iterable(map(batches.origins, range(3, 13))))
    assert [origins.count(name) for name in parts] == [500, 300, 200]
