"""The fields of a folder's files that no table of a family reads, and that change no number.

Every other field that is there, and neither null, false nor empty, is refused by name:
transformers may compute something with it that our models don't.
"""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from configs.errors import UsageError
from interop.json_fields import JsonFields

COMMON = (
    # where the file is from, and who reads it
    "_name_or_path", "name_or_path", "_commit_hash", "architectures", "auto_map", "model_type",
    "transformers_version", "tokenizer_class", "processor_class", "transformers.js_config",
    "license", "unsloth_fixed", "unsloth_version",
    # numbers and memory
    "dtype", "torch_dtype", "torchscript", "use_bfloat16", "tf_legacy_loss", "xla_device",
    "use_cache", "gradient_checkpointing", "chunk_size_feed_forward", "pretraining_tp",
    "_attn_implementation", "attn_implementation", "_attn_implementation_autoset",
    "_experts_implementation", "experts_implementation", "_flash_attn_2_enabled",
    # what is returned besides
    "return_dict", "use_return_dict", "output_attentions", "output_hidden_states", "output_past",
    # training
    "*dropout*", "*_pdrop", "*layerdrop", "drop_path_rate", "initializer_range",
    "initializer_factor", "init_std", "layer_scale_init_value",
    # classes, which the kernel of the head counts
    "id2label", "label2id", "num_labels", "_num_labels", "finetuning_task",
    # tokens and lengths
    "*_token_id", "*_token_ids", "*_token_index", "bos_token", "eos_token", "pad_token",
    "mask_token", "max_position_embeddings", "model_max_length", "max_sequence_length",
    # how texts are generated
    "task_specific_params", "prefix", "do_sample", "early_stopping", "num_beams", "temperature",
    "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "repetition_penalty",
    "encoder_repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "num_assistant_tokens*",
    "assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind",
    "num_beam_groups", "diversity_penalty", "max_length", "min_length", "max_new_tokens",
    "renormalize_logits", "force_bos_token_to_be_generated",
)  # fmt: skip
"""Patterns of names in config.json of every family."""

PICTURES = (
    "tie_word_embeddings", "out_features", "out_indices", "_out_features",
    "_out_indices", "stage_names", "encoder_stride", "pooler_act", "pooler_output_size",
)  # fmt: skip
PAIRS = (
    "static_position_embeddings", "extra_pos_embeddings", "add_final_layer_norm",
    "normalize_before", "normalize_embedding", "layernorm_variant", "do_blenderbot_90_layernorm",
)  # fmt: skip
"""Fields of the first encoder-decoders of transformers, which later ones don't read."""

OF_FAMILY: Mapping[str, Sequence[str]] = {
    "llama": ("is_llama_config",),
    "gpt2": ("n_ctx", "summary_*", "reorder_and_upcast_attn"),
    "bert": (
        "tie_word_embeddings", "pooler_fc_size", "pooler_num_attention_heads",
        "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "directionality",
    ),
    "eurobert": ("classifier_pooling", "clf_pooling"),
    "vit": PICTURES,
    "siglip": (*PICTURES, "text_config", "vision_use_head", "projection_dim"),
    "resnet": PICTURES,
    "convnext": PICTURES,
    "convnextv2": PICTURES,
    "pegasus": PAIRS,
    "marian": PAIRS,
    "m2m_100": PAIRS,
    "blenderbot": PAIRS,
    "t5gemma": (
        "vocab_size", "tie_word_embeddings", "is_decoder", "sliding_window",
        "cross_attention_hidden_size",
    ),
}  # fmt: skip
"""Patterns of further names in config.json of a family."""

USUAL: Mapping[str, Sequence[Any]] = {"problem_type": ("single_label_classification",)}
"""Fields that only change nothing with one of these values."""

_BART = {
    "num_hidden_layers": "encoder_layers",
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
}
OTHER_NAMES: Mapping[str, Mapping[str, str]] = {
    "gpt2": {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    "convnext": {"num_hidden_layers": "num_stages"},
    "convnextv2": {"num_hidden_layers": "num_stages"},
    **dict.fromkeys(("pegasus", "marian", "m2m_100", "blenderbot"), _BART),
}
"""Second names of fields in config.json of a family, each with the first. In transformers the
second counts if a file has both."""

OF_PREPROCESSOR = (
    "image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb",
    "data_format", "input_data_format", "device", "return_tensors", "disable_grouping",
    "default_to_square", "_valid_processor_keys", "auto_map", "transformers_version", "use_fast",
    "backend",
)  # fmt: skip
"""Names in preprocessor_config.json."""

_MAX_CHARACTERS = 60


def check_config(config: JsonFields, family: str) -> None:
    """Check the fields of config.json that the table of a family did not read.

    Raises `UsageError` for one that may change what the model computes, and for a second name
    whose value differs from the first one's; the message names them.
    """
    for other, name in OTHER_NAMES.get(family, {}).items():
        if other in config and config.value(other) != config.value(name, None):
            config.reject(other, f"it is another name of {name}, and must be the same")
    for name, values in USUAL.items():
        config.require(**{name: [*values, None]})
    check_fields(config, (*COMMON, *OF_FAMILY.get(family, ())))


def check_fields(fields: JsonFields, harmless: Sequence[str]) -> None:
    """Raise `UsageError` for fields that nobody read, unless they are null, false, empty, or match
    one of the patterns `harmless`; the message names them."""
    unknown = {
        section + name: value
        for section, name, value in fields.unread()
        if value is not None
        and value is not False
        and value not in ([], {}, "")
        and not any(fnmatchcase(name, pattern) for pattern in harmless)
    }
    if unknown:
        listed = ", ".join(f"{name}={_short(value)}" for name, value in unknown.items())
        raise UsageError(
            f"{fields.path}: {listed}: not known here, and may change what the model computes. To "
            f"leave this out, give train.py --config.train.ignore_fields={','.join(unknown)}, or "
            "delete it from the file"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."
