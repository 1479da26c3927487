"""What the command line says of a field is what the configuration holds."""

import typing
from itertools import islice, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line
from configs.reading.fields import flatten, format_value
from configs.reading.names import fields
from configs.reading.recipes import load_config
from configs.reading.validation import parse_value
from configs.schema.data import Text
from configs.schema.model import (
    ARCHITECTURES,
    RNN,
    EncoderDecoder,
    RNNEncoderDecoder,
    TokenBlocks,
)
from configs.schema.pairs import WrittenPairs
from configs.schema.pictures import Augmentation, Pictures
from configs.schema.serve import Serve
from configs.schema.settings import kind_name, union_members
from configs.schema.source import Source
from configs.schema.task import SequenceToSequence, Tokens

TEXT, PICTURES = "tests/configs/text_recipe.py", "configs/digits_cnn.py"
PAIRS = "configs/dates_seq2seq.py"
FROM_FILES = {"data.source": "text_files"}
MIXED = {"data.source": "mixture"}
PARALLEL = {"data.source": "parallel_text"}
NEAR = {"data.cleaning.duplicates": "near"}
MASKED = {
    "task.name": "masked_language_modeling",
    "model.architecture": "encoder",
    "checkpoint.best_metric": "loss",
}
VIT, RESNET = {"model.architecture": "vit"}, {"model.architecture": "resnet"}
CONVNEXT = {"model.architecture": "convnext"}
PADDED = {"data.augmentation.crop": "padded"}
RESIZED = {"data.augmentation.crop": "random_resized"}
RANDOM = {"data.augmentation.randaugment_layers": "2"}
WITH_FILE = {"data.tokenizer.kind": "file"}
LORA = {"train.lora.rank": "4"}
SPIKES = {"train.loss_spikes.skip_batches": "100"}
TALK = {"data.source": "conversations"}
SPEECH = {
    "task.name": "speech_recognition",
    "data.source": "tones",
    "model.architecture": "conformer",
    "checkpoint.best_metric": "wer",
}
FROM_TABLE = SPEECH | {"data.source": "sound_transcripts"}
FROM_SET = SPEECH | {"data.source": "tfds_sound_transcripts"}
LOUD = SPEECH | {"data.normalization": "none"}
NOISY = SPEECH | {"data.augmentation.noise_probability": "1"}
BANDS = SPEECH | {"data.augmentation.frequency_masks": "2"}
TIMES = SPEECH | {"data.augmentation.time_masks": "2"}

