"""Promises of augmentation: (seed, example) decide it, and evaluation has none."""

import numpy as np
import pytest

from configs.schema.pictures import Augmentation, Digits, ImageFolder
from data.augmentation import augment, generator, random_box
from data.batches import Batches
from data.dataset import Dataset
from data.order import permutation
from data.prefetch import stream
from data.preparation import prepare
from tests.data.test_pictures import folder, picture  # noqa: F401

EVERYTHING = Augmentation(
    crop="padded",
    flip_probability=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    randaugment_layers=2,
    erasing_probability=0.3,
)


@pytest.fixture(params=["pixels", "files"])
def dataset(request, folder) -> Dataset:  # noqa: F811
    if request.param == "pixels":
        return prepare(Digits(augmentation=EVERYTHING))
    crops = EVERYTHING.model_copy(update={"crop": "random_resized"})
    return prepare(ImageFolder(path=str(folder), image_size=32, augmentation=crops))


def batches(dataset: Dataset, **changes) -> Batches:
    given = {"global_batch_size": 8, "seed": 5, "shuffle": True} | changes
    return Batches(dataset.splits["train"], **given)


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)


def test_from_the_middle_batches_are_the_same(dataset):
    every = list(stream(batches(dataset), 0, 12, 0))
    for number, batch in enumerate(stream(batches(dataset), 5, 12, 0), 5):
        assert_equal(batch, every[number])


@pytest.mark.full
@pytest.mark.parametrize("dataset", ["files"], indirect=True)
def test_four_workers_give_the_same_batches(dataset):
    for number, batch in enumerate(stream(batches(dataset), 3, 12, 4), 3):
        assert_equal(batch, batches(dataset)[number])


def test_two_hosts_get_the_rows_of_one(dataset):
    hosts = [batches(dataset, rows=slice(start, start + 4)) for start in (0, 4)]
    for number in (0, 9):
        parts = [host[number] for host in hosts]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert_equal(joined, batches(dataset)[number])


def test_an_example_is_the_same_in_batches_of_any_size(dataset):
    small, large = batches(dataset), batches(dataset, global_batch_size=16)
    parts = [small[number] for number in (2, 3)]
    assert_equal(
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, large[1]
    )


def test_a_picture_changes_from_epoch_to_epoch_and_from_seed_to_seed(dataset):
    size = dataset.splits["train"].examples
    seen = []
    for epoch in range(3):
        order = permutation(np.arange(size), size=size, seed=5, epoch=epoch)
        g = epoch * size + int(np.flatnonzero(order == 3)[0])
        seen.append(batches(dataset)[g // 8]["image"][g % 8].tobytes())
    assert len({*seen}) == 3
    one = batches(dataset, global_batch_size=1, seed=6)
    assert len({one[g]["image"].tobytes() for g in range(20)}) > 15


def test_evaluation_never_augments(dataset):
    stored = batches(dataset, shuffle=False)
    off = Augmentation()
    assert dataset.splits["train"].codec.augmentation != off
    order = permutation(0, size=dataset.splits["train"].examples, seed=5, epoch=0)
    plain = stored[int(order) // 8]["image"][int(order) % 8]
    assert (batches(dataset)[0]["image"][0] != plain).any()
    assert_equal(stored[1], batches(dataset, shuffle=False, seed=99)[1])


PIXELS = np.asarray(picture(2, 32, 32))


def changed(seed: int = 0, pixels=PIXELS, **settings) -> np.ndarray:
    return augment(pixels, generator(seed, 1), Augmentation(**settings))


def test_nothing_is_changed_unless_asked_for():
    assert (changed() == PIXELS).all()


def test_the_flip_swaps_left_and_right():
    assert (changed(flip_probability=1.0) == PIXELS[:, ::-1]).all()
    flips = [(changed(n, flip_probability=0.25) != PIXELS).any() for n in range(400)]
    assert 60 < sum(flips) < 140


def test_the_padded_crop_moves_by_at_most_the_padding():
    padded = np.pad(PIXELS, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[y : y + 32, x : x + 32].tobytes() for y in range(5) for x in range(5)}
    found = {changed(n, crop="padded", crop_padding=2).tobytes() for n in range(400)}
    assert found == windows


def test_erasing_overwrites_a_rectangle():
    for number in range(50):
        rows, columns = np.nonzero((changed(number, erasing_probability=1.0) != PIXELS).any(-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert len(rows) > 0.9 * height * width
        assert 0.01 < height * width / 32**2 < 0.36
    kept = PIXELS.copy()
    changed(erasing_probability=1.0)
    assert (kept == PIXELS).all()


def test_jitter_is_as_strong_as_asked_for():
    factors = [changed(n, brightness=0.3).mean() / PIXELS.mean() for n in range(200)]
    assert 0.69 < min(factors) < 0.75
    assert 1.2 < max(factors) < 1.31
    grey = changed(3, saturation=1.0, pixels=np.full((4, 4, 3), 80, np.uint8))
    assert (grey == 80).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_has_many_operations_that_magnitude_strengthens(channels):
    pixels = PIXELS[..., :channels]
    distances = {}
    for magnitude in (0.0, 5.0, 10.0):
        options = {"randaugment_layers": 1, "randaugment_magnitude": magnitude}
        found = [changed(n, pixels, **options) for n in range(300)]
        assert {one.shape for one in found} == {pixels.shape}
        assert len({one.tobytes() for one in found}) >= (3 if magnitude == 0 else 15)
        distances[magnitude] = np.mean([np.abs(one.astype(int) - pixels).mean() for one in found])
    assert distances[0.0] < distances[5.0] < distances[10.0]


def test_random_resized_crops_have_the_areas_and_aspects_asked_for():
    settings = Augmentation(crop="random_resized", crop_smallest_area=0.2, crop_largest_aspect=2.0)
    areas, aspects = [], []
    for number in range(500):
        left, top, right, bottom = random_box((300, 200), (32, 32), generator(0, number), settings)
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 200
        areas.append((right - left) * (bottom - top) / 60_000)
        aspects.append((right - left) / (bottom - top))
    assert 0.2 <= min(areas) < 0.22 and max(areas) > 0.95
    assert 0.5 <= min(aspects) < 0.55 and 1.9 < max(aspects) <= 2.0
    assert random_box((9000, 2), (32, 32), generator(0, 0), settings) == (4499, 0, 4501, 2)
