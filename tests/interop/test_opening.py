"""Exported models are opened with the arrays that they had, or one line says what is wrong."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs.errors import UsageError
from interop.formats.source import Source
from interop.opening import open_model
from parallel.mesh import flat_mesh
from tests.golden.workdirs import ROOT, RUNS, WORKDIRS
from tests.interop.exports import changed, exported, restored
from tests.selection import a_third_of
from training.trees import flat


@pytest.fixture(scope="module")
def text_export(tmp_path_factory):
    return exported("attention_text", tmp_path_factory.mktemp("text") / "exported")


def one_device():
    return flat_mesh(jax.devices()[:1])


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        np.testing.assert_array_equal(array, other[name], name)


@pytest.mark.parametrize("name", a_third_of(RUNS))
def test_what_is_opened_has_every_array_of_the_workdir(name, tmp_path):
    opened = open_model(exported(name, tmp_path / "exported"))
    model = opened.restore(one_device(), print)
    source = Source(restored(WORKDIRS / name), None, None, "")
    assert_equal(flat(model.params), flat(source.merged.params))
    assert_equal(flat(model.statistics), flat(source.merged.statistics))
    assert model.step == source.restored.step
    assert model.manifest["data"] == source.restored.manifest["data"]
    assert model.model_def.data_spec == source.data_spec
    assert opened.config.model == source.config.model and opened.config.task == source.config.task
    assert (opened.tokenizer is None) == (not hasattr(source.config.data, "tokenizer"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_weights_are_read_into_the_dtype_of_the_run(dtype, tmp_path):
    folder = exported("attention_text", tmp_path / "exported", f"--dtype={dtype}")
    model = open_model(folder).restore(one_device(), print)
    for name, array in flat(restored(WORKDIRS / "attention_text").params).items():
        assert flat(model.params)[name].dtype == np.float32
        rounded = array.astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(flat(model.params)[name], rounded)


@pytest.mark.parametrize("name", ["attention_text_lora", "attention_pictures"])
def test_a_folder_for_transformers_is_opened_as_the_workdir(name, tmp_path):
    opened = open_model(exported(name, tmp_path / "exported", format="huggingface"))
    model = opened.restore(one_device(), print)
    source = Source(restored(WORKDIRS / name), None, None, "")
    params = flat(model.params)
    for param, array in flat(source.merged.params).items():  # A grey kernel is written thrice.
        np.testing.assert_allclose(params.pop(param), array.astype(np.float32), rtol=1e-6)
    assert not params and not opened.is_foreign
    if opened.tokenizer is not None:
        assert opened.tokenizer.vocabulary_size == source.data_spec.vocabulary_size


def test_descriptions_are_read_without_jax():
    modules = "interop.opening, interop.deriving, interop.formats.gguf_file"
    code = f"import sys, {modules}; print(*sorted({{'jax', 'flax'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


def test_faults_of_a_folder_for_transformers_are_named(tmp_path):
    folder = exported("attention_text", tmp_path / "exported", format="huggingface")

    def rename(tensors):
        tensors["model.layers.0.mlp.other.weight"] = tensors.pop("model.norm.weight")

    damaged = changed(folder, tmp_path / "damaged", rename)
    with pytest.raises(UsageError) as caught:
        open_model(damaged).restore(one_device(), print)
    assert str(caught.value) == (
        f"{damaged} does not fit: the folder lacks model.norm.weight; it has "
        "model.layers.0.mlp.other.weight, for which this model has no place"
    )


def test_faults_of_tensors_are_named(text_export, tmp_path):
    kernel = "params.embedding.tokens.embedding"

    def refusal(name, change):
        folder = changed(text_export, tmp_path / name, change)
        with pytest.raises(UsageError) as caught:
            open_model(folder).restore(one_device(), print)
        return str(caught.value).removeprefix(f"{folder} does not fit the model: ")

    embedding = "embedding.tokens.embedding"
    assert refusal("missing", lambda tensors: tensors.pop(kernel)) == f"it lacks {embedding}"
    assert refusal("renamed", lambda tensors: tensors.update(x=tensors.pop(kernel))) == (
        f"it lacks {embedding}"
    )
    unknown = refusal("unknown", lambda tensors: tensors.update({"params.a": tensors[kernel]}))
    assert unknown == "it has a, which is unknown"
    shape = refusal("shape", lambda tensors: tensors.update({kernel: tensors[kernel][:, :3]}))
    assert shape.startswith(f"it has {embedding} of shape [") and "in place of [" in shape
    many = refusal("many", lambda tensors: [tensors.pop(name) for name in list(tensors)[:5]])
    assert many.endswith(", and 2 more faults")


def test_damaged_files_are_named(text_export, tmp_path):
    def refusal(name, text, file="triform.json"):
        folder = shutil.copytree(text_export, tmp_path / name)
        (folder / file).write_text(text)
        with pytest.raises(UsageError) as caught:
            model = open_model(folder)
            assert model.tokenizer is not None
            model.restore(one_device(), print)
        assert str(folder / file) in str(caught.value)
        return str(caught.value)

    description = json.loads((text_export / "triform.json").read_text())
    assert "is damaged" in refusal("no json", "{")
    assert "is damaged" in refusal("a list", "[]")
    assert "is damaged" in refusal("no data", json.dumps(description | {"data": {}}))
    assert "is damaged" in refusal("no config", json.dumps(description | {"config": 3}))
    assert "reads 1" in refusal("newer", json.dumps(description | {"version": 9}))
    assert "is damaged: format=x is none of" in refusal(
        "format", json.dumps(description | {"format": "x"})
    )
    description["config"]["model"]["widht"] = 3
    assert "did you mean model.width" in refusal("config", json.dumps(description))
    assert "is damaged" in refusal("weights", "x", "model.safetensors")
    assert "is no tokenizer.json" in refusal("tokenizer", "x", "tokenizer.json")


def test_paths_without_an_exported_model(text_export, tmp_path):
    def refusal(path):
        with pytest.raises(UsageError) as caught:
            open_model(path)
        return str(caught.value)

    near = text_export.with_name("exportd")
    assert refusal(near) == f"--from={near} is not there (did you mean {text_export}?)"
    file = text_export / "model.safetensors"
    assert refusal(file) == f"--from={file} is a file: give its folder, {text_export}"
    assert "has neither triform.json" in refusal(tmp_path)
    workdir = WORKDIRS / "attention_text"
    assert refusal(workdir).endswith(f"is the workdir of a run: give --workdir={workdir}")
    with pytest.raises(UsageError, match=r"data\.sequence_length is fixed by .*triform\.json"):
        open_model(text_export, {"data.sequence_length": "8"})
    assert open_model(text_export, {"serve.slots": "3"}).config.serve.slots == 3


def test_a_model_on_the_data_of_another_run_must_fit_it(text_export):
    def on_data_of(name):
        run = restored(WORKDIRS / name)
        config, data = run.model_def.config, run.manifest["data"]
        return open_model(text_export).on_data_of(config, data, None)

    joined = on_data_of("recurrence_text")
    assert joined.config.model.architecture == "decoder" and joined.config.model.pattern == "A"
    model = joined.restore(one_device(), print)
    assert_equal(flat(model.params), flat(restored(WORKDIRS / "attention_text").params))
    with pytest.raises(UsageError) as caught:
        on_data_of("attention_pictures")
    assert str(caught.value) == (
        f"--from={text_export} was trained for language_modeling on text, and --workdir for "
        "classification on pictures"
    )
