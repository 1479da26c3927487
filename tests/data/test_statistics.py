"""What is found out about the data of a run."""

import numpy as np
import pytest

from configs import base
from configs.data_spec import DataSpec
from data.codecs.pictures import encode_picture
from data.codecs.sound import LogMel
from data.conversations import ConversationCodec
from data.dataset import Dataset, Split
from data.labelled_text import LabelledTextCodec
from data.packing import WindowCodec
from data.pictures import ImageFileCodec, PixelCodec
from data.records import RecordWriter, write_names
from data.sound_batches import SoundCodec
from data.statistics import data_statistics, entropy, sample, share_copied

RANDOM = np.random.default_rng(0)
NOTHING = base.image_classification().data.augmentation
PIXELS = PixelCodec((8, 8, 1), NOTHING)
FILES = ImageFileCodec((8, 8, 1), 1.0, NOTHING)


@pytest.fixture
def split(tmp_path):
    """Writes records, and gives the split of them."""

    def write(name, codec, records, **numbers) -> Split:
        path = tmp_path / f"{name}.array_record"
        with RecordWriter(path) as writer:
            writer.write(records)
        return Split(name, path, codec, len(records), **numbers)

    return write


def pictures(count: int, labels=None):
    """Records of random pixels."""
    found = np.zeros(count, PIXELS.dtype)
    found["image"] = RANDOM.integers(0, 256, (count, 8, 8, 1))
    found["label"] = np.arange(count) % 2 if labels is None else labels
    return found


def as_files(records):
    """The same pictures, as files after their labels."""
    found = np.empty(len(records), object)
    found[:] = [int(r["label"]).to_bytes(4, "little", signed=True) + encode_picture(r["image"])
                for r in records]  # fmt: skip
    return found


def windows(tokens, codec: WindowCodec):
    """The records of a stream of tokens."""
    return np.concatenate([*codec.pack([np.asarray(tokens, np.int32)])])


def test_classes_are_counted_and_what_knowing_their_frequencies_costs(split):
    labels = [0] * 30 + [1] * 10 + [-1] * 5  # Five are broken.
    found = sample(split("train", PIXELS, pictures(45, labels)), ("cat", "dog", "owl"))
    assert found.classes == {"cat": 30, "dog": 10, "owl": 0}
    assert found.prior_loss == pytest.approx(0.562335, abs=1e-6)
    assert (found.commonest_target, found.padding) == (0.75, None)
    assert found.commonest_input == pytest.approx(1 / 40)


def test_inputs_that_are_all_alike_are_seen(split):
    records = pictures(20)
    records["image"][5:] = records["image"][5]
    assert sample(split("train", PIXELS, records), ("a", "b")).commonest_input == 0.75


def test_the_commonest_input_is_named_where_examples_have_names(split):
    records = pictures(12)
    records["image"][2:] = records["image"][2]
    of = split("train", PIXELS, records)
    assert sample(of, ("a", "b")).commonest_name is None
    write_names(of.path, [f"{number}.png" for number in range(12)])
    found = sample(of, ("a", "b"))
    assert found.commonest_name in {f"{number}.png" for number in range(2, 12)}
    assert (found.inputs, found.commonest_input) == (12, pytest.approx(10 / 12))


@pytest.mark.parametrize("normalization", ["none", "bands", "recording"])
def test_silence_is_one_and_the_same_input_however_long_and_padded_sound_is_not(
    split, normalization
):
    settings = base.sound_classification(source="sound_labels", architecture="conformer").data
    settings.normalization = normalization
    codec = SoundCodec(LogMel.of(settings), settings.augmentation, False, 400, None)
    lengths = RANDOM.integers(8_000, 32_000, 20)
    silence = [codec.encode(np.zeros(length, np.float32), [0]) for length in lengths]
    words = [np.append(RANDOM.normal(0, 0.1, 2000), np.zeros(n)).astype("f4") for n in lengths]
    of = split("silence", codec, np.array(silence, object))
    assert sample(of, ("a", "b")).commonest_input == 1
    of = split("words", codec, np.array([codec.encode(word, [1]) for word in words], object))
    assert sample(of, ("a", "b")).commonest_input == 1 / 20


def test_each_text_of_a_packed_window_is_an_input(split):
    codec = ConversationCodec(8, 100)
    found = np.zeros(6, codec.dtype)
    found["tokens"], found["segments"] = [5, 6, 7, 8] * 2, [1] * 4 + [2] * 4
    found["learnt"] = 1
    packed = sample(split("train", codec, found), None)
    assert (packed.inputs, packed.commonest_input) == (12, 1)


def test_what_was_not_drawn_counts_for_the_prior():
    counts = np.unique(RANDOM.integers(0, 1000, 1024), return_counts=True)[1].astype(float)
    assert entropy(counts) == pytest.approx(np.log(1000), abs=0.15)
    assert entropy(np.ones(3)) < 3 and entropy(np.array([1.0])) == 0


