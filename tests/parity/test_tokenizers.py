"""A folder's tokenizer.json gives the ids that the fast tokenizers of `transformers` give."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from configs.schema.config import Config
from data.codecs.tokenizers import Tokenizer
from data.document_encoding import encode_documents
from data.sources.documents import pieces
from inference.predictors.classification import TextClassification
from inference.predictors.completion import TextCompletion
from inference.requests import Request, Sampling
from interop.converting import read_weights
from interop.families import describe
from parallel.mesh import flat_mesh
from tests.data.splitters import LONG, SPLITTERS
from tests.interop import folders
from tests.interop.foreign import FAMILIES, TEXT, write_tokenizer

TEXTS = ["5 times 3 is 15.", "It's naïve", "a ☃ 😀 你好", " two  spaces ", "Word" * 40, TEXT]
LENGTH = 12
RULES = Config().mesh.rules.model_dump()


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_of_texts_are_the_same_whole_and_cut(family, tmp_path):
    write_tokenizer(tmp_path, family)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.is_fast
    ours = Tokenizer.load(tmp_path / "tokenizer.json")
    for text, ids in zip(TEXTS, ours.encode_many(TEXTS), strict=True):
        assert ours.framed(ids).tolist() == theirs(text)["input_ids"]
        assert ids.tolist() == theirs(text, add_special_tokens=False)["input_ids"]
        cut = theirs(text, truncation=True, max_length=LENGTH)["input_ids"]
        assert ours.framed(ids, LENGTH).tolist() == cut


@pytest.mark.parametrize("name", SPLITTERS)
def test_ids_of_long_documents_are_those_of_the_whole(name, tmp_path):
    path = tmp_path / "tokenizer.json"
    SPLITTERS[name]().save(str(path))
    ours = Tokenizer.load(path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    for text in LONG.values():
        stored = [{"piece": n, "text": piece} for n, piece in enumerate(pieces([text]))]
        parts = [ids for _, ids in encode_documents(stored, ours)]
        assert np.concatenate(parts).tolist() == theirs(text)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_that_their_library_saves_is_read_as_it_is(family, tmp_path):
    write_tokenizer(tmp_path / "first", family)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "first")
    theirs.save_pretrained(tmp_path / "again")
    first, again = (
        Tokenizer.load(tmp_path / name / "tokenizer.json") for name in ("first", "again")
    )
    assert first.vocabulary() == again.vocabulary()
    for text in TEXTS:
        assert again.framed(again.encode(text)).tolist() == theirs(text)["input_ids"]


def test_labels_of_texts_are_those_that_their_classifier_gives(tmp_path):
    count, classes = write_tokenizer(tmp_path, "bert"), ["a", "b", "c"]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=count,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=LENGTH,
        initializer_range=0.3,
        num_labels=len(classes),
    )
    model = transformers.BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    given = tokenizer(TEXTS, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**given).logits.softmax(-1).numpy()

    found = describe(tmp_path)
    template = folders.template(found.settings, found.data_spec)
    params = read_weights(tmp_path, folders.shapes(template), scanned=False).params
    predictor = TextClassification(
        Tokenizer.load(tmp_path / "tokenizer.json"), length=LENGTH, classes=classes
    )
    ours = predictor.predict(template.bind(jax.tree.map(jnp.asarray, params), {}), TEXTS)
    assert theirs.std(axis=0).mean() > 0.02, "the scores say nothing"
    scores = [[one.scores[name] for name in classes] for one in ours]
    np.testing.assert_allclose(scores, theirs, rtol=0, atol=1e-5)


def gpt2(count: int) -> transformers.PreTrainedModel:
    sizes = {"vocab_size": count, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 32}
    free = {"initializer_range": 0.3, "tie_word_embeddings": False}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **free))


def llama(count: int) -> transformers.PreTrainedModel:
    sizes = {
        "vocab_size": count,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "initializer_range": 0.3,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads))


@pytest.mark.parametrize("family", ["gpt2", "llama", "llama3"])
def test_what_a_prompt_is_gone_on_with_is_what_their_model_writes(family, tmp_path):
    count = write_tokenizer(tmp_path, family)
    torch.manual_seed(1)
    model = (gpt2 if family == "gpt2" else llama)(count).eval()
    model.save_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    prompt, tokens = "5 times 3 is", 10
    given = tokenizer(prompt, return_tensors="pt")
    asked = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    (written,) = model.generate(**given, **asked)
    assert len(set(written[given["input_ids"].shape[1] :].tolist())) > 3, "the text says nothing"

    ours, found = Tokenizer.load(tmp_path / "tokenizer.json"), describe(tmp_path)
    data_spec = replace(found.data_spec, vocabulary_size=ours.vocabulary_size)
    if data_spec.max_length is None:
        data_spec = replace(data_spec, max_length=32)
    template = folders.template(found.settings, data_spec)
    params = read_weights(
        tmp_path,
        folders.shapes(template),
        scanned=False,
        tokens_like={} if family == "gpt2" else {ours.separator_id: 2},
    ).params
    generator = TextCompletion(ours, context=32, mesh=flat_mesh(jax.devices()[:1]), rules=RULES)
    module = template.bind(jax.tree.map(jnp.asarray, params), {})
    request = Request(prompt, max_tokens=tokens, sampling=Sampling(temperature=0.0))
    (completion,) = generator.predict(module, [request])
    assert completion.prompt_tokens == given["input_ids"].shape[1]
    whole = prompt + completion.text
    start = ours.opening.tolist()
    assert ours.decode(written[len(start) :].tolist()) == whole