# Every field: what else must hold for it to matter, its text on the command line, its value.
SETTABLE = {
    "seed": ({}, "7", 7),
    "task.name": ({}, "language_modeling", "language_modeling"),
    "task.label_smoothing": ({}, "0.1", 0.1),
    "task.z_loss": ({}, "1e-4", 1e-4),
    "task.loss_chunks": ({}, "8", 8),
    "task.mask_fraction": (MASKED, "0.3", 0.3),
    "task.class_weights": ({}, "1,2.5", (1.0, 2.5)),
    "task.mixup": ({}, "0.2", 0.2),
    "task.cutmix": ({}, "1", 1.0),
    "task.beam_size": ({}, "8", 8),
    "task.length_penalty": ({"task.beam_size": "4"}, "1", 1.0),
    "task.answer_length_ratio": ({}, "1.5", 1.5),
    "task.answered_examples": ({}, "1000", 1000),
    "task.sample_prompts": ({}, '("Hello, world", "x")', ("Hello, world", "x")),
    "task.sample_tokens": ({}, "1_000", 1000),
    "task.sample_temperature": ({}, "0", 0.0),
    "task.decoder": (SPEECH, "beam", "beam"),
    "train.steps": ({}, "1", 1),
    "train.epochs": ({}, "2.5", 2.5),
    "train.log_every_steps": ({}, "3", 3),
    "train.evaluate_every_steps": ({}, "9999", 9999),
    "train.gradient_accumulation": ({}, "4", 4),
    "train.initialize_from": ({}, "runs/a", "runs/a"),
    "train.initialize_step": ({"train.initialize_from": "runs/a"}, "120", "120"),
    "train.ignore_fields": ({}, "logit_scale,a.b", ("logit_scale", "a.b")),
    "train.freeze": ({}, "embedding.*,norm.?", ("embedding.*", "norm.?")),
    "train.lora.rank": ({}, "8", 8),
    "train.lora.alpha": (LORA, "32", 32.0),
    "train.lora.on": (LORA, "*.query.kernel", ("*.query.kernel",)),
    "train.lora.train_also": (LORA, "classes.*", ("classes.*",)),
    "train.ema_decay": ({}, ".999", 0.999),
    "train.stop_after_evaluations": ({}, "3", 3),
    "train.max_skipped_steps": ({}, "1", 1),
    "train.loss_spikes.skip_batches": ({}, "200", 200),
    "train.loss_spikes.threshold": (SPIKES, "5", 5.0),
    "train.loss_spikes.steps": (SPIKES, "10", 10),
    "train.loss_spikes.max_rollbacks": (SPIKES, "1", 1),
    "train.recompute_every_steps": ({}, "1000", 1000),
    "train.compare_replicas_every_steps": ({}, "100", 100),
    "train.hang_seconds": ({}, "60", 60),
    "train.log_batch_crc32": ({}, "true", True),
    "train.tune_environment": ({}, "false", False),
    "train.matrix_products": ({}, "onednn", "onednn"),
    "train.deterministic": ({}, "true", True),
    "train.profile_from_step": ({}, "7", 7),
    "train.profile_steps": ({"train.profile_from_step": "7"}, "2", 2),
    "train.debug_nans": ({}, "true", True),
    "train.wandb_project": ({}, "mine", "mine"),
    "data.source": ({}, "text_files", "text_files"),
    "data.global_batch_size": ({}, "64", 64),
    "data.validation_fraction": ({}, "0.0", 0.0),
    "data.workers": ({}, "2", 2),
    "data.cache_dir": ({}, "/tmp/cache", "/tmp/cache"),
    "data.sequence_length": ({}, "2", 2),
    "data.packing": ({}, "best_fit", "best_fit"),
    "data.cross_document_attention": ({}, "False", False),
    "data.cleaning.unicode": ({}, "nfkc", "nfkc"),
    "data.cleaning.control_characters": ({}, "remove", "remove"),
    "data.cleaning.minimum_characters": ({}, "20", 20),
    "data.cleaning.maximum_characters": ({}, "100_000", 100_000),
    "data.cleaning.duplicates": ({}, "exact", "exact"),
    "data.cleaning.near_similarity": (NEAR, "0.8", 0.8),
    "data.cleaning.near_shingle": (NEAR, "characters", "characters"),
    "data.cleaning.near_shingle_length": (NEAR, "5", 5),
    "data.tokenizer.kind": ({}, "bytes", "bytes"),
    "data.tokenizer.vocabulary_size": ({}, "258", 258),
    "data.tokenizer.path": (WITH_FILE, "a/tokenizer.json", "a/tokenizer.json"),
    "data.max_source_length": ({}, "64", 64),
    "data.max_target_length": ({}, "64", 64),
    "data.length_buckets": ({}, "8", 8),
    "data.source_language": (PARALLEL, "fr", "fr"),
    "data.target_language": (PARALLEL, "fr", "fr"),
    "data.source_field": (PARALLEL, "question", "question"),
    "data.target_field": (PARALLEL, "answer", "answer"),
    "data.parts": (MIXED, "python_stdlib,text_files:a b", ("python_stdlib", "text_files:a b")),
    "data.weights": (MIXED, "7,0.5", (7.0, 0.5)),
    "data.name": ({"data.source": "tfds"}, "letters/loud:1.2.0", "letters/loud:1.2.0"),
    "data.data_dir": ({"data.source": "tfds"}, "/sets", "/sets"),
    "data.text_field": ({"data.source": "records"}, "body", "body"),
    "data.path": (FROM_FILES, "a b/*.txt", "a b/*.txt"),
    "data.splits": (FROM_FILES, "none", "none"),
    "data.invalid_utf8": (FROM_FILES, "replace", "replace"),
    "data.prompt_field": (TALK, "question", "question"),
    "data.answer_field": (TALK, "reply", "reply"),
    "data.messages_field": (TALK, "turns", "turns"),
    "data.chat_template": (TALK, "{{ messages[0].content }}", "{{ messages[0].content }}"),
    "data.image_size": ({"data.source": "image_folder"}, "16", 16),
    "data.channels": ({"data.source": "image_folder"}, "1", 1),
    "data.crop_ratio": ({}, "0.875", 0.875),
    "data.max_value": ({"data.source": "image_folder"}, "4095", 4095.0),
    "data.resize": ({}, "squeeze", "squeeze"),
    "data.interpolation": ({}, "bilinear", "bilinear"),
    "data.decoded": ({}, "files", "files"),
    "data.decoded_bytes": ({}, "1_000", 1000),
    "data.broken_fraction": ({}, "0", 0.0),
    "data.max_seconds": (SPEECH, "20", 20.0),
    "data.image_field": ({"data.source": "tfds_pictures"}, "picture", "picture"),
    "data.label_field": ({"data.source": "tfds_pictures"}, "class", "class"),
    "data.augmentation.crop": ({}, "padded", "padded"),
    "data.augmentation.crop_padding": (PADDED, "2", 2),
    "data.augmentation.crop_smallest_area": (RESIZED, "0.25", 0.25),
    "data.augmentation.crop_largest_aspect": (RESIZED, "1.5", 1.5),
    "data.augmentation.flip_probability": ({}, "0.5", 0.5),
    "data.augmentation.brightness": ({}, "0.4", 0.4),
    "data.augmentation.contrast": ({}, "0.4", 0.4),
    "data.augmentation.saturation": ({}, "0.4", 0.4),
    "data.augmentation.randaugment_layers": ({}, "2", 2),
    "data.augmentation.randaugment_magnitude": (RANDOM, "9", 9.0),
    "data.augmentation.erasing_probability": ({}, "0.25", 0.25),
    "data.sample_rate": (SPEECH, "16_000", 16_000),
    "data.num_mels": (SPEECH, "64", 64),
    "data.window_milliseconds": (SPEECH, "32", 32.0),
    "data.hop_milliseconds": (SPEECH, "12.5", 12.5),
    "data.normalization": (SPEECH, "none", "none"),
    "data.lowercase": (SPEECH, "true", True),
    "data.path_field": (FROM_TABLE, "file", "file"),
    "data.sound_field": (FROM_SET, "speech", "speech"),
    "data.recordings": (SPEECH, "500", 500),
    "data.most_digits": (SPEECH, "4", 4),
    "data.lowest_ratio": (SPEECH, "-5", -5.0),
    "data.augmentation.shift_milliseconds": (SPEECH, "100", 100.0),
    "data.augmentation.speed": (SPEECH, "0.1", 0.1),
    "data.augmentation.gain_decibels": (LOUD, "6", 6.0),
    "data.augmentation.noise_probability": (SPEECH, "0.5", 0.5),
    "data.augmentation.noise_lowest_ratio": (NOISY, "0", 0.0),
    "data.augmentation.noise_highest_ratio": (NOISY, "30", 30.0),
    "data.augmentation.frequency_masks": (SPEECH, "2", 2),
    "data.augmentation.frequency_mask_bands": (BANDS, "27", 27),
    "data.augmentation.time_masks": (SPEECH, "10", 10),
    "data.augmentation.time_mask_frames": (TIMES, "40", 40),
    "data.augmentation.time_mask_fraction": (TIMES, "0.05", 0.05),
    "model.architecture": ({}, "decoder", "decoder"),
    "model.width": ({}, "64", 64),
    "model.depth": ({}, "3", 3),
    "model.pattern": ({}, "RRA", "RRA"),
    "model.convolution_size": ({"model.pattern": "C"}, "7", 7),
    "model.norm_placement": ({}, "post", "post"),
    "model.pooling": (VIT, "mean", "mean"),
    "model.patch_size": (VIT, "4", 4),
    "model.bidirectional": ({"model.architecture": "rnn"}, "false", False),
    "model.stem": (RESNET, "large", "large"),
    "model.squeeze_excitation": (RESNET, "true", True),
    "model.zero_init_residual": (RESNET, "true", True),
    "model.recurrence": ({"model.pattern": "AR"}, "lstm", "lstm"),
    "model.num_heads": ({}, "8", 8),
    "model.num_kv_heads": ({}, "2", 2),
    "model.head_dim": ({}, "10", 10),
    "model.attention_window": ({}, "32", 32),
    "model.attention": ({}, "xla", "xla"),
    "model.positions": ({}, "none", "none"),
    "model.rotary_base": ({}, "5e5", 500000.0),
    "model.rotary_scaling": ({}, "8,1,4,8192", (8.0, 1.0, 4.0, 8192.0)),
    "model.token_types": (MASKED, "2", 2),
    "model.embedding_norm": (MASKED, "true", True),
    "model.head_transform": (MASKED, "true", True),
    "model.class_token_position": (VIT, "true", True),
    "model.pixel_mean": (RESNET, "0.485,0.456,0.406", (0.485, 0.456, 0.406)),
    "model.pixel_std": (VIT, "0.25", (0.25,)),
    "model.response_norm": (CONVNEXT, "true", True),
    "model.head_norm_epsilon": (CONVNEXT, "1e-12", 1e-12),
    "model.norm": ({}, "layer_norm", "layer_norm"),
    "model.norm_epsilon": ({}, "1e-6", 1e-6),
    "model.feed_forward": ({}, "gelu", "gelu"),
    "model.feed_forward_width": ({}, "100", 100),
    "model.use_bias": ({}, "true", True),
    "model.qkv_bias": ({}, "true", True),
    "model.qk_norm": ({}, "true", True),
    "model.tied_embeddings": ({}, "TRUE", True),
    "model.dropout": ({}, "0.25", 0.25),
    "model.stochastic_depth": ({}, "0.1", 0.1),
    "model.logit_soft_cap": ({}, "30", 30.0),
    "model.remat": ({}, "dots", "dots"),
    "model.scan_layers": ({}, "true", True),
    "model.channels": ({}, "8,16", (8, 16)),
    "optimizer.name": ({}, "adamw", "adamw"),
    "optimizer.learning_rate": ({}, "3e-4", 3e-4),
    "optimizer.schedule": ({}, "constant", "constant"),
    "optimizer.warmup_steps": ({}, "100000", 100000),
    "optimizer.final_learning_rate_ratio": ({}, "1", 1.0),
    "optimizer.decay_fraction": ({"optimizer.schedule": "wsd"}, "0.5", 0.5),
    "optimizer.learning_rate_multipliers": ({}, "a.*=0.5,b=2e-1", ("a.*=0.5", "b=2e-1")),
    "optimizer.no_decay": ({}, "embedding.*,norm.?", ("embedding.*", "norm.?")),
    "optimizer.state_dtype": ({}, "bfloat16", "bfloat16"),
    "optimizer.momentum": ({"optimizer.name": "muon"}, "0.9", 0.9),
    "optimizer.nesterov": ({"optimizer.name": "sgd"}, "false", False),
    "optimizer.decay_exponent": ({"optimizer.name": "adafactor"}, "0.5", 0.5),
    "optimizer.weight_decay": ({}, "0", 0.0),
    "optimizer.beta1": ({}, "0", 0.0),
    "optimizer.beta2": ({}, "0.999", 0.999),
    "optimizer.epsilon": ({}, "1e-6", 1e-6),
    "optimizer.gradient_clip_norm": ({}, "0.5", 0.5),
    "mesh.data": ({}, "8", 8),
    "mesh.fsdp": ({}, "2", 2),
    "mesh.tensor": ({"mesh.data": "1"}, "-1", -1),
    "mesh.sequence": ({}, "4", 4),
    "precision.compute_dtype": ({}, "bfloat16", "bfloat16"),
    "precision.products": ({}, "bfloat16", "bfloat16"),
    "precision.parameter_dtype": ({}, "bfloat16", "bfloat16"),
    "checkpoint.every_steps": ({}, "10", 10),
    "checkpoint.keep_last": ({}, "5", 5),
    "checkpoint.keep_best": ({}, "0", 0),
    "checkpoint.max_failed_saves": ({}, "5", 5),
    "checkpoint.mirror": ({}, "s3://bucket/run", "s3://bucket/run"),
    "checkpoint.best_metric": ({}, "accuracy", "accuracy"),
} | {
    path: ({}, "fsdp,tensor", ("fsdp", "tensor"))
    for path in fields()
    if path.startswith("mesh.rules.")
}  # fmt: skip


