"""Encoder-decoders of `transformers`: imported, trained for a step and exported, they give the same
logits at each stage."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from flax import nnx
from tokenizers import decoders, models

import export
import generate
from configs.data_spec import DataSpec
from configs.reading.recipes import load_config
from configs.schema.model import EncoderDecoder
from data.codecs.tokenizers import SEPARATOR, Tokenizer
from inference.translation import Translator
from interop.converting import read_weights
from interop.families import describe
from interop.formats import huggingface
from interop.formats.source import Source
from parallel.mesh import flat_mesh
from tests.interop import folders, pairs
from tests.parity.test_interop import TOLERANCE
from training.model_def import build_model_def
from training.restore import Restored

B, S, T = 3, 10, 14
V = pairs.SIZES.vocabulary_size
RANDOM = np.random.default_rng(0)
SOURCE_LENGTHS_B = np.array([10, 4, 7])
SOURCE_BS = RANDOM.integers(3, V, (B, S), dtype=np.int32)
SEGMENTS_BS = (np.arange(S) < SOURCE_LENGTHS_B[:, None]).astype(np.int32)
TARGETS_BT = RANDOM.integers(3, V, (B, T), dtype=np.int32)
TOKENS_BT = np.concatenate([np.full((B, 1), 2, np.int32), TARGETS_BT[:, :-1]], axis=1)
BATCH = {
    "source": np.where(SEGMENTS_BS, SOURCE_BS, 1),
    "source_segments": SEGMENTS_BS,
    "tokens": TOKENS_BT,
    "targets": TARGETS_BT,
    "weights": np.ones((B, T), np.float32),
}

SIDES = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 40))
}
CONFIG = {
    **SIDES,
    "encoder_layers": 3,
    "vocab_size": V,
    "d_model": 24,
    "max_position_embeddings": 16,
    "activation_function": "relu",
    "scale_embedding": True,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
}
FOREIGN: dict[str, Any] = {
    "m2m_100": (transformers.M2M100Config, {}),
    "pegasus": (transformers.PegasusConfig, {"activation_function": "gelu"}),
    "marian": (transformers.MarianConfig, {}),
    "blenderbot": (transformers.BlenderbotConfig, {"scale_embedding": False}),
}


def random_folder(folder: Path, name: str) -> None:
    """Write a folder of their model, whose weights each have a say."""
    kind, changes = FOREIGN[name]
    torch.manual_seed(0)
    theirs = transformers.AutoModelForSeq2SeqLM.from_config(kind(**CONFIG | changes)).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if "embed_positions" not in key or name == "blenderbot":
                scale = "norm" in key and "weight" in key
                parameter.copy_(scale + 0.3 * torch.randn(parameter.shape))
    theirs.save_pretrained(folder)


def logits_of_theirs(folder: Path) -> np.ndarray:
    """Load the folder as a user does, and return its logits. No weight may be missing."""
    theirs, loading = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        folder, output_loading_info=True, local_files_only=True
    )
    assert not any(loading[name] for name in ("missing_keys", "unexpected_keys")), loading
    with torch.no_grad():
        return (
            theirs.eval()(
                input_ids=torch.tensor(BATCH["source"]).long(),
                attention_mask=torch.tensor(SEGMENTS_BS).long(),
                decoder_input_ids=torch.tensor(TOKENS_BT).long(),
            )
            .logits.float()
            .numpy()
        )


def logits_of_ours(of_model: Any, params: Any) -> np.ndarray:
    graph, state = nnx.split(of_model.bind(jax.tree.map(jnp.asarray, params), {}))

    @jax.jit
    def logits(state):
        model = nnx.merge(graph, state)
        memory = model.encode(BATCH["source"], segments_BS=jnp.asarray(SEGMENTS_BS))
        return model.head(model.hidden(jnp.asarray(TOKENS_BT), memory)[0])

    return np.asarray(logits(state))


def trained(of_model: Any, params: Any) -> Any:
    """Return the parameters after a step of gradient descent."""

    def loss(params):
        model = of_model.bind(params, {})
        memory = model.encode(BATCH["source"], segments_BS=jnp.asarray(SEGMENTS_BS))
        logits_BTV = model.head(model.hidden(jnp.asarray(TOKENS_BT), memory)[0])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), TARGETS_BT[..., None], -1)
        return -jnp.mean(chosen)

    gradient = jax.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, params))
    return jax.tree.map(lambda leaf, change: np.asarray(leaf - 0.3 * change), params, gradient)


@pytest.mark.parametrize("name", FOREIGN)
def test_their_model_is_ours_trains_and_goes_back(tmp_path, name):
    first, second = tmp_path / "first", tmp_path / "second"
    random_folder(first, name)
    found = describe(first)
    sizes = {"max_source_length": 16, "max_length": 16}
    spec = type(found.data_spec)(**found.data_spec.model_arguments() | sizes)
    of_model = folders.template(found.settings, spec)
    params = read_weights(first, folders.shapes(of_model), scanned=False).params
    before = logits_of_ours(of_model, params)
    assert_equal_logits(before, logits_of_theirs(first))
    params = trained(of_model, params)
    after = logits_of_ours(of_model, params)
    assert np.abs(after - before).max() > 0.01
    second.mkdir()
    pairs.write_folder(second, found.family, found.settings | {"scan_layers": False}, params, spec)
    set_tokens(second)
    assert_equal_logits(after, logits_of_theirs(second))


@pytest.mark.parametrize("variant", pairs.VARIANTS)
def test_our_model_is_theirs(tmp_path, variant):
    params, of_model = pairs.make_folder(tmp_path, variant)
    set_tokens(tmp_path)
    assert_equal_logits(logits_of_ours(of_model, params), logits_of_theirs(tmp_path))


TEXTS = ["the 3rd of May, 1999", "12 December 2024", "by the end of 1987 at the latest"]


def tokenizer_with_padding(path: Path) -> Tokenizer:
    """Write a tokenizer of characters in which token 1 is for padding, as in M2M100."""
    letters = dict.fromkeys("".join(TEXTS))
    vocabulary = {token: number for number, token in enumerate([SEPARATOR, "<pad>", *letters])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([SEPARATOR, "<pad>"])
    tokenizer = Tokenizer(backend)
    tokenizer.save(path)
    return tokenizer


def greedy_translations(folder: Path) -> list[str]:
    """Translate as a user of transformers does."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        ids = model.eval().generate(**inputs, num_beams=1, do_sample=False)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


