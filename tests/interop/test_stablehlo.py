"""Programs of `jax.export`: they compute what the model computes, without its code."""

import dataclasses
import json

import jax
import jinja2
import numpy as np
import pytest
import tokenizers

import export
from configs.errors import UsageError
from data.codecs.chat import for_prompts
from data.codecs.tokenizers import SEPARATOR, Tokenizer
from inference.loading import load_model
from interop.folder import Folder
from interop.formats import native, stablehlo
from interop.formats.hub_tokenizer import frame
from interop.opening import open_model
from parallel.mesh import flat_mesh
from tests.interop.folders import make_folder
from tests.interop.foreign import write_tokenizer
from tests.interop.programs import (
    GOLDEN,
    Programs,
    computed,
    restored,
    run_isolated,
    script,
    written,
)
from tests.interop.sources import decoder as decoder_of
from training.trees import flat

CHAT = (
    "{% for one in messages %}<|im_start|>{{ one.role }}\n{{ one.content }}<|im_end|>\n{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
)
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Programs:
    """Programs of a decoder, as the command writes them."""
    out = tmp_path_factory.mktemp("decoder") / "out"
    workdir = GOLDEN / "attention_text"
    export.main([f"--workdir={workdir}", "--format=stablehlo", f"--out={out}"])
    return Programs(out)


def test_a_script_without_our_code_writes_the_same_text(decoder, tmp_path):
    (completion,) = load_model(GOLDEN / "attention_text").predict(
        prompt=["to be"], max_tokens=10, temperature=0.0
    )
    path = script("continue_text.py", tmp_path)
    assert run_isolated(path, decoder.path, "to be", 10) == completion.text + "\n"


def test_a_script_without_our_code_computes_the_same_logits(tmp_path):
    model = restored("convolution_pictures")
    programs, _ = written(model, tmp_path / "out")
    image = RANDOM.integers(0, 256, (3, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "in.npz", image=image)
    path = script("run_forward.py", tmp_path)
    run_isolated(path, programs.path, tmp_path / "in.npz", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as results:
        expected = computed(model, lambda module, image: module(image, train=False), image)
        np.testing.assert_allclose(results["logits"], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["attention_text", "rnn_text"])
def test_any_number_of_rows_and_tokens_can_be_read_at_once_or_one_by_one(name, decoder, tmp_path):
    model = restored(name)
    programs = decoder if name == "attention_text" else written(model, tmp_path / "out")[0]
    for rows, length in ((1, 4), (3, 7)):
        tokens = RANDOM.integers(0, 20, (rows, length), np.int32)
        expected = computed(model, lambda module, tokens: module(tokens)[0], tokens)
        forward = programs.call("forward", tokens)
        np.testing.assert_allclose(forward["logits"], expected, atol=1e-5)
        state = programs.zeros("state", batch=rows, room=length + 1)
        padded = np.pad(tokens[:, :2], ((0, 0), (0, 3)))
        results = programs.call("prefill", padded, np.int32([[1, 1, 0, 0, 0]] * rows), state)
        for place in range(2, length):
            np.testing.assert_allclose(results["logits"], expected[:, place - 1], atol=1e-5)
            results = programs.call("decode", tokens[:, place], results["state"])
        np.testing.assert_allclose(results["logits"], expected[:, -1], atol=1e-5)


def test_programs_json_describes_each_file(decoder):
    assert decoder.listing["platforms"] == ["cpu", "cuda", "tpu"]
    weights = len(decoder.weights)
    for name, function in decoder.functions.items():
        exported = decoder.exported(name)
        results = [(str(one.dtype), ", ".join(map(str, one.shape))) for one in exported.out_avals]
        assert decoder.shapes(function["results"]) == results
        assert len(exported.in_avals) - weights == len(decoder.shapes(function["inputs"]))


def test_no_file_names_the_place_of_its_source(decoder):
    for path in decoder.path.iterdir():
        assert b".py" not in path.read_bytes(), path


def test_the_description_and_the_tokenizer_are_written_once(tmp_path, monkeypatch):
    calls, write = [], native.write_description
    monkeypatch.setattr(
        native, "write_description", lambda *given: calls.append(given) or write(*given)
    )
    written(restored("rnn_text"), tmp_path / "out", GOLDEN / "rnn_text/tokenizer.json")
    ((_, _, format_name),) = calls
    assert format_name == "stablehlo"


@pytest.mark.parametrize("template", [None, "{{ bos_token }}{{ messages[0].content }}"])
def test_the_tokens_of_a_foreign_folder_are_those_it_names(template, tmp_path):
    path = tmp_path / "model"
    make_folder(path, "llama", vocab_size=write_tokenizer(path, "llama3"))
    begin, end = (Folder(path).special_tokens()[name] for name in ("bos", "eos"))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, begin]}))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    out = tmp_path / "out"
    export.main([f"--from={path}", "--format=stablehlo", "--platforms=cpu", f"--out={out}"])
    tokens = Programs(out).listing["tokens"]
    opening = [begin] if template is None else []
    assert tokens["opening"] == tokens["empty_opening"] == opening
    assert tokens["end"] == [end, begin]
    if template is not None:
        assert (out / "chat_template.jinja").read_text() == template
        assert tokens["bos_token"] == "<|begin_of_text|>"
        assert tokens["eos_token"] == "<|end_of_text|>"


