"""A recipe or a config.json that is wrong is named, with the line or the field."""

import json
from pathlib import Path

import pytest

from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.reading.saved import read_config, write_config
from configs.schema.config import Config
from configs.schema.settings import kind_name, kinds

START = "from configs import base\ndef get_config():\n    config = base.language_modeling()\n"
END = "    return config\n"
SOURCES = [str(kind_name(kind)) for kind in kinds(Config.model_fields["data"])]

# The text of a recipe, and what the message must contain.
WRONG_RECIPES = {
    "no Python": ("def get_config(:\n", "line 1: not Python"),
    "no Python further down": ("x = 1\ny = (\n", "line 2: not Python"),
    "wrong indentation": ("def get_config():\n    x = 1\n      y = 2\n", "line 3: not Python"),
    "no UTF-8": (b"x = '\xff'\n", "not Python"),
    "a zero byte": (b"x = 1\x00\n", "not Python"),
    "empty": ("", "has no function get_config()"),
    "get_config is no function": ("get_config = 3\n", "has no function get_config()"),
    "returns nothing": (START, "get_config() returned NoneType", "ConfigDict"),
    "returns a dict": ("def get_config():\n    return {}\n", "returned dict", "configs.base"),
    "raises": ("def get_config():\n    x = 1\n    return x / 0\n", "line 3: ZeroDivisionError"),
    "raises deeper": (
        "import json\ndef get_config():\n    return json.loads('{')\n",
        "line 3: JSONDecodeError",
    ),
    "raises at once": ("\nimport no_such_module_here\n", "line 2: ModuleNotFoundError"),
    "ends the process": ("def get_config():\n    raise SystemExit(3)\n", "line 2: SystemExit: 3"),
    "wants arguments": ("def get_config(size):\n    return size\n", "TypeError", "size"),
    "a misspelt field": (
        START + "    config.model.widht = 3\n" + END,
        "line 4: model.widht is no field",
        "did you mean model.width",
    ),
    "a misspelt section": (
        START + "    config.modle.width = 3\n" + END,
        "line 4: modle.width is no field",
        "did you mean model.width",
    ),
    "a field of another place": (
        START + "    config.model.learning_rate = 3\n" + END,
        "line 4",
        "did you mean optimizer.learning_rate",
    ),
    "a field of another kind": (
        START + "    config.data.image_size = 3\n" + END,
        "line 4: data.image_size belongs to data.source=digits",
    ),
    "a value of another type": (
        START + "    config.train.steps = 'many'\n" + END,
        "line 4: train.steps must be an integer >= 1",
    ),
    "a fraction for an integer": (
        START + "    config.train.steps = 1.5\n" + END,
        "line 4: train.steps must be an integer >= 1",
    ),
    "a misspelt argument of base": (
        "from configs import base\nconfig = base.language_modeling(sourse='x')\n",
        "line 2: TypeError",
        "sourse",
    ),
    "a kind that is not there": (
        "from configs import base\nconfig = base.language_modeling(source='web')\n",
        "line 2: ValueError: data is one of python_stdlib, text_files, records",
        f"{', '.join(SOURCES)}, not web",
    ),
    "out of range": (
        START + "    config.train.steps = -3\n" + END,
        "train.steps must be an integer >= 1",
        "not -3 (in ",
    ),
    "not finite": (
        START + "    config.optimizer.learning_rate = float('nan')\n" + END,
        "optimizer.learning_rate must be a finite number",
        "not nan (in ",
    ),
    "a choice that is not there": (
        START + "    config.model.norm = 'none'\n" + END,
        "model.norm must be one of rms_norm, layer_norm, not 'none' (in ",
    ),
    "true for a number": (
        START + "    config.train.steps = True\n" + END,
        "train.steps must be an integer >= 1",
        "not true (in ",
    ),
    "an architecture that is not there": (
        START + "    config.model.architecture = 'transformer'\n" + END,
        "model.architecture must be one of decoder, encoder, rnn, encoder_decoder",
        "not 'transformer' (in ",
    ),
    "a section of no kind": (
        START + "    with config.unlocked():\n        del config.model['architecture']\n" + END,
        "model.architecture",
        "decoder, encoder, rnn, encoder_decoder",
    ),
    "a number for a section": (
        START + "    with config.ignore_type():\n        config.model = 3\n" + END,
        "model must be a section of fields, not 3",
    ),
    "a field by force": (
        START + "    with config.unlocked():\n        config.model.widht = 3\n" + END,
        "model.widht is no field",
        "did you mean model.width",
    ),
    "sections that do not fit": (
        START + "    config.model.width = 130\n" + END,
        "model.width=130 is not divisible by model.num_heads=4",
        "(in ",
    ),
}


