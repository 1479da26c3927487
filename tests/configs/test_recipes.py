"""The recipes that come with the project, and how they are explained."""

import ast
import re
import textwrap
from pathlib import Path

import jax
import pytest
from flax import nnx

from configs.errors import UsageError
from configs.reading.explanation import explain
from configs.reading.fields import flatten
from configs.reading.names import fields
from configs.reading.recipes import load_config, recipes
from model.architectures import build, parameter_count

OURS = recipes()


def test_the_recipes_are_found_and_nothing_else():
    files = {path.stem for path in Path("configs").glob("*.py")}
    assert set(OURS) == files - {
        "__init__",
        "base",
        "data_spec",
        "errors",
        "files",
        "json_text",
        "remote",
    }
    assert {"digits_cnn", "gpt2_124m", "python_stdlib", "shakespeare_char_lstm"} <= set(OURS)


def test_every_recipe_has_a_row_of_results():
    table = Path("docs/results.md").read_text().partition("\n\n|")[2].partition("\n\n")[0]
    told = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()[1:]]
    assert sorted(name for row in told for name in row) == sorted(OURS)


@pytest.mark.parametrize("name", OURS)
def test_every_recipe_is_valid_and_says_how_it_is_run(name):
    load_config(OURS[name], inputs=False)
    docstring = ast.get_docstring(ast.parse(Path(OURS[name]).read_text()))
    assert f"python train.py --config={OURS[name]} --workdir=runs/" in docstring


@pytest.mark.parametrize("name", OURS)
def test_explain_shows_every_field_with_its_value_and_meaning(name):
    text = explain(OURS[name])
    config = load_config(OURS[name], inputs=False)
    rows = {line[2:].split()[0]: line for line in text.splitlines() if line[2:3].strip()}
    for path, field in flatten(config).items():
        assert path in rows, path
        assert field.info.description.split()[0] in text
    assert max(map(len, text.splitlines())) <= 120


def test_explain_says_where_each_value_came_from():
    text = explain(
        "configs/shakespeare_char_lstm.py", {"train.steps": "9", "data.tokenizer.kind": "bytes"}
    )
    rows = {line[2:].split()[0]: line for line in text.splitlines() if line[2:3].strip()}
    assert rows["train.steps"].split()[:5] == ["*", "train.steps", "9", "command", "line"]
    assert rows["data.tokenizer.kind"].split() == [
        "data.tokenizer.kind",
        "bytes",
        "command",
        "line",
    ]
    assert rows["model.pattern"].split() == ["model.pattern", "R", "recipe"]
    assert rows["data.source"].split() == ["data.source", "text_files", "recipe"]
    assert rows["task.name"].split() == ["task.name", "language_modeling", "default"]
    assert "(must be given)" in rows["data.path"]
    assert "no effect: model.pattern=R has no A (attention)" in rows["model.num_heads"]
    assert "[an integer >= 1, in steps]" in text


def test_explain_refuses_what_training_would_refuse():
    with pytest.raises(UsageError, match="did you mean"):
        explain("configs/digits_cnn.py", {"train.stepz": "3"})


def test_every_field_has_a_meaning_that_is_a_sentence():
    for path, info in fields().items():
        assert info.description.endswith("."), path
        assert len(textwrap.wrap(info.description, 94)) <= 2, path


def _parameters(recipe: str, *, vocabulary_size: int = 67, max_length: int = 64) -> int:
    settings = load_config(recipe, inputs=False).model.model_dump(exclude={"architecture"})
    abstract = nnx.eval_shape(
        lambda: build(
            "decoder",
            rngs=nnx.Rngs(0),
            dtype=jax.numpy.float32,
            param_dtype=jax.numpy.float32,
            vocabulary_size=vocabulary_size,
            max_length=max_length,
            **settings,
        )
    )
    return parameter_count(abstract)


def test_the_two_shakespeares_have_as_many_parameters_as_nanogpt():
    nanogpt = 804_096  # 4 layers, width 128, context 64, 65 characters, no biases
    attention = _parameters("configs/shakespeare_char.py")
    recurrence = _parameters("configs/shakespeare_char_lstm.py")
    assert abs(attention / nanogpt - 1) < 0.05
    assert abs(recurrence / attention - 1) < 0.05


@pytest.mark.parametrize(
    "recipe, vocabulary_size, max_length, parameters",
    [
        ("gpt2_124m", 50_257, 1024, 124_439_808),
        ("llama_1b", 128_256, 1, 1_235_814_400),
        ("llama_8b", 128_256, 1, 8_030_261_248),
    ],
)
def test_the_known_shapes_have_their_known_numbers_of_parameters(
    recipe, vocabulary_size, max_length, parameters
):
    recipe = f"configs/{recipe}.py"
    assert parameters == _parameters(recipe, vocabulary_size=vocabulary_size, max_length=max_length)
