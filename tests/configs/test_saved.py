"""config.json holds exactly what ran, and tells what is different now."""

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.reading.saved import differences, read_config, refuse_differences, write_config

RECIPE = "tests/configs/text_recipe.py"

# Fields of several kinds of value, most of which go together.
VALUES = {
    "seed": st.integers(0, 2**31 - 1),
    "task.sample_prompts": st.lists(st.text()).map(tuple),
    "train.steps": st.integers(1, 10**6),
    "train.gradient_accumulation": st.integers(1, 4),
    "train.ema_decay": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
    "data.cross_document_attention": st.booleans(),
    "data.tokenizer.kind": st.sampled_from(["bpe", "bytes", "characters"]),
    "model.width": st.integers(1, 512),
    "model.num_kv_heads": st.none() | st.integers(1, 8),
    "model.pattern": st.text("AR", min_size=1, max_size=4),
    "optimizer.learning_rate": st.floats(1e-30, 1e30),
    "mesh.data": st.sampled_from([-1, 1, 2, 4]),
    "mesh.rules.embed": st.lists(st.sampled_from(["fsdp", "data", "tensor"]), unique=True),
}


@given(chosen=st.fixed_dictionaries({}, optional=VALUES))
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_a_written_configuration_comes_back_equal(tmp_path_factory, chosen):
    overrides = {path: _text(value) for path, value in chosen.items()}
    try:
        config = load_config(RECIPE, overrides)
    except UsageError:
        assume(False)
    workdir = tmp_path_factory.mktemp("workdir")
    write_config(config, workdir)
    read = read_config(workdir)
    assert read == config
    assert differences(read, config) == []
    changed = {one.field for one in differences(load_config(RECIPE), config)}
    assert changed <= {*overrides, "data.tokenizer.vocabulary_size"}


def _text(value) -> str:
    return "none" if value is None else str(tuple(value) if isinstance(value, list) else value)


def test_writing_leaves_one_file_and_replaces_it(tmp_path):
    write_config(load_config(RECIPE), tmp_path)
    write_config(load_config(RECIPE, {"seed": "1"}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert read_config(tmp_path).seed == 1


def test_differences_name_each_field_and_whether_it_may_change():
    old = load_config(RECIPE, {"train.steps": "600"})
    new = load_config(RECIPE, {"train.steps": "7", "model.use_bias": "true"})
    steps, bias = differences(old, new)
    assert (steps.field, steps.old, steps.new) == ("train.steps", "600", "7")
    assert steps.mutable_on_resume and not bias.mutable_on_resume
    assert str(bias) == "model.use_bias was false, is true"


def test_a_section_of_another_kind_differs_in_all_that_it_gained_and_lost():
    old, new = load_config(RECIPE), load_config(RECIPE, {"data.tokenizer.kind": "bytes"})
    assert [str(one) for one in differences(old, new)] == [
        "data.tokenizer.kind was bpe, is bytes",
        "data.tokenizer.vocabulary_size was 4096, is (not there)",
    ]


def test_only_free_fields_may_change_on_resume():
    old = load_config(RECIPE)
    free = {"train.steps": "7", "data.workers": "1", "mesh.data": "1", "checkpoint.keep_last": "9"}
    refuse_differences("runs/a", differences(old, load_config(RECIPE, free)))
    fixed = load_config(RECIPE, free | {"model.width": "64", "seed": "3"})
    with pytest.raises(UsageError) as caught:
        refuse_differences("runs/a", differences(old, fixed))
    message = str(caught.value)
    assert "runs/a holds a run of another configuration" in message
    assert "seed was 0, is 3; model.width was 256, is 64" in message
    assert "train.steps" not in message


def test_a_saved_configuration_takes_overrides_of_free_fields_alone(tmp_path):
    write_config(load_config(RECIPE), tmp_path)
    assert read_config(tmp_path, {"mesh.data": "2"}).mesh.data == 2
    with pytest.raises(UsageError, match=r"--config\.model\.width is fixed by "):
        read_config(tmp_path, {"model.width": "64"})
    with pytest.raises(UsageError, match=r"did you mean --config\.mesh\.data"):
        read_config(tmp_path, {"mesh.dta": "64"})
