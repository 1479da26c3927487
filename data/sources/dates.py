"""Generates pairs: a date as people write it, and the date in ISO format.

No day occurs twice. A date is written in one of thousands of styles: with or without a weekday, day
and year in digits or in words, the parts in any order. Dates in digits alone are unambiguous: with
dots the day comes before the month, with slashes the month comes before the day. So 5.3.1987 and
3/5/1987 are both March 5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any

import numpy as np

from data.order import permutation
from data.sources.source import MadeExamples, Source, hold_out

VERSION = 2
"""Part of the cache key. Increase it when this file generates different examples."""

FIRST, LAST = date(1500, 1, 1), date(2500, 12, 31)
TEST, OTHERS = 2_000, 40_000  # days for the test, and for training and validation together

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September",
           "October", "November", "December")  # fmt: skip
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SMALL = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
          "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
          "eighteen", "nineteen")  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
             "nine": "ninth", "twelve": "twelfth", "twenty": "twentieth",
             "thirty": "thirtieth"}  # fmt: skip

# Patterns of numbers alone; M month, D day, Y year; MM and DD have two digits.
_DIGITS = ("{Y}-{MM}-{DD}", "{Y}/{M}/{D}", "{Y}/{MM}/{DD}", "{Y}.{MM}.{DD}", "{Y} {MM} {DD}",
           "{Y}{MM}{DD}", "{D}.{M}.{Y}", "{DD}.{MM}.{Y}", "{D}. {M}. {Y}", "{M}/{D}/{Y}",
           "{MM}/{DD}/{Y}")  # fmt: skip
# With day and year in digits; m is the month's name.
_TIGHT = ("{D}-{m}-{Y}", "{D}/{m}/{Y}", "{D}{m}{Y}", "{Y}-{m}-{D}", "{Y}/{m}/{D}", "{m}-{D}-{Y}",
          "{m}/{D}/{Y}", "{D}. {m} {Y}")  # fmt: skip
# With day and year written in any way.
_LOOSE = ("{d} {m} {y}", "{d} {m}, {y}", "{d} {m} in {y}", "{d} {m}, in the year {y}",
          "{m} {d} {y}", "{m} {d}, {y}", "{m} {d} in {y}", "{m} {d}, in the year {y}",
          "{y}, {m} {d}", "{y}, {d} {m}", "in {y}, on {d} {m}",
          "in the year {y}, {m} {d}")  # fmt: skip
# With the day as an ordinal number.
_ORDINAL = ("{d} of {m} {y}", "{d} of {m}, {y}", "{d} of {m} in the year {y}", "{d} day of {m} {y}",
            "{y}, {d} of {m}", "in {y}, on {d} of {m}")  # fmt: skip
_WEEKDAY_PLACES = ("{w}, {text}", "{w} {text}", "on {w}, {text}", "on {w} {text}", "{text}, {w}",
                   "{text} ({w})", "{text}, a {w}")  # fmt: skip


@dataclass(frozen=True)
class Style:
    """A way to write a date, drawn by `draw_style`.

    text: the pattern that the parts of the date are inserted into.
    day: "D", "DD", "5th" or "fifth".
    the: whether "the" precedes an ordinal day.
    year: "pairs", "hundreds" or "thousands" for a year in words (see `_year`), "" for digits.
    hyphens: whether numbers in words have hyphens.
    conjunction: whether a year in words has an "and".
    month, weekday_name: "long", "short" or "dotted" (abbreviated with a dot).
    weekday: a pattern that adds the weekday; "" for a date without one.
    case: "lower", "upper" or "as it is".
    """

    text: str
    day: str = "D"
    the: bool = False
    year: str = ""
    hyphens: bool = True
    conjunction: bool = True
    month: str = "long"
    weekday: str = ""
    weekday_name: str = "long"
    case: str = "as it is"

    def write(self, day: date) -> str:
        """Return `day` as text in this style."""
        numbers = {"D": day.day, "M": day.month, "Y": day.year}
        places = numbers | {"DD": f"{day.day:02}", "MM": f"{day.month:02}"}
        places["d"] = self._day(day.day, places)
        places["m"] = _name(_MONTHS[day.month - 1], self.month)
        places["y"] = self._year(day.year)
        text = self.text.format(**places)
        if self.weekday:
            name = _name(_WEEKDAYS[day.weekday()], self.weekday_name)
            text = self.weekday.format(w=name, text=text)
        return {"lower": text.lower(), "upper": text.upper()}.get(self.case, text)

    def _day(self, day: int, places: Mapping[str, Any]) -> str:
        if self.day in places:
            return str(places[self.day])
        text = _ordinal(day) if self.day == "5th" else self._hyphenated(_ordinal_words(day))
        return f"the {text}" if self.the else text

    def _year(self, year: int) -> str:
        """Return the year in words.

        1987 is nineteen eighty-seven ("pairs"), nineteen hundred (and) eighty-seven ("hundreds"),
        or one thousand nine hundred (and) eighty-seven ("thousands").
        """
        if not self.year:
            return str(year)
        high, low = divmod(year, 100)
        conjunction = " and " if self.conjunction and low else " "
        if self.year == "pairs" and (high % 10 or low >= 10):
            small = "hundred" if not low else f"oh {_words(low)}" if low < 10 else _words(low)
            text = f"{_words(high)} {small}"
        elif self.year == "hundreds" and high % 10:
            text = f"{_words(high)} hundred{conjunction}{_words(low)}"
        else:
            thousands, hundreds = divmod(high, 10)
            text = f"{_words(thousands)} thousand"
            text += f" {_words(hundreds)} hundred" if hundreds else ""
            text += conjunction + _words(low)
        return self._hyphenated(text.strip())

    def _hyphenated(self, words: str) -> str:
        return words if self.hyphens else words.replace("-", " ")


def draw_style(random: Random) -> Style:
    """Draw a random style. Uses only `random.random()`, which returns the same numbers in all
    Python versions."""
    kind = _pick(random, ("loose", "loose", "loose", "ordinal", "tight", "digits"))
    texts = {"loose": _LOOSE, "ordinal": _ORDINAL, "tight": _TIGHT, "digits": _DIGITS}[kind]
    style: dict[str, Any] = {
        "text": _pick(random, texts),
        "case": _pick(random, ("as it is", "as it is", "lower", "upper")),
    }
    if kind != "digits":
        style["month"] = _pick(random, ("long", "long", "short", "dotted"))
    if kind in ("loose", "ordinal"):
        ordinals = ("5th", "fifth")
        style["day"] = _pick(random, ordinals if kind == "ordinal" else ("D", "DD", *ordinals))
        style["the"] = style["day"] in ordinals and _pick(random, (False, True))
        style["year"] = _pick(random, ("", "", "", "pairs", "hundreds", "thousands"))
        style["hyphens"] = _pick(random, (True, True, False))
        style["conjunction"] = _pick(random, (True, False))
    style["weekday"] = _pick(random, ("", *_WEEKDAY_PLACES)) if _pick(random, (0, 1)) else ""
    if style["weekday"]:
        style["weekday_name"] = _pick(random, ("long", "short", "dotted"))
    return Style(**style)


def open_source(settings: Any) -> Source:
    """Open pairs of a date as people write it and the date in ISO format.

    The days are a fixed random choice from the years 1500 to 2500. Each is in one pair of one
    split. `data.validation_fraction` of the days outside the test is held out for validation, by a
    hash of the day.
    """
    fraction, size = settings.validation_fraction, (LAST - FIRST).days + 1
    days = permutation(np.arange(TEST + OTHERS), size=size, seed=0, epoch=0).tolist()
    train, validation = hold_out(days[TEST:], fraction, str)
    splits = {"train": train, "validation": validation, "test": days[:TEST]}
    return Source(
        "dates",
        {
            split: MadeExamples([(f"{split} {n}", day) for n, day in enumerate(of)], _pair)
            for split, of in splits.items()
            if of
        },
        {"version": VERSION, "validation_fraction": fraction},
        fraction,
    )


def _pair(item: tuple[str, int]) -> dict[str, Any]:
    """Return the raw example for a name and a day, given as the number of days after `FIRST`."""
    name, number = item
    day = FIRST + timedelta(number)
    return {"name": name, "source": draw_style(Random(number)).write(day), "target": str(day)}


def _pick(random: Random, options: Sequence[Any]) -> Any:
    return options[int(random.random() * len(options))]


def _name(name: str, form: str) -> str:
    """Return a name, whole or abbreviated to three letters, with or without a dot."""
    if form == "long" or len(name) == 3:
        return name
    return name[:3] + "." * (form == "dotted")


def _words(number: int) -> str:
    """Return a number from 0 to 99 in words; 0 is the empty string."""
    if number < 20:
        return _SMALL[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else "")


def _ordinal_words(number: int) -> str:
    begin, hyphen, last = _words(number).rpartition("-")
    return f"{begin}{hyphen}{_ORDINALS.get(last, f'{last}th')}"


def _ordinal(number: int) -> str:
    """Return an ordinal such as 5th; 11th to 13th are exceptions to the rule of the last digit."""
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = "th" if number in (11, 12, 13) else endings.get(number % 10, "th")
    return f"{number}{ending}"
