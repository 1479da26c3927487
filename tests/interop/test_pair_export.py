"""A model of text pairs as a folder of Hugging Face: its tokenizer, and how it generates."""

import json

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file
from tokenizers import models

import export
import generate
from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.schema.model import EncoderDecoder
from data.codecs.tokenizers import Tokenizer
from interop.checking import check_recipe
from interop.families import FAMILIES
from interop.formats.equal_models import equal_config, equal_params
from interop.formats.hub_pairs import HubPairTokenizer
from interop.formats.huggingface import check_padding
from interop.loading import load_weights
from tests.interop import folders, pairs
from training.trees import flat

VOCABULARIES = {
    "bytes": (Tokenizer.bytes(), 0xFF),
    "pairs of bytes": (Tokenizer.train_bpe(["ÿÿ a text"], 300), None),
    "characters": (Tokenizer.characters("abÿ"), 1),
}
WORKDIR = "tests/golden/workdirs/attention_pairs"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "model"
    flags = ("--format=huggingface", f"--workdir={WORKDIR}", f"--out={out}")
    assert export.main(flags) == 0
    return out


def read(path):
    return json.loads(path.read_text())


def test_the_default_settings_are_t5gemma(exported):
    config = read(exported / "config.json")
    assert config["architectures"] == ["T5GemmaForConditionalGeneration"]
    assert config["encoder"]["layer_types"] == ["full_attention"]
    names = load_file(exported / "model.safetensors")
    assert "model.decoder.layers.0.post_cross_attn_layernorm.weight" in names
    assert "AutoModelForSeq2SeqLM.from_pretrained(folder)" in (exported / "README.md").read_text()


def test_the_tokenizer_gives_the_tokens_that_a_model_reads(exported):
    ours = Tokenizer.load(f"{WORKDIR}/tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(exported / "tokenizer.json"))
    text = "the 3rd of May, 1999"
    assert theirs.encode(text).ids == [*ours.encode(text), ours.separator_id]
    settings = read(exported / "tokenizer_config.json")
    assert settings["model_max_length"] == 128 and settings["padding_side"] == "right"
    again = Tokenizer.load(exported / "triform_tokenizer.json")
    assert again.vocabulary() == ours.vocabulary() and not len(again.closing)


def test_it_generates_as_our_search_does(exported):
    generation, separator = read(exported / "generation_config.json"), 0
    for name in ("decoder_start", "eos", "forced_eos", "pad"):
        assert generation[f"{name}_token_id"] == separator
    # 16 tokens of a target with its separator, and the one that opens it; never the unknown token.
    assert generation["max_length"] == 17 and generation["suppress_tokens"] == [1]
    assert generation["num_beams"] == 1 and "length_penalty" not in generation


def test_a_run_begins_with_the_weights_that_were_exported(exported, tmp_path):
    recipe, given = "configs/dates_seq2seq.py", {"train.initialize_from": str(exported)}
    config = load_config(recipe, given, inputs=False)
    check_recipe(exported, config)
    assert config.data.tokenizer.path == f"{exported}/triform_tokenizer.json"
    spec = DataSpec(vocabulary_size=65, max_source_length=128, max_length=16)
    settings = config.model.model_dump() | {"architecture": "encoder_decoder"}
    of_model = folders.template(settings, spec)
    found = load_weights(exported, config, spec, folders.shapes(of_model))
    assert not found.messages
    out = tmp_path / "native"
    export.main(("--format=safetensors", f"--workdir={WORKDIR}", f"--out={out}"))
    trained = load_file(out / "model.safetensors")
    for name, array in flat(found.params).items():
        np.testing.assert_allclose(array, trained.pop(f"params.{name}"), atol=3e-7, rtol=0)
    assert not trained


def test_what_was_exported_translates_as_the_workdir(exported, capsys):
    found = []
    for model in (f"--workdir={WORKDIR}", f"--from={exported}"):
        generate.main([model, "--prompt=the 3rd of May, 1999", "--prompt=12 December 2024"])
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] and found[0].strip()


def tokenizer_of(tmp_path, tokenizer, **task):
    """The tokenizer of a model of translations, for transformers."""
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    fields = {f"task.{name}": value for name, value in task.items()}
    config = load_config("configs/translation_transformer.py", fields, inputs=False)
    return HubPairTokenizer(path, config, pairs.SIZES)


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_padding_is_a_token_that_no_target_has(tmp_path, kind):
    tokenizer, expected = VOCABULARIES[kind]
    ids = tokenizer_of(tmp_path, tokenizer).ids()
    assert expected in (None, ids["pad_token_id"])
    assert ids["pad_token_id"] not in tokenizer.encode("abÿ")
    assert ids["decoder_start_token_id"] == ids["eos_token_id"] == tokenizer.separator_id


def test_a_tokenizer_without_the_padding_of_m2m100_is_refused(tmp_path):
    found = tokenizer_of(tmp_path, Tokenizer.bytes())
    check_padding(FAMILIES["pegasus"], found)
    with pytest.raises(UsageError, match="m2m_100 takes token 1 for padding, and here it is a"):
        check_padding(FAMILIES["m2m_100"], found)
    words = {"<s>": 0, "<pad>": 1, "a": 2}
    backend = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<s>"))
    backend.add_special_tokens(["<s>", "<pad>"])
    padded = tokenizer_of(tmp_path, Tokenizer(backend))
    check_padding(FAMILIES["m2m_100"], padded)
    assert padded.ids()["pad_token_id"] == 1


def test_a_beam_is_as_wide_as_ours(tmp_path):
    found = tokenizer_of(tmp_path, Tokenizer.bytes(), beam_size="3", length_penalty="0.5")
    found.write(tmp_path)
    generation = read(tmp_path / "generation_config.json")
    assert generation["num_beams"] == 3 and generation["early_stopping"] is True
    assert generation["length_penalty"] == 0.5


@pytest.mark.parametrize("scanned", [False, True])
def test_without_biases_they_are_written_as_zeros(scanned):
    settings = pairs.settings_of("pegasus", use_bias=False, scan_layers=scanned)
    given = load_config("configs/translation_transformer.py", inputs=False)
    config = given.model_copy(update={"model": EncoderDecoder(**settings)})
    params = flat(folders.draw(folders.template(settings, pairs.SIZES)))
    changed = equal_config(config).model
    wanted = flat(folders.shapes(folders.template(changed.model_dump(), pairs.SIZES)))
    found = equal_params(config, pairs.SIZES, params)
    assert {name: leaf.shape for name, leaf in wanted.items()} == {
        name: array.shape for name, array in found.items()
    }
    assert not any(np.any(found[name]) for name in found.keys() - params.keys())