@pytest.mark.parametrize("template", [None, CHAT])
def test_a_script_without_our_code_answers_as_a_model_of_conversations(template, tmp_path):
    tokenizer = Tokenizer.bytes()
    tokenizer.backend.add_special_tokens(["<|im_start|>", "<|im_end|>", "<s>"])
    if template is not None:
        frame(tokenizer.backend, ["<s>"])
    tokenizer = Tokenizer(tokenizer.backend)
    talk = {
        "data__source": "conversations",
        "data__path": "talk.jsonl",
        "task__sample_prompts": "()",
        **({} if template is None else {"data__chat_template": template}),
    }
    source = decoder_of(tmp_path, tokenizer, **talk)
    out = tmp_path / "out"
    assert not stablehlo.write(dataclasses.replace(source, platforms="cpu"), out)
    tokens = Programs(out).listing["tokens"]
    ends = "<|im_end|>" if template else SEPARATOR
    assert tokens["end"] == [tokenizer.special_tokens()[ends]]

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    prompt = environment.from_string((out / "chat_template.jinja").read_text()).render(
        messages=[{"role": "user", "content": "Hi"}],
        add_generation_prompt=True,
        bos_token=tokens["bos_token"],
        eos_token=tokens["eos_token"],
    )
    assert prompt.startswith(SEPARATOR) and prompt.count(SEPARATOR) == 1
    theirs = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    ids = theirs.encode(prompt, add_special_tokens=False).ids
    assert ids == for_prompts(tokenizer, source.config.data).encode("Hi").tolist()
    (answer,) = load_model(out).predict(prompt=["Hi"], max_tokens=6, temperature=0.0)
    path = script("continue_text.py", tmp_path)
    assert run_isolated(path, out, prompt, 6) == answer.text + "\n"


def test_every_command_opens_the_folder_as_a_model(decoder):
    opened = open_model(decoder.path)
    model = opened.restore(flat_mesh(jax.devices()[:1]), warn=print)
    assert opened.exported.format == "stablehlo"
    for name, leaf in flat(restored("attention_text").params).items():
        np.testing.assert_array_equal(flat(model.params)[name], leaf)


def test_weights_of_another_dtype_are_arguments_of_the_programs(tmp_path):
    model = restored("convolution_pictures")
    programs, _ = written(model, tmp_path / "out", dtype="bfloat16")
    image = RANDOM.integers(0, 256, (2, 8, 8, 1), np.uint8)
    logits = programs.call("forward", image)["logits"]
    assert {str(array.dtype) for array in programs.weights.values()} == {"bfloat16", "float32"}
    expected = computed(model, lambda module, image: module(image, train=False), image)
    np.testing.assert_allclose(logits, expected, atol=0.02)


@pytest.mark.parametrize(
    "format_name, platforms, message",
    [
        ("stablehlo", "cpu,gpu", "--platforms=cpu,gpu: 'gpu' is none of cpu, cuda, tpu, rocm"),
        ("safetensors", "cpu", "--platforms is for --format=stablehlo, not safetensors"),
    ],
)
def test_platforms_that_can_not_be_are_refused(format_name, platforms, message, tmp_path):
    arguments = [f"--workdir={GOLDEN / 'rnn_text'}", f"--format={format_name}"]
    with pytest.raises(UsageError, match=message):
        export.main([*arguments, f"--out={tmp_path / 'out'}", f"--platforms={platforms}"])
    assert not [*tmp_path.iterdir()]


def test_without_flatbuffers_the_error_says_how_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("interop.formats.stablehlo.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install -e '\.\[export\]'"):
        written(restored("rnn_text"), tmp_path / "out")
