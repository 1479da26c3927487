"""The studies of growth at toy size; that their exponents are those of the points."""

import numpy as np
import pytest

from benchmarks import growth
from benchmarks.growth_costs import RECIPE
from configs.reading.recipes import load_config


def rows(printed: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("name", ["batch", "depth", "records", "checkpoint"])
def test_a_study_measures_every_point_and_draws_it(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "")  # one device
    growth.main([f"--study={name}", "--quick", f"--plots={tmp_path}"])
    study, printed = growth.STUDIES[name], rows(capsys.readouterr().out)
    points = [(f"{size:,}", line) for size in study.quick for line in study.lines]
    assert [tuple(row[:2]) for row in printed[2 : 2 + len(points)]] == points
    for row in printed[2 : 2 + len(points)]:
        assert all(float(cell.replace(",", "")) >= 0 for cell in row[2:])
    fits = printed[4 + len(points) :]
    assert len(fits) == sum(len(line.exponents) for line in study.lines.values())
    assert all(np.isfinite(float(row[2])) for row in fits)
    drawn = (tmp_path / f"{name}.svg").read_text()
    assert all(title in drawn for title in study.panels)


def test_the_steps_of_the_studies_are_valid():
    for study in growth.STUDIES.values():
        for line in study.lines.values():
            if growth.sized_step is getattr(line.measure, "func", None):
                name, fields, _ = line.measure.args
                for size in (*study.sizes, *study.quick):
                    sized = {} if name == "vocabulary" else {name: size}
                    texts = {key: str(value) for key, value in (fields | sized).items()}
                    load_config(RECIPE, texts, inputs=False)


def test_the_exponent_is_that_of_a_power_law():
    sizes = np.array([1.0, 2, 4, 8])
    assert growth.exponent(sizes, 3 * sizes**1.5) == pytest.approx(1.5)
    assert growth.exponent(sizes, [5, 5, 5, 5]) == pytest.approx(0)
    assert growth.exponent(sizes, 10 + sizes) < 0.5
