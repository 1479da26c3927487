"""Exported programs of every architecture compute what the model computes, at every length."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.data_spec import DataSpec
from inference.loading import load_model
from tests.golden.recipes import RECIPES
from tests.interop.programs import (
    GOLDEN,
    Programs,
    computed,
    restored,
    run_isolated,
    script,
    untrained,
    written,
)
from training.restore import Restored

WORKDIRS = sorted(path.name for path in GOLDEN.iterdir())

TEXT = DataSpec(vocabulary_size=50, max_length=40)
LABELS = DataSpec(vocabulary_size=50, max_length=40, num_classes=3, classes=("a", "b", "c"))
PAIRS = DataSpec(vocabulary_size=50, max_source_length=40, max_length=24)
PICTURES = DataSpec(image_shape=(16, 16, 3), num_classes=3, classes=("a", "b", "c"))
SPEECH = DataSpec(num_mels=80, max_frames=90, vocabulary_size=30, max_labels=8)
SOUND_LABELS = DataSpec(num_mels=40, max_frames=90, num_classes=3, classes=("a", "b", "c"))
WINDOW = {"model.attention_window": "8"}
UNTRAINED: Mapping[str, tuple[str, DataSpec, Mapping[str, str]]] = {
    "resnet": ("cifar10_resnet18", PICTURES, {}),
    "resnet of large images": ("imagenet_resnet50", PICTURES, {"model.stem": "large"}),
    "convnext": ("digits_convnext", PICTURES, {}),
    "vit of large images": ("imagenet_vit_s16", PICTURES, {}),
    "conformer": ("speech_conformer_ctc", SPEECH, {}),
    "conformer of classes": ("speech_classification", SOUND_LABELS, {}),
    "recurrent encoder-decoder": ("translation_rnn", PAIRS, {}),
    "encoder-decoder": ("translation_transformer", PAIRS, {"model.encoder_pattern": "AC"}),
    "encoder-decoder with rg_lru": (
        "translation_transformer",
        PAIRS,
        {"model.encoder_pattern": "R", "model.recurrence": "rg_lru"},
    ),
    "bert": ("masked_language_model", TEXT, {}),
    "text classifier": ("text_classification", LABELS, {}),
    "gpt2": ("gpt2_124m", TEXT, {}),
    "hybrid": ("text_hybrid", TEXT, WINDOW),
    "windows": ("python_stdlib", TEXT, WINDOW),
    "scanned layers": ("python_stdlib", TEXT, {"model.scan_layers": "true"}),
    "bfloat16": ("python_stdlib", TEXT, {"precision.compute_dtype": "bfloat16"}),
}
TOLERANCE = {"bfloat16": 0.05}


@pytest.fixture(scope="module", params=[*WORKDIRS, *UNTRAINED])
def case(request, tmp_path_factory) -> tuple[Restored, Programs, float]:
    """A model, its programs, and the tolerance for their results."""
    name = request.param
    model = model_of(name)
    programs = programs_of(name, model, tmp_path_factory.mktemp("programs") / "out")
    return model, programs, TOLERANCE.get(name, 1e-5)


def model_of(name: str) -> Restored:
    """Return the model of a golden workdir, or one of `UNTRAINED`."""
    if name not in UNTRAINED:
        return restored(name)
    recipe, spec, fields = UNTRAINED[name]
    small = {n: v for n, v in RECIPES[recipe].items() if n.startswith("model.")}
    float32 = {"precision.compute_dtype": "float32", "precision.products": "float32"}
    return untrained(recipe, spec, small | float32 | fields)


def programs_of(name: str, model: Restored, out: Path) -> Programs:
    """Write the programs of a model, with the tokenizer of its workdir."""
    tokenizer = GOLDEN / name / "tokenizer.json"
    return written(model, out, tokenizer if tokenizer.exists() else None)[0]


def test_forward_computes_the_same_logits_at_every_length(case):
    model, programs, tolerance = case
    function = programs.functions["forward"]
    for which, file in enumerate(function["files"]):
        sizes = {"batch": 3, "length": 13, "source_length": 11} | file["sizes"]
        inputs = {n: drawn(n, one, sizes) for n, one in function["inputs"].items()}
        expected = computed(model, call_of(model, inputs), *inputs.values())
        results = programs.call("forward", *inputs.values(), which=which)
        difference = results["logits"] - expected
        if "segments" in results:  # What a recogniser says of padding means nothing.
            difference = np.where(results["segments"][:, :, None] != 0, difference, 0)
        assert np.abs(difference).max() <= tolerance * max(1, np.abs(expected).max())


def test_a_text_is_read_in_parts_as_at_once(case):
    model, programs, tolerance = case
    if "decode" not in programs.functions or "memory" in programs.listing["groups"]:
        pytest.skip("no language model")
    tokens = np.random.default_rng(0).integers(0, 20, (2, 24), np.int32)
    expected = np.asarray(computed(model, lambda module, x: module(x)[0], tokens))
    state = programs.zeros("state", batch=2, room=24)
    files = programs.functions["prefill"]["files"]
    assert files[0]["sizes"].get("length", 16) == 16
    segments = np.ones((2, 16), np.int32)
    results = programs.call("prefill", tokens[:, :16], segments, state, which=0)
    for place in range(16, 24):
        np.testing.assert_allclose(
            results["logits"], expected[:, place - 1], atol=tolerance * np.abs(expected).max()
        )
        results = programs.call("decode", tokens[:, place], results["state"])


def test_programs_json_describes_the_results(case):
    _, programs, _ = case
    for name, function in programs.functions.items():
        described = programs.shapes(function["results"])
        for size, value in function["files"][-1]["sizes"].items():
            described = [(d, re.sub(rf"\b{size}\b", str(value), shape)) for d, shape in described]
        results = [
            (str(one.dtype), ", ".join(map(str, one.shape)))
            for one in programs.exported(name).out_avals
        ]
        assert described == results, name


@pytest.mark.parametrize("name", ["resnet", "recurrence_sound"])
def test_a_script_without_our_code_computes_the_same_logits(name, tmp_path):
    model = model_of(name)
    programs = programs_of(name, model, tmp_path / "out")
    specs = programs.functions["forward"]["inputs"]
    inputs = {n: drawn(n, one, {"batch": 2, "length": 9}) for n, one in specs.items()}
    np.savez(tmp_path / "in.npz", **inputs)
    path = script("run_forward.py", tmp_path)
    run_isolated(path, programs.path, tmp_path / "in.npz", tmp_path / "out.npz")
    expected = computed(model, call_of(model, inputs), *inputs.values())
    with np.load(tmp_path / "out.npz") as results:
        np.testing.assert_allclose(results["logits"], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["recurrence_text", "hybrid_text"])
def test_a_script_without_our_code_writes_the_same_text(name, tmp_path):
    loaded = load_model(GOLDEN / name)
    programs = programs_of(name, loaded.restored, tmp_path / "out")
    (completion,) = loaded.predict(prompt=["to be"], max_tokens=10, temperature=0.0)
    path = script("continue_text.py", tmp_path)
    assert run_isolated(path, programs.path, "to be", 10) == completion.text + "\n"


def test_an_encoder_decoder_writes_what_generate_writes(tmp_path):
    workdir = GOLDEN / "attention_pairs"
    model = load_model(workdir)
    programs, _ = written(model.restored, tmp_path / "out", workdir / "tokenizer.json")
    special = programs.listing["tokens"]
    text = "monday, the 3rd of may 1999"
    ((_, answer),) = model.predict(prompt=[text], beam_size=1)
    source = np.array([[*model.tokenizer.encode(text), special["separator"]]], np.int32)
    results = programs.call("prefill", source, np.ones_like(source))
    memory, state, written_ids = results["memory"], results["state"], []
    token = special["separator"]
    while len(written_ids) < 15:
        results = programs.call("decode", np.array([token], np.int32), memory, state)
        logits, state = np.array(results["logits"][0]), results["state"]
        logits[special["unwritable"]] = -np.inf
        token = int(logits.argmax())
        if token in special["end"]:
            break
        written_ids.append(token)
    assert model.tokenizer.decode(written_ids) == answer.text


def drawn(name: str, spec: Mapping[str, Any], sizes: Mapping[str, int]) -> np.ndarray:
    """Return an input; rows have padding of several lengths at their end."""
    random = np.random.default_rng(len(name))
    shape = [
        eval(size, {}, dict(sizes)) if isinstance(size, str) else size for size in spec["shape"]
    ]
    if name.endswith("segments"):
        lengths = shape[1] - np.arange(shape[0]) * (shape[1] // 4)
        return (np.arange(shape[1]) < lengths[:, None]).astype(np.int32)
    if spec["dtype"] == "float32":
        return random.normal(size=shape).astype(np.float32)
    return random.integers(0, 10, shape).astype(spec["dtype"])


def call_of(model: Restored, inputs: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function of the module that computes logits from these inputs."""
    is_classifier = model.model_def.data_spec.num_classes is not None
    if "image" in inputs:
        return lambda module, image: module(image, train=False)
    if "source" in inputs:
        return lambda module, source, segments, tokens: module.head(
            module.hidden(tokens, module.encode(source, segments_BS=segments))[0]
        )
    if is_classifier:
        return lambda module, first, segments: module.classify(first, segments_BT=segments)
    if "frames" in inputs:
        return lambda module, frames, segments: module.transcribe(frames, segments_BT=segments)[0]
    if "segments" in inputs:
        return lambda module, tokens, segments: module(tokens, segments_BT=segments)[0]
    return lambda module, tokens: module(tokens)[0]
