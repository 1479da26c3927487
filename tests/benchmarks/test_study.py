"""The study of `shakespeare_char` and the comparison of optimizers, at toy size."""

import json

from benchmarks import optimizers, runs, study
from configs.reading.recipes import load_config
from configs.schema.config import Config
from configs.schema.settings import kind_name, kinds

RECIPE = "configs/shakespeare_char.py"
TOY = {
    "model.width": "16",
    "model.depth": "1",
    "data.sequence_length": "16",
    "data.path": "README.md",
    "train.steps": "2",
    "mesh.data": "1",  # of the eight devices that tests have
}


def test_the_steps_to_the_recipe_end_at_the_recipe():
    *_, last = study.STEPS_TO_THE_RECIPE
    overrides = study.variants()[last]
    assert overrides
    assert load_config(RECIPE, overrides, inputs=False) == load_config(RECIPE, inputs=False)


def test_every_variant_is_valid_and_another():
    known = []
    for name, overrides in study.variants().items():
        config = load_config(RECIPE, overrides, inputs=False)
        assert config not in known, name
        known.append(config)


def test_every_optimizer_is_compared():
    known = kinds(Config.model_fields["optimizer"])
    assert set(optimizers.RATES) == set(map(kind_name, known))


def test_a_run_is_done_once_and_done_again_when_its_configuration_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIFORM_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "runs.jsonl"
    toy = runs.NOTHING_ON_THE_WAY | TOY
    ((place, line),) = runs.results("shakespeare_char", [toy], file)
    assert place == 0
    assert 3 < line["metrics"]["loss"] < 6
    assert line["parameters"] > 16 * 16 * 4
    monkeypatch.setattr(runs, "_train", lambda recipe, overrides, jobs: dict(overrides))
    again = toy | {"train.log_every_steps": "10"}
    other = toy | {"seed": "1"}
    assert sorted(runs.results("shakespeare_char", [other, again], file)) == [(0, other), (1, line)]
    assert [json.loads(text) for text in file.read_text().splitlines()] == [line, other]


def test_the_table_tells_the_mean_difference_of_the_same_seeds(capsys):
    def runs_of(*losses):
        return {
            seed: {"metrics": {"loss": loss}, "parameters": 1000}
            for seed, loss in enumerate(losses)
        }

    study.print_table({"recipe": runs_of(1.7, 1.8), "better": runs_of(1.6)}, "recipe")
    rows = capsys.readouterr().out.splitlines()[2:]
    assert rows == [
        "| recipe | 1,000 | 1.750 | 0.050 | the recipe |",
        "| better | 1,000 | 1.600 | 0.000 | -0.100 |",
    ]
