"""What an export says of its model, and what of it is not taken from somebody else's file."""

import json
from dataclasses import replace

import jax.numpy as jnp
import pytest

import export
from configs.errors import UsageError
from configs.schema.serve import Serve
from interop.exported import Exported
from interop.formats import native
from tests.golden.workdirs import WORKDIRS
from tests.interop import exports, sources


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sources.decoder(tmp_path_factory.mktemp("source"))


def test_metrics_that_are_not_finite_are_null(source, tmp_path):
    manifest = source.restored.manifest | {"metrics": {"loss": float("nan"), "accuracy": 0.5}}
    diverged = replace(source, restored=replace(source.restored, manifest=manifest))
    text = native.description(diverged, "safetensors").text()
    assert json.loads(text)["metrics"] == {"loss": None, "accuracy": 0.5}
    assert Exported.read(text, tmp_path).metrics["loss"] is None


def test_folders_and_access_are_not_those_of_the_file(source, tmp_path):
    values = json.loads(native.description(source, "safetensors").text())
    assert values["config"]["data"]["cache_dir"] is None
    values["config"]["data"]["cache_dir"] = "programs_of_somebody"
    values["config"]["serve"] = {"allowed_hosts": ["evil.example"]}
    read = Exported.read(json.dumps(values), tmp_path)
    config = read.configuration({"serve.slots": "3"})
    assert config.data.cache_dir is None
    assert config.serve == Serve(slots=3)


def test_raw_weights_have_no_figures_of_the_averages(tmp_path):
    out = exports.exported("attention_text_averaged", tmp_path / "raw", "--weights=raw")
    assert json.loads((out / "triform.json").read_text())["metrics"] == {}
    out = exports.exported("attention_text_averaged", tmp_path / "averages")
    assert json.loads((out / "triform.json").read_text())["metrics"]["loss"] > 0


def test_numbers_that_are_too_large_for_a_dtype_are_named(source):
    params = dict(source.restored.params)
    params["backbone"] = {**params["backbone"], "norm": {"scale": jnp.full(32, 1e6)}}
    large = replace(source, restored=replace(source.restored, params=params))
    with pytest.raises(UsageError, match=r"^--dtype=float16: backbone.norm.scale has numbers"):
        replace(large, dtype="float16").params()
    replace(large, dtype="bfloat16").params()


def test_the_name_of_a_gguf_file_says_so(tmp_path):
    flags = (f"--workdir={WORKDIRS / 'attention_text'}", "--format=gguf")
    with pytest.raises(UsageError, match=r"model: the name of a GGUF file ends with .gguf: give "):
        export.main([*flags, f"--out={tmp_path / 'model'}"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [{"data": []}, {"data": 1, "serve": 2}])
def test_a_configuration_without_its_sections_is_damaged(source, tmp_path, config):
    values = json.loads(native.description(source, "safetensors").text()) | {"config": config}
    with pytest.raises(UsageError):
        Exported.read(json.dumps(values), tmp_path).configuration()
