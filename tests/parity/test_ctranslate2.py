"""CTranslate2 converts our folders of Hugging Face: the same tokens after a text."""

import ctranslate2
import numpy as np
import pytest
from ctranslate2.converters import TransformersConverter

from data.codecs.tokenizers import Tokenizer
from interop.formats import huggingface
from tests.interop import sources

# Its Llama has heads of width / num_heads, and other numbers for `model.rotary_scaling`.
SHAPES = {
    "plain": {},
    "tied": {"model__tied_embeddings": "true"},
    "grouped": {"model__num_kv_heads": "2", "model__rotary_base": "500"},
    "qwen2": {"model__qkv_bias": "true", "model__num_kv_heads": "2"},
    "qwen3": {"model__qk_norm": "true", "model__head_dim": "16"},
}
PROMPT, COUNT = "7 times 5 is", 12


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_tokens_are_the_same(tmp_path, name):
    source = sources.decoder(tmp_path, **SHAPES[name])
    huggingface.write(source, tmp_path / "folder")
    converted = TransformersConverter(str(tmp_path / "folder")).convert(str(tmp_path / "ct2"))
    generator = ctranslate2.Generator(converted, compute_type="float32", intra_threads=1)

    tokenizer = Tokenizer.load(source.tokenizer)
    ids = tokenizer.encode(PROMPT).tolist()
    tokens = [tokenizer.backend.id_to_token(one) for one in ids]
    (answer,) = generator.generate_batch(
        [tokens],
        max_length=COUNT,
        min_length=COUNT,
        sampling_topk=1,
        include_prompt_in_result=False,
        return_logits_vocab=True,
    )
    next_logits = sources.next_logits(source)
    for token, logits in zip(answer.sequences_ids[0], answer.logits[0], strict=True):
        own, found = np.array(next_logits(ids)), np.array(logits)
        own[tokenizer.end_id] = found[tokenizer.end_id] = -np.inf  # What ends a text comes later.
        np.testing.assert_allclose(found, own, rtol=0, atol=1e-4)
        assert token == own.argmax()
        ids.append(token)
    assert len(answer.sequences_ids[0]) == COUNT