for kind in ARCHITECTURES:  # of one whose fields need nothing, they are tried as they are
    for name, info in kind.model_fields.items():
        hears = "transcribed_sound" in kind.modalities
        named = (SPEECH if hears else {}) | {"model.architecture": kind_name(kind)}
        SETTABLE.setdefault(f"model.{name}", (named, format_value(info.default), info.default))


OTHER_VALUES = {
    bool: True,
    int: 7,
    float: 7.5,
    str: "mine",
    tuple: ("one.example", "other.example"),
    type(None): 7,  # in place of no limit
}

for name, info in Serve.model_fields.items():  # none of them needs another one
    value = OTHER_VALUES[type(info.default)]
    SETTABLE[f"serve.{name}"] = ({}, format_value(value), value)


def own(kind, base) -> set[str]:
    """The fields that `kind` has and `base` has not."""
    return set(kind.model_fields) - set(base.model_fields)


OF_PICTURES = {
    "model.channels",
    *(f"task.{name}" for name in ("class_weights", "mixup", "cutmix")),
    *(f"data.{name}" for name in Pictures.model_fields if name not in Text.model_fields),
    *(f"data.augmentation.{name}" for name in Augmentation.model_fields),
    "data.image_field",
    "data.label_field",
}
OF_PAIRS = {
    *(f"task.{name}" for name in own(SequenceToSequence, Tokens)),
    *(f"data.{name}" for name in own(WrittenPairs, Source)),
    *(f"model.{name}" for name in own(EncoderDecoder, TokenBlocks)),
    *(f"model.{name}" for name in own(RNNEncoderDecoder, RNN)),
} - {"task.name", "data.source", "data.tokenizer", "data.invalid_utf8", "model.architecture"}


