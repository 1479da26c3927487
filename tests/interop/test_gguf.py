"""GGUF files: what was written is read back, and what llama.cpp can't have is refused in a line."""

import json
import sys

import numpy as np
import pytest

import evaluate
import export
from configs.errors import UsageError
from data.codecs.tokenizers import SEPARATOR, Tokenizer
from interop.formats import gguf as format_gguf
from interop.formats import gguf_file
from interop.formats.native import description
from interop.gguf_vocabulary import CONTROL, UNKNOWN, vocabulary
from tests.golden.workdirs import FIGURES, ROOT, WORKDIRS
from tests.interop import foreign, sources


def written(source, folder):
    pytest.importorskip("gguf")
    path = folder / "model.gguf"
    format_gguf.write(source, path)
    return path


def read(source, path):
    params, statistics = format_gguf.read_arrays(path, source.restored.model_def)
    assert not statistics
    return params


@pytest.mark.parametrize("name", sources.LIKE_LLAMA)
def test_arrays_and_description_are_read_back(tmp_path, name):
    source = sources.decoder(tmp_path, **sources.LIKE_LLAMA[name])
    assert format_gguf.obstacle(source.config, source.data_spec) is None
    path = written(source, tmp_path)
    ours, found = source.params(), read(source, path)
    assert found.keys() == ours.keys()
    for key, array in ours.items():
        np.testing.assert_array_equal(found[key], array, key)
    exported = gguf_file.read_description(path)
    assert exported == description(source, "gguf") and exported.step == 7
    assert gguf_file.read_tokenizer(path) == source.tokenizer.read_text()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matrices_have_the_dtype_and_norms_stay_float32(tmp_path, dtype):
    source = sources.decoder(tmp_path, dtype=dtype)
    found = read(source, written(source, tmp_path))
    exact = sources.decoder(tmp_path).params()
    for key, array in source.params().items():
        is_norm = array.ndim == 1
        assert found[key].dtype == ("float32" if is_norm else dtype)
        np.testing.assert_array_equal(found[key], exact[key] if is_norm else array, key)


def test_the_file_holds_what_llama_cpp_asks_for(tmp_path):
    gguf = pytest.importorskip("gguf")
    source = sources.decoder(tmp_path, model__num_kv_heads="2")
    reader = gguf.GGUFReader(written(source, tmp_path))
    values = {name: field.contents() for name, field in reader.fields.items()}
    wanted = {
        "general.architecture": "llama",
        "general.file_type": 0,
        "llama.context_length": 48,
        "llama.embedding_length": 32,
        "llama.block_count": 2,
        "llama.feed_forward_length": 88,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {name: values.get(name) for name in wanted} == wanted
    assert values["llama.attention.layer_norm_rms_epsilon"] == np.float32(1e-5)
    assert values["tokenizer.ggml.tokens"][0] == SEPARATOR
    assert values["tokenizer.ggml.token_type"][0] == CONTROL
    assert "tokenizer.chat_template" not in values


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m.content }}{% endfor %}"])
def test_the_template_of_a_chat_model_opens_the_conversation(tmp_path, template):
    gguf = pytest.importorskip("gguf")
    changes = {} if template is None else {"data__chat_template": template}
    talk = {
        "data__source": "conversations",
        "data__path": "talk.jsonl",
        "task__sample_prompts": "()",
    }
    source = sources.decoder(tmp_path, **talk, **changes)
    reader = gguf.GGUFReader(written(source, tmp_path))
    text = reader.get_field("tokenizer.chat_template").contents()
    assert text.startswith(SEPARATOR) and (template or "add_generation_prompt") in text
    assert text.count(SEPARATOR) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model__pattern": "AC"}, "model.pattern=AC"),
        ({"model__norm": "layer_norm"}, "model.norm=layer_norm: it only has rms_norm"),
        ({"model__attention_window": "8"}, "model.attention_window=8"),
        ({"model__positions": "none"}, "model.positions=none"),
        ({"model__logit_soft_cap": "30"}, "model.logit_soft_cap=30.0"),
        (
            {"model__qk_norm": "true", "model__attention_window": "8"},
            "model.attention_window=8: it only has none (the nearest architecture of llama.cpp is",
        ),
        ({"data__tokenizer__kind": "words"}, "data.tokenizer.kind=words: llama.cpp has no"),
        ({"data__tokenizer__kind": "unigram"}, "data.tokenizer.kind=unigram: llama.cpp has no"),
    ],
)
def test_what_llama_cpp_lacks_is_named(tmp_path, change, reason):
    source = sources.decoder(tmp_path, **change)
    found = format_gguf.obstacle(source.config, source.data_spec)
    assert found is not None and found.lower().startswith(reason.lower())


