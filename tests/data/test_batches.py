"""Promises of batches: batch k is a function of (seed, k), whoever reads it, and however."""

import itertools
import os
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from configs.errors import UsageError
from configs.schema.data import TextFiles
from configs.schema.pictures import Digits
from configs.schema.tokenizers import BPE, Bytes
from data import records
from data.batches import Batches
from data.dataset import Dataset
from data.order import permutation
from data.prefetch import stream
from data.preparation import prepare


@pytest.fixture(params=["text", "text kept apart", "pictures"])
def dataset(request, corpus) -> Dataset:
    if request.param == "pictures":
        return prepare(Digits())
    settings = TextFiles(
        path=str(corpus),
        sequence_length=16,
        tokenizer=Bytes(),
        cross_document_attention=request.param == "text",
    )
    return prepare(settings)


def shuffled(dataset: Dataset, **changes) -> Batches:
    given = {"global_batch_size": 12, "seed": 3, "shuffle": True} | changes
    return Batches(dataset.splits["train"], **given)


def assert_equal(one: dict, other: dict) -> None:
    assert sorted(one) == sorted(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert (one[name] == other[name]).all()


def test_batches_follow_the_permutation_of_each_epoch(dataset):
    size = dataset.splits["train"].examples
    stored = Batches(dataset.splits["train"], global_batch_size=size, seed=0, shuffle=False)[0]
    batches = shuffled(dataset, global_batch_size=size // 2 + 1)
    for number in range(4):
        for row in range(0, size // 2 + 1, 7):
            epoch, place = divmod(number * (size // 2 + 1) + row, size)
            record = int(permutation(place, size=size, seed=3, epoch=epoch))
            for name, values in batches[number].items():
                assert (values[row] == stored[name][record]).all()


def test_a_batch_is_the_same_at_any_time_in_any_thread_and_process(dataset):
    batches, numbers = shuffled(dataset), list(range(40))
    first = [batches[number] for number in numbers]
    assert_equal(first[7], shuffled(dataset)[7])
    assert_equal(first[7], pickle.loads(pickle.dumps(batches))[7])
    with ThreadPoolExecutor(8) as threads:
        for one, other in zip(first, threads.map(batches.__getitem__, numbers), strict=True):
            assert_equal(one, other)
    assert any((first[0][name] != shuffled(dataset, seed=4)[0][name]).any() for name in first[0])


def test_hosts_read_their_rows_of_the_same_batch(dataset):
    for shuffle in (True, False):
        split = dataset.splits["validation"]
        options = {"global_batch_size": 8, "seed": 1, "shuffle": shuffle}
        whole = Batches(split, **options)
        hosts = [Batches(split, rows=slice(a, a + 2), **options) for a in range(0, 8, 2)]
        last = -(-split.examples // 8) - 1
        for number in (0, last):
            parts = [host[number] for host in hosts]
            assert_equal(
                whole[number],
                {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
            )


def test_a_split_smaller_than_a_batch_repeats_itself_without_end(dataset):
    size = dataset.splits["train"].examples
    batch = shuffled(dataset, global_batch_size=3 * size)[5]
    assert len(batch["weights"]) == 3 * size
    assert batch["weights"].sum() == 3 * sum_of_weights(dataset, "train", 4)


def sum_of_weights(dataset: Dataset, split: str, batch_size: int) -> float:
    batches = Batches(dataset.splits[split], global_batch_size=batch_size, seed=0, shuffle=False)
    return sum(batches[number]["weights"].sum() for number in range(len(batches)))


def test_every_target_counts_once_whatever_the_batch_size(dataset):
    for name, split in dataset.splits.items():
        targets = split.targets or split.examples
        for batch_size in (1, 7, 64, 10_000):
            if split.examples / batch_size < 300:
                assert sum_of_weights(dataset, name, batch_size) == targets


def test_there_is_no_batch_past_the_end_and_no_end_of_shuffled_ones(dataset):
    stored = Batches(dataset.splits["train"], global_batch_size=12, seed=0, shuffle=False)
    for number in (-1, len(stored)):
        with pytest.raises(IndexError):
            stored[number]
    with pytest.raises(IndexError):
        shuffled(dataset)[-1]
    with pytest.raises(TypeError, match="no end"):
        len(shuffled(dataset))
    assert len(shuffled(dataset)[10**9]["weights"]) == 12


def test_records_read_one_by_one_are_those_kept_in_memory(dataset):
    split = dataset.splits["train"]
    file = (split.path, split.codec.dtype, split.examples)
    kept, each = records.RecordReader(*file), records.RecordReader(*file, kept_bytes=0)
    with ThreadPoolExecutor(8) as threads:
        choices = [np.arange(n, n + 9) * 7 % split.examples for n in range(50)]
        for one, other in zip(
            map(kept.read, choices), threads.map(each.read, choices), strict=True
        ):
            assert one.tobytes() == other.tobytes()
    assert len(each.read([])) == len(kept.read([])) == 0


@pytest.mark.parametrize("kept_bytes", [0, records.KEPT_BYTES])
def test_a_file_of_records_that_is_missing_or_another_one_is_named(dataset, tmp_path, kept_bytes):
    split = dataset.splits["train"]
    rest = (split.codec.dtype, split.examples, kept_bytes)
    missing, other = tmp_path / "missing.array_record", tmp_path / "other.array_record"
    with records.RecordWriter(other) as writer:
        writer.write(records.RecordReader(split.path, *rest).read([0, 1]))
    for path, what in (
        (missing, "it is missing"),
        (other, f"it has 2 of {split.examples:,} records"),
    ):
        with pytest.raises(UsageError, match=f"{path} is damaged: {what}"):
            records.RecordReader(path, *rest).read([0])


@pytest.mark.parametrize("kept_bytes", [0, records.KEPT_BYTES])
def test_a_flipped_bit_is_named_with_the_record_or_changes_nothing(dataset, tmp_path, kept_bytes):
    split = dataset.splits["train"]
    rest = (split.codec.dtype, split.examples, kept_bytes)
    every = np.arange(split.examples)
    whole, expected = split.path.read_bytes(), records.RecordReader(split.path, *rest).read(every)
    path, chance, named = tmp_path / "flipped.array_record", np.random.default_rng(0), 0
    for _ in range(40):
        flipped = bytearray(whole)
        flipped[chance.integers(len(whole))] ^= 1 << int(chance.integers(8))
        path.write_bytes(flipped)
        try:
            found = records.RecordReader(path, *rest).read(every)
        except UsageError as error:
            told = rf"is damaged: record \d+ of {split.examples:,}: "
            named += re.search(told, str(error)) is not None
        else:
            assert found.tobytes() == expected.tobytes()
    assert named > 5


def test_batches_of_kept_records_are_those_of_records_read_one_by_one(dataset):
    kept, each = shuffled(dataset), shuffled(dataset, kept_bytes=0)
    assert kept.in_memory and not each.in_memory
    for number in (0, 1, 341, 342, 10**6):  # 342 batches of 12 are planned together
        assert_equal(kept[number], each[number])


def test_nobody_can_change_what_others_get(dataset):
    batches = shuffled(dataset)
    for array in batches[0].values():
        array[:] = 0
    assert_equal(batches[0], shuffled(dataset)[0])


def test_the_stream_is_the_batches_in_order(dataset):
    batches = shuffled(dataset)
    for start, stop in ((0, 11), (4, 23)):
        check_stream(batches, start, stop, 0)
    assert list(stream(batches, 5, 5, 0)) == []


def test_processes_stream_the_same_batches(corpus):
    settings = TextFiles(path=str(corpus), sequence_length=16, tokenizer=Bytes())
    check_stream(shuffled(prepare(settings)), 4, 23, 2)


def test_processes_leave_nothing_behind(tmp_path):
    """Not even shared memory, which Python would tell at its end."""
    script = tmp_path / "reads.py"
    script.write_text(
        "from data.batches import Batches\n"
        "from data.prefetch import stream\n"
        "from data.preparation import prepare\n"
        "from configs.schema.pictures import Digits\n"
        "def main():\n"
        "    split = prepare(Digits()).splits['train']\n"
        "    batches = Batches(split, global_batch_size=64, seed=0, shuffle=True)\n"
        "    batches = stream(batches, 0, 12, 2)\n"
        "    print(sum(len(next(batches)['label']) for _ in range(12)))\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(script)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout == "768\n"
    assert "leaked" not in ended.stderr


def check_stream(batches: Batches, start: int, stop: int, workers: int) -> None:
    received = list(stream(batches, start, stop, workers))
    assert len(received) == stop - start
    for number, batch in enumerate(received, start):
        assert_equal(batch, batches[number])
        assert all(type(array) is np.ndarray for array in batch.values())


def test_a_stream_may_be_left_before_its_end(dataset):
    batches = stream(shuffled(dataset), 0, 10**9, 0)
    assert len(list(itertools.islice(batches, 3))) == 3
    del batches


def test_damage_reaches_whoever_reads_the_stream(corpus, tmp_path):
    settings = TextFiles(path=str(corpus), cache_dir=str(tmp_path / "cache"), sequence_length=16,
                         tokenizer=BPE(vocabulary_size=300))  # fmt: skip
    split = prepare(settings).splits["train"]
    content = bytearray(split.path.read_bytes())
    content[len(content) // 4] ^= 1
    split.path.write_bytes(content)
    batches = Batches(split, global_batch_size=4, seed=0, shuffle=True)
    with pytest.raises(UsageError, match=r"train\.array_record is damaged"):
        next(stream(batches, 0, 5, 0))


def test_preparing_and_reading_import_nothing_heavy():
    code = (
        "import sys, data.batches, data.preparation, data.show, data.cache, data.prefetch\n"
        "import data.codecs.tokenizers\n"
        "heavy = {'jax', 'grain', 'tensorflow_datasets', 'tensorflow', 'sklearn', 'scipy'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment) == b"\n"