def recipe_of(path: str) -> str:
    """A recipe whose sections may have the field."""
    architecture = SETTABLE[path][0].get("model.architecture")
    pictures = {kind_name(kind) for kind in ARCHITECTURES if "pictures" in kind.modalities}
    pairs = {kind_name(kind) for kind in ARCHITECTURES if "text_pairs" in kind.modalities}
    if path in OF_PICTURES or architecture in pictures:
        return PICTURES
    return PAIRS if path in OF_PAIRS or architecture in pairs else TEXT


def test_the_table_has_every_field():
    assert set(SETTABLE) == set(fields())


@pytest.mark.parametrize("path", SETTABLE)
def test_every_field_can_be_set(path):
    others, text, value = SETTABLE[path]
    config = load_config(recipe_of(path), {path: text} | others, inputs=False)
    found = flatten(config)[path].value
    assert (found, type(found)) == (value, type(value))


OPTIONAL = [path for path, info in fields().items() if type(None) in union_members(info.annotation)]


@pytest.mark.parametrize("path", OPTIONAL)
def test_every_optional_field_can_be_unset(path, tmp_path):
    recipe = tmp_path / "recipe.py"
    source = SETTABLE[path][0].get("data.source", "text_files")
    make = f'language_modeling(source="{source}", tokenizer="file")'
    if path in OF_PICTURES:
        make = f'image_classification(source="{source}")'
    if source == SPEECH["data.source"]:
        make = f'speech_recognition(source="{source}", architecture="conformer")'
    if recipe_of(path) == PAIRS:
        model = SETTABLE[path][0].get("model.architecture", "encoder_decoder")
        make = f'sequence_to_sequence(architecture="{model}")'
    recipe.write_text(
        "from configs import base\n"
        "def get_config():\n"
        f"    config = base.{make}\n"
        f"    config.{path} = {SETTABLE[path][2]!r}\n"
        "    return config\n"
    )
    assert flatten(load_config(recipe, inputs=False))[path].value == SETTABLE[path][2]
    unset = load_config(recipe, {path: "none"}, inputs=False)
    assert flatten(unset)[path].value is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("()", ()),
        ("[]", ()),
        ("fsdp", ("fsdp",)),
        ("fsdp,", ("fsdp",)),
        ("fsdp, data", ("fsdp", "data")),
        ("(fsdp, data)", ("fsdp", "data")),
        ("('fsdp', 'data')", ("fsdp", "data")),
        ('["fsdp"]', ("fsdp",)),
        ('("fsdp")', ("fsdp",)),
    ],
)
def test_tuples_can_be_written_as_people_write_them(text, value):
    config = load_config(TEXT, {"mesh.rules.embed": text})
    assert config.mesh.rules.embed == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Hello", ("Hello",)),
        ("1, 2", ("1", "2")),
        ("", ("",)),
        ('"Hello, world"', ("Hello, world",)),
        ('"one, two", "three"', ("one, two", "three")),
        ("('one')", ("one",)),
        (r"'a\nb'", ("a\nb",)),
        ("f(x", ("f(x",)),
        ("it's", ("it's",)),
    ],
)
def test_texts_in_a_tuple_need_quotes_only_for_commas(text, value):
    assert load_config(TEXT, {"task.sample_prompts": text}).task.sample_prompts == value