@pytest.mark.parametrize("case", WRONG_RECIPES)
def test_a_wrong_recipe_is_refused_with_its_line_or_field(refusal, tmp_path, case):
    source, *expected = WRONG_RECIPES[case]
    recipe = tmp_path / "recipe.py"
    recipe.write_bytes(source if isinstance(source, bytes) else source.encode())
    message = refusal(f"--config={recipe}", "--workdir=made")
    assert [part for part in (str(recipe), *expected) if part not in message] == [], message


def test_a_recipe_that_is_not_there_suggests_one_that_is(refusal, tmp_path):
    cases = {
        "digits_cnn": "did you mean configs/digits_cnn.py?",
        "digits_cnn.py": "did you mean configs/digits_cnn.py?",
        "configs/python_stdlb.py": "did you mean configs/python_stdlib.py?",
        "shakespeare": "did you mean configs/shakespeare_char.py?",
        "qqqq.py": "there are configs/cifar10_resnet18.py, configs/",
        str(tmp_path): "is a folder, not a recipe file",
        "x" * 5000: "is not there",
    }
    for recipe, expected in cases.items():
        message = refusal(f"--config={recipe}", "--workdir=made")
        assert expected in message, message


def test_a_recipe_may_stand_anywhere(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(START + "    config.train.steps = 7\n" + END)
    monkeypatch.chdir(tmp_path)
    assert load_config("mine.py").train.steps == 7


def _edit(change) -> str:
    values = load_config("tests/configs/text_recipe.py").model_dump(mode="json")
    change(values)
    return json.dumps(values)


# What stands in config.json, and what the message must contain.
WRONG_SAVED = {
    "cut off": ('{"seed": 0, "tra', "is damaged"),
    "empty": ("", "is damaged"),
    "no UTF-8": (b'{"seed": "\xff"}', "is damaged"),
    "no sections": ("[1]", "is damaged: it holds list"),
    "a field twice": ('{"seed": 1, "seed": 2}', "is damaged: 'seed' stands there twice"),
    "not finite": ('{"seed": NaN}', "is damaged: NaN is no number of JSON"),
    "a misspelt field": (
        _edit(lambda values: values["model"].update(widht=3)),
        "model.widht is no field",
        "did you mean model.width",
    ),
    "a misspelt section": (
        _edit(lambda values: values.update(modle={})),
        "modle is no field",
    ),
    "a wrong value": (
        _edit(lambda values: values["train"].update(steps="many")),
        "train.steps must be an integer >= 1",
        "not 'many'",
    ),
    "a field of another kind": (
        _edit(lambda values: values["data"].update(path="x")),
        "data.path belongs to data.source=text_files or records",
    ),
    "a field outside its section": (
        _edit(lambda values: values.update({"model.width": 3})),
        "model.width must stand inside its section",
    ),
    "null for a section": (
        _edit(lambda values: values.update(train=None)),
        "train must be a section of fields, not None",
    ),
    "sections that do not fit": (
        _edit(lambda values: values["model"].update(width=130)),
        "model.width=130 is not divisible",
    ),
}


@pytest.mark.parametrize("case", WRONG_SAVED)
def test_a_damaged_or_edited_config_is_refused_and_named(tmp_path, case):
    text, *expected = WRONG_SAVED[case]
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as caught:
        read_config(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in (str(path), *expected) if part not in message] == [], message


def test_every_way_to_cut_a_config_off_is_refused(tmp_path):
    write_config(load_config("configs/digits_cnn.py"), tmp_path)
    path = tmp_path / "config.json"
    whole = path.read_text().rstrip()
    for length in range(0, len(whole), 37):
        path.write_text(whole[:length])
        with pytest.raises(UsageError, match="is damaged"):
            read_config(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is not there"):
        read_config(tmp_path / "gone")
    (tmp_path / "digits").mkdir()
    with pytest.raises(UsageError, match=r"is not there \(did you mean .*/digits\?\)$"):
        read_config(tmp_path / "digit")
    with pytest.raises(UsageError, match=r"holds no run: it has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UsageError, match="can not be read"):
        read_config(Path(tmp_path))