TRANSLATING = {
    **{family: {} for family in pairs.SETTINGS},
    "pegasus without biases": {"use_bias": False},
}


CTRANSLATE2 = ("t5gemma",)
"""Families that CTranslate2 converts. (Of others it replaces the token that opens a target.)"""


def translations_of_ctranslate2(folder: Path, converted: Path) -> list[str]:
    """Convert a folder, and translate with greedy search."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    ctranslate2.converters.TransformersConverter(str(folder)).convert(str(converted))
    translator = ctranslate2.Translator(str(converted), compute_type="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer(TEXTS, truncation=True).input_ids
    sources = [tokenizer.convert_ids_to_tokens(one) for one in ids]
    answers = translator.translate_batch(sources, beam_size=1, max_decoding_length=19)
    ids = [tokenizer.convert_tokens_to_ids(answer.hypotheses[0]) for answer in answers]
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", TRANSLATING)
def test_greedy_translations_are_the_same(tmp_path, name):
    settings = pairs.settings_of(name.partition(" ")[0], **TRANSLATING[name])
    tokenizer = tokenizer_with_padding(tmp_path / "tokenizer.json")
    spec = DataSpec(vocabulary_size=tokenizer.vocabulary_size, max_source_length=24, max_length=20)
    config = load_config("configs/dates_seq2seq.py", inputs=False)
    config = config.model_copy(update={"model": EncoderDecoder(**settings)})
    model_def = build_model_def(config, spec, flat_mesh(jax.devices()[:1]))
    params = pairs.draw(model_def.graph)
    manifest = {"data": spec.to_manifest(), "metrics": {"loss": 1.0}}
    restored = Restored(1, manifest, model_def, jax.tree.map(jnp.asarray, params), {})
    out = tmp_path / "out"
    huggingface.write(Source(restored, tmp_path / "tokenizer.json", None, "export.py"), out)
    ours = Translator(
        tokenizer,
        beam_size=1,
        length_penalty=0.6,
        answer_length_ratio=20.0,
        max_source_length=24,
        max_length=20,
        mesh=model_def.mesh,
        rules=model_def.rules,
    ).translate(model_def.bind(restored.params, {}), TEXTS)
    texts = [answer.text.replace("<pad>", "") for answer in ours]
    assert len(set(texts)) > 1 and max(map(len, texts)) > 8, "the answers say nothing"
    assert greedy_translations(out) == texts
    if name in CTRANSLATE2:
        assert translations_of_ctranslate2(out, tmp_path / "converted") == texts


def test_the_model_of_a_run_translates_the_same(tmp_path, capsys):
    out, workdir = tmp_path / "out", "--workdir=tests/golden/workdirs/attention_pairs"
    export.main(["--format=huggingface", workdir, f"--out={out}"])
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    capsys.readouterr()
    generate.main([workdir, f"--input={tmp_path / 'texts'}"])
    assert greedy_translations(out) == capsys.readouterr().out.splitlines()


def assert_equal_logits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape and ours.std(axis=(0, 1)).mean() > 0.05, "they say nothing"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def set_tokens(folder: Path) -> None:
    """Set the special tokens of a folder, which come from its tokenizer."""
    config = json.loads((folder / "config.json").read_text())
    ids = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2, "decoder_start_token_id": 2}
    config |= ids
    for side in ("encoder", "decoder"):
        if side in config:
            config[side] |= ids
    (folder / "config.json").write_text(json.dumps(config))