def _any_value(annotation) -> st.SearchStrategy:
    if annotation is int:
        return st.integers()
    if annotation is float:
        return st.floats(allow_nan=False)
    if annotation is bool:
        return st.booleans()
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    return st.text().filter(lambda text: text.lower() != "none")


@given(data=st.data(), path=st.sampled_from(sorted(fields())))
def test_what_explain_prints_can_be_given_back(data, path):
    member, *others = union_members(fields()[path].annotation)
    member = union_members(member)[0]
    if typing.get_origin(member) is tuple:
        element = union_members(typing.get_args(member)[0])[0]
        value = data.draw(st.lists(_any_value(element)).map(tuple))
    else:
        value = data.draw(_any_value(member) | st.none() if others else _any_value(member))
    assert parse_value(format_value(value), fields()[path]) == value


def test_another_kind_keeps_what_the_recipe_set_whatever_the_order_of_the_flags():
    flags = {
        "model.architecture": "decoder",
        "data.source": "python_stdlib",
        "data.tokenizer.kind": "bpe",
        "data.tokenizer.vocabulary_size": "300",
        "task.name": "language_modeling",
        "model.depth": "2",
        "checkpoint.best_metric": "loss",
    }
    configs = [
        load_config(PICTURES, dict(order))
        for order in islice(permutations(flags.items()), 0, None, 101)
    ]
    first = configs[0]
    assert all(config == first for config in configs[1:])
    assert first.model.depth == 2
    assert first.model.dropout == load_config(PICTURES).model.dropout == 0.3  # set by the recipe
    assert first.data.global_batch_size == load_config(PICTURES).data.global_batch_size
    assert first.data.tokenizer.vocabulary_size == 300
    assert first.data.sequence_length == 256  # the default of its new kind


