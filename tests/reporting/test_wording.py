"""Figures read as people write them."""

import math

import pytest

from reporting.wording import (
    better_step_text,
    count_text,
    headline_metric,
    metric_text,
    number_text,
    percent_text,
    seconds_text,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.042, "0.042 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 0 min"),
        (7380, "2 h 3 min"),
        (4 * 86400 + 3 * 3600, "4 d 3 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (3.25, "3.2"),
        (12400.4, "12,400"),
        (999_400, "999,400"),
        (999_800, "1 M"),
        (1_242_000, "1.24 M"),
        (8.03e9, "8.03 G"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_counts_stay_short(number, text):
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(1.91234, "1.9123"), (0.00012345, "0.000123"), (54321.0, "5.43e+04"), (math.nan, "nan")],
)
def test_losses_keep_four_decimals_or_three_digits(number, text):
    assert number_text(number) == text


def test_metrics_carry_their_name_or_unit():
    assert percent_text(0.978) == "97.8 %"
    assert metric_text("bits_per_byte", 1.7321) == "1.732 bits per byte"
    assert metric_text("accuracy_top5", 1.0) == "top-5 accuracy 100.0 %"
    assert metric_text("accuracy", 0.978) == "accuracy 97.8 %"
    assert metric_text("perplexity", 6.7712) == "perplexity 6.771"
    assert metric_text("loss", 1.9) == "loss 1.9000"
    assert metric_text("exact_match", 0.5) == "exact match 50.0 %"
    assert metric_text("bleu", 31.25) == "BLEU 31.2"


def test_the_headline_is_what_compares_best():
    language = {"loss": 1.9, "perplexity": 6.7, "accuracy": 0.4}
    assert headline_metric(language | {"bits_per_byte": 1.7}) == "bits_per_byte"
    assert headline_metric(language) == "loss"
    assert headline_metric({"loss": 0.1, "accuracy": 0.97}) == "accuracy"
    assert headline_metric({"loss": 0.1}) == "loss"
    answers = language | {"exact_match": 0.1, "bleu": 31.2}
    assert headline_metric(answers) == "bleu"
    assert headline_metric(answers, "exact_match") == "exact_match"


def test_the_best_step_is_named_with_how_it_is_had():
    text = "the best loss was 1.0000, at step 2: --step=best takes it"
    assert better_step_text("loss", 2, 1.0) == text
