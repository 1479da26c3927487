"""Promises of data.packing: nothing of a stream is lost, repeated or mixed up."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data.packing import WindowCodec

SEPARATOR = 0

documents = st.lists(st.lists(st.integers(1, 99), max_size=40), min_size=1, max_size=8)


def pack(codec: WindowCodec, texts: list[list[int]]) -> np.ndarray:
    """The stored windows of documents."""
    pieces = [np.array([SEPARATOR, *text], np.int32) for text in texts]
    return np.concatenate([np.empty(0, codec.dtype), *codec.pack(pieces)])


@given(documents, st.integers(2, 20), st.data())
def test_every_token_but_the_first_is_a_target_once(texts, length, data):
    codec = WindowCodec(length, 100)
    stream = [token for text in texts for token in (SEPARATOR, *text)]
    batch = codec.batch(pack(codec, texts))
    real = batch["weights"] > 0
    assert batch["targets"][real].tolist() == stream[1:]
    assert batch["tokens"][real].tolist() == stream[:-1]
    assert set(np.unique(batch["weights"])) <= {0.0, 1.0}
    assert real[:-1].all()
    assert batch["tokens"].shape == (-(-(len(stream) - 1) // length), length)

    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    pieces = np.split(np.array(stream, np.int32), cuts)  # however the stream comes, it is the same
    again = np.concatenate([np.empty(0, codec.dtype), *codec.pack(pieces)])
    assert again.tobytes() == pack(codec, texts).tobytes()


@given(documents, st.integers(2, 20))
def test_documents_of_a_window_are_numbered_from_one(texts, length):
    codec = WindowCodec(length, 100, separator_id=SEPARATOR)
    stream = [number for number, text in enumerate(texts) for _ in (SEPARATOR, *text)]
    batch = codec.batch(pack(codec, texts))
    for window, (segments, weights) in enumerate(
        zip(batch["segments"], batch["weights"], strict=True)
    ):
        numbers = np.array(stream[window * length :][:length])[: int(weights.sum())]
        assert (segments[weights > 0] == numbers - numbers[0] + 1).all()
        assert (segments[weights == 0] == 0).all()


def test_documents_that_may_see_each_other_have_no_segments():
    codec = WindowCodec(4, 100)
    assert set(codec.batch(pack(codec, [[1, 2, 3]]))) == {"tokens", "targets", "weights"}


def test_arrays_have_the_types_that_tasks_expect():
    for vocabulary_size in (2**16, 2**16 + 1):
        codec = WindowCodec(4, vocabulary_size, separator_id=SEPARATOR)
        top = vocabulary_size - 1
        batch = codec.batch(pack(codec, [[top] * 5]))
        assert {name: str(array.dtype) for name, array in batch.items()} == {
            "tokens": "int32",
            "targets": "int32",
            "weights": "float32",
            "segments": "int32",
        }
        assert batch["targets"][0].tolist() == [top] * 4
        assert all(array.flags.c_contiguous for array in batch.values())