def test_the_kind_that_a_section_has_already_changes_nothing():
    assert load_config(TEXT, {"model.architecture": "decoder"}) == load_config(TEXT)
    assert load_config(TEXT, {"data.tokenizer.kind": "bpe"}) == load_config(TEXT)
    assert load_config(TEXT, {"data.source": "text_files"}, inputs=False).data.tokenizer == (
        load_config(TEXT).data.tokenizer
    )


def test_flags_take_their_value_with_or_without_the_equals_sign(parse):
    recipe = f"--config={TEXT}"
    joined = parse(recipe, "--workdir=a", "--max_tokens=5", "--config.mesh.data=-1")
    apart = parse(
        "--config", TEXT, "--workdir", "a", "--max_tokens", "5", "--config.mesh.data", "-1"
    )
    assert joined == apart
    assert (joined.max_tokens, joined.overrides) == (5, {"mesh.data": "-1"})


def test_flags_have_their_defaults(parse):
    read = parse("--config=x", "--workdir=y")
    assert (read.explain, read.prompt, read.max_tokens, read.top_p) == (False, (), 100, None)
    assert read.overrides == {}


def test_a_repeatable_flag_keeps_every_value_in_order(parse):
    read = parse("--config=x", "--workdir=y", "--prompt=b=c", "--prompt=", "--prompt", "a b")
    assert read.prompt == ("b=c", "", "a b")


def test_a_verb_without_recipe_takes_no_field():
    flags = [Flag("workdir", "the folder of the run")]
    with pytest.raises(UsageError, match="the configuration is the workdir's"):
        parse_command_line(["--config.train.steps=3"], flags)
    assert parse_command_line(["--config.seed=3"], flags, overrides=True).overrides == {"seed": "3"}


def test_help_shows_every_flag_and_ends_well(parse, capsys):
    with pytest.raises(SystemExit) as end:
        parse("--workdir=x", "--help")
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "--max_tokens=VALUE" in shown
    assert "an integer >= 1; default 100" in shown
    assert "--config=FILE" in shown and "required" in shown
    assert "may be repeated" in shown and "one of ema, raw" in shown
    assert "--config.SECTION.FIELD=VALUE" in shown