def test_a_sample_has_so_many_bytes_at_most(split, monkeypatch):
    of = split("train", FILES, as_files(pictures(400)))
    monkeypatch.setattr("data.statistics.SAMPLED_BYTES", of.path.stat().st_size // 4)
    assert sample(of, ("a", "b")).inputs == 100


def test_padding_is_counted_where_preparation_did_not(split):
    codec = LabelledTextCodec(10, 50)
    texts = [RANDOM.integers(1, 50, count) for count in (2, 4, 10)]
    train = split("train", codec, codec.encode([(text, 0) for text in texts]))
    statistics = data_statistics(Dataset("", {"train": train}, DataSpec(classes=("a",))))
    assert statistics["padding"] == pytest.approx(1 - 16 / 30)
    assert (statistics["examples"], statistics["inputs"], statistics["copied"]) == (3, 3, {})
    told = split("told", codec, codec.encode([(texts[0], 0)]), padding=0.125)
    assert data_statistics(Dataset("", {"train": told}, DataSpec()))["padding"] == 0.125


def test_copies_of_pictures_are_found_also_where_one_split_is_kept_as_files(split):
    train, others = pictures(200), pictures(30)
    validation = split("validation", PIXELS, np.concatenate([train[50:60], others]))
    for name, codec, records in (("a", PIXELS, train), ("b", FILES, as_files(train))):
        assert share_copied(split(name, codec, records), validation) == 0.25


def test_of_large_splits_a_part_tells_the_share(split, monkeypatch):
    train = pictures(4000)
    splits = split("train", PIXELS, train), split("validation", PIXELS, train[:1000])
    monkeypatch.setattr("data.statistics.COMPARED_BYTES", splits[0].path.stat().st_size // 4)
    assert share_copied(*splits) == pytest.approx(1, abs=0.2)
    other = split("other", PIXELS, pictures(1000))
    assert share_copied(splits[0], other) == 0


def test_what_recurs_within_a_part_of_a_large_split_is_no_copy(split, monkeypatch):
    train, validation = pictures(4000), pictures(400)
    for number in range(20):  # Licences, say, each of them in one of 200.
        train["image"][number::200], train["label"][number::200] = number, 0
        validation["image"][number], validation["label"][number] = number, 0
    splits = split("train", PIXELS, train), split("validation", PIXELS, validation)
    assert share_copied(*splits) == 20 / 400
    monkeypatch.setattr("data.statistics.COMPARED", 2000)
    assert share_copied(*splits) == 0


def test_short_windows_are_not_compared(split):
    play = "".join(RANDOM.choice(list("abcd"), 30_000))
    tokens = np.frombuffer(play.encode(), np.uint8)
    for length, told in ((8, None), (31, None), (32, 0.0)):
        codec = WindowCodec(length, 256)
        train = split(f"train {length}", codec, windows(tokens[:25_000], codec))
        validation = split(f"validation {length}", codec, windows(tokens[25_000:], codec))
        share = share_copied(train, validation)
        assert share is None if told is None else share < 0.02


def test_all_pairs_of_splits_are_compared(split):
    train, validation, others = pictures(100), pictures(50), pictures(50)
    test = np.concatenate([train[:10], validation[:30], others[:10]])
    named = {"train": train, "validation": validation, "test": test}
    splits = {name: split(name, PIXELS, records) for name, records in named.items()}
    assert data_statistics(Dataset("", splits, DataSpec()))["copied"] == {
        ("train", "validation"): 0,
        ("train", "test"): 0.2,
        ("validation", "test"): 0.6,
    }


def test_copies_of_text_are_found_wherever_windows_are_cut(split):
    codec = WindowCodec(48, 256)
    text, other = RANDOM.integers(0, 256, (2, 20_000))
    train = split("train", codec, windows(text, codec))
    copied = split("copied", codec, windows(text[1007:9000], codec))
    half = split("half", codec, windows(np.append(text[1007:6007], other[:5000]), codec))
    assert share_copied(train, copied) > 0.3
    assert share_copied(train, half) == pytest.approx(share_copied(train, copied) / 2, rel=0.2)
    assert share_copied(train, split("other", codec, windows(other, codec))) == 0


def test_copies_of_conversations_are_found_in_whatever_window_they_are_packed(split):
    codec = ConversationCodec(8, 100)
    runs = RANDOM.integers(1, 100, (12, 4))

    def packed(*pairs):
        found = np.zeros(len(pairs), codec.dtype)
        for row, pair in zip(found, pairs, strict=True):
            row["tokens"], row["segments"] = np.concatenate(runs[list(pair)]), [1] * 4 + [2] * 4
        return found

    train = split("train", codec, packed((0, 1), (2, 3), (4, 5)))
    assert share_copied(train, split("validation", codec, packed((5, 6), (7, 0)))) == 0.5