def test_without_the_package_the_line_says_how_to_install_it(tmp_path, monkeypatch):
    source = sources.decoder(tmp_path)
    monkeypatch.setitem(sys.modules, "gguf", None)
    for action in (
        lambda: format_gguf.write(source, tmp_path / "model.gguf"),
        lambda: gguf_file.read_description(tmp_path / "model.gguf"),
    ):
        with pytest.raises(UsageError, match=r"pip install -e '\.\[export\]'"):
            action()


def test_files_that_are_none_or_damaged_are_refused_by_name(tmp_path):
    gguf = pytest.importorskip("gguf")
    source = sources.decoder(tmp_path)
    path = written(source, tmp_path)
    whole = path.read_bytes()
    with pytest.raises(UsageError, match=r"none\.gguf is not there"):
        gguf_file.read_description(tmp_path / "none.gguf")
    for content in (b"", b"no", b"what is this" * 9, whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=f"{path} is no GGUF file, or is damaged"):
            gguf_file.read_description(path)
    path.unlink()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("a.weight", np.zeros((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UsageError, match=r"not written by export\.py: it has no triform\.desc"):
        gguf_file.read_description(path)


def test_tensors_that_do_not_fit_are_named(tmp_path):
    source = sources.decoder(tmp_path)
    path = written(source, tmp_path)
    other = sources.decoder(tmp_path, model__tied_embeddings="true")
    with pytest.raises(UsageError, match=r"it has output\.weight, which is unknown"):
        read(other, path)
    wide = sources.decoder(tmp_path, model__feed_forward_width="40")
    with pytest.raises(UsageError, match=r"blk.0.ffn_down.weight of F32 and shape \[32, 88\] in"):
        read(wide, path)


def test_each_byte_or_character_is_a_token():
    of_bytes = vocabulary(Tokenizer.bytes(), 257)
    assert (of_bytes.model, of_bytes.pre, of_bytes.merges) == ("gpt2", "gpt-2", ["a b"])
    assert of_bytes.kinds == [1] * 256 + [CONTROL]
    of_characters = vocabulary(Tokenizer.characters(["a é"]), 6)
    assert of_characters.tokens[2:] == ["▁", "a", "é", "[UNUSED_5]"]
    assert of_characters.kinds == [CONTROL, UNKNOWN, 1, 1, 1, 5]
    assert (of_bytes.suppressed, of_characters.suppressed) == ([], [1, 5])
    with pytest.raises(UsageError, match="U\\+2581"):
        vocabulary(Tokenizer.characters(["▁"]), 3)


@pytest.mark.parametrize(
    ("family", "reason"),
    [("bert", "its model is WordPiece"), ("llama", "its merges are not those of a SentencePiece")],
)
def test_tokenizers_without_a_counterpart_are_refused(family, reason):
    tokenizer = Tokenizer(foreign.FAMILIES[family]())
    with pytest.raises(UsageError, match=reason):
        vocabulary(tokenizer, tokenizer.vocabulary_size)


def test_commands_take_the_file_in_place_of_the_workdir(tmp_path, capsys, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.chdir(ROOT)  # paths of data are relative
    workdir, path = WORKDIRS / "attention_text", tmp_path / "model.gguf"

    def written(main, *flags):
        assert main([*map(str, flags)]) == 0
        return capsys.readouterr().out

    found = written(export.main, f"--workdir={workdir}", "--format=gguf", f"--out={path}")
    assert found == f"{path}\n"
    found = json.loads(written(evaluate.main, f"--from={path}").splitlines()[-1])
    known = json.loads(FIGURES.read_text())["attention_text"]
    assert found.pop("split") == known.pop("split")
    assert found == pytest.approx(known, rel=1e-4)

    again = tmp_path / "again.gguf"
    written(export.main, f"--from={path}", "--format=gguf", f"--out={again}")
    assert again.read_bytes() == path.read_bytes()
