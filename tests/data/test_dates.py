"""Promises of the dates: each is right, thousands of styles, and no day in two splits."""

from datetime import date, timedelta
from random import Random

import pytest

from configs.schema.pairs import Dates
from configs.schema.tokenizers import Characters
from data.preparation import prepare
from data.sources import dates
from data.sources.dates import FIRST, LAST, Style, draw_style
from data.sources.registry import open_source

DAY = date(1987, 3, 25)


@pytest.fixture(scope="module")
def pairs():
    """Sources and targets of each split."""
    splits = open_source(Dates()).splits
    return {split: [(one["source"], one["target"]) for one in of] for split, of in splits.items()}


def test_no_day_is_in_two_pairs(pairs):
    days = [target for of in pairs.values() for _, target in of]
    assert len(set(days)) == len(days) == dates.TEST + dates.OTHERS
    assert len(pairs["test"]) == dates.TEST
    assert 0.08 < len(pairs["validation"]) / dates.OTHERS < 0.12
    assert {FIRST.year, LAST.year} <= {int(day[:4]) for day in days}


def test_each_time_and_for_each_share_held_out_the_test_is_the_same(pairs):
    sources = [open_source(Dates(validation_fraction=fraction)) for fraction in (0.1, 0.5, 0.0)]
    for source in sources:
        found = [(one["source"], one["target"]) for one in source.splits["test"]]
        assert found == pairs["test"]
    assert [*sources[-1].splits] == ["train", "test"]


def test_there_are_thousands_of_styles_and_all_years_and_months(pairs):
    random = Random(0)
    assert len({draw_style(random) for _ in range(20_000)}) > 8000
    targets = [target for _, target in pairs["train"]]
    assert len({target[:4] for target in targets}) > 990
    assert len({target[5:] for target in targets}) == 366


def test_no_text_is_two_dates():
    random, found = Random(1), {}
    for _ in range(50_000):
        day = FIRST + timedelta(int(random.random() * 365_000))
        assert found.setdefault(draw_style(random).write(day), day) == day


@pytest.mark.parametrize(
    ("style", "day", "text"),
    [
        (Style("{Y}-{MM}-{DD}"), DAY, "1987-03-25"),
        (Style("{M}/{D}/{Y}", weekday="{w}, {text}"), DAY, "Wednesday, 3/25/1987"),
        (Style("{D}-{m}-{Y}", month="dotted"), DAY, "25-Mar.-1987"),
        (Style("{d} {m} {y}", month="dotted"), date(1600, 5, 2), "2 May 1600"),
        (Style("{m} {d}, {y}", day="5th", the=True), DAY, "March the 25th, 1987"),
        (Style("{d} of {m} {y}", day="fifth", year="pairs"), DAY,
         "twenty-fifth of March nineteen eighty-seven"),
        (Style("{d} {m} {y}", year="hundreds", hyphens=False, case="upper"), DAY,
         "25 MARCH NINETEEN HUNDRED AND EIGHTY SEVEN"),
        (Style("{y}, {m} {d}", year="thousands", conjunction=False, month="short", case="lower"),
         DAY, "one thousand nine hundred eighty-seven, mar 25"),
    ],
)  # fmt: skip
def test_a_style_writes_a_day_as_it_says(style, day, text):
    assert style.write(day) == text


@pytest.mark.parametrize(
    ("year", "pairs", "hundreds", "thousands"),
    [
        (1900, "nineteen hundred", "nineteen hundred", "one thousand nine hundred"),
        (1905, "nineteen oh five", "nineteen hundred and five",
         "one thousand nine hundred and five"),
        (2000, "two thousand", "two thousand", "two thousand"),
        (2013, "twenty thirteen", "two thousand and thirteen", "two thousand and thirteen"),
        (2500, "twenty-five hundred", "twenty-five hundred", "two thousand five hundred"),
    ],
)  # fmt: skip
def test_years_in_words(year, pairs, hundreds, thousands):
    day = date(year, 1, 1)
    found = [Style("{y}", year=form).write(day) for form in ("pairs", "hundreds", "thousands")]
    assert found == [pairs, hundreds, thousands]


def test_ordinals():
    days = {1: "first", 2: "second", 3: "third", 12: "twelfth", 20: "twentieth", 21: "twenty-first",
            31: "thirty-first"}  # fmt: skip
    for number, word in days.items():
        assert Style("{d}", day="fifth").write(date(2000, 1, number)) == word
    short = [Style("{d}", day="5th").write(date(2000, 1, n)) for n in (1, 2, 3, 4, 11, 13, 22, 30)]
    assert short == ["1st", "2nd", "3rd", "4th", "11th", "13th", "22nd", "30th"]


@pytest.mark.full
def test_all_of_them_are_as_short_as_the_settings_let_them(pairs):
    settings = Dates(tokenizer=Characters())
    dataset = prepare(settings)
    assert not any(split.left_out or split.cut for split in dataset.splits.values())
    assert {name: split.examples for name, split in dataset.splits.items()} == {
        name: len(of) for name, of in pairs.items()
    }
    ends = [split.lengths.bounds[1] for split in dataset.splits.values()]
    assert ends == [(11,)] * 3  # ten signs and the separator, always
