"""What is learnt: the loss, the metrics, and which data and models it goes with."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Union

import pydantic
from annotated_types import Interval

from configs.schema.settings import (
    Count,
    Fraction,
    NonNegativeInteger,
    NonNegativeNumber,
    PositiveNumber,
    Settings,
    field,
    kind_name,
)


def _label_smoothing() -> Any:
    return field(
        0.0,
        "Share of the target's probability that training spreads over all; loss is without it.",
        aliases=("smoothing", "label_smoothing_factor"),
    )


def _answered_examples() -> Any:
    return field(
        200,
        "Examples of the validation split that each evaluation during training answers, for the "
        "metrics of texts and the samples.",
        unit="examples",
        mutable_on_resume=True,
        aliases=("eval_samples", "num_eval_samples"),
    )


class TaskSettings(Settings):
    """What is learnt: from what data, and what of a model it needs."""

    discriminator: ClassVar = "name"
    modalities: ClassVar[tuple[str, ...]]
    """Of the data that it learns from."""

    model_output: ClassVar[str]
    """What a model has to give for it."""

    metrics: ClassVar[tuple[str, ...]]
    """Of a split, by name."""

    text_metrics: ClassVar[tuple[str, ...]] = ()
    """Those of them that are of written answers."""

    answer_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that decide what the model writes, and so how `text_metrics` are measured."""

    @property
    def measured_by(self) -> dict[str, Any]:
        """Field and value of those `answer_fields` that have an effect."""
        unused = self.unused_fields()
        return {name: getattr(self, name) for name in self.answer_fields if name not in unused}


class Tokens(TaskSettings):
    """What all tasks that predict tokens have."""

    modalities: ClassVar = ("text",)

    label_smoothing: Fraction = _label_smoothing()
    z_loss: NonNegativeNumber = field(
        0.0,
        "Weight of the squared log of the softmax's denominator in training, such as 1e-4: keeps "
        "logits from drifting.",
        aliases=("z_loss_weight", "z_loss_multiplier"),
    )
    loss_chunks: Count | None = field(
        None,
        "Chunks of positions that head and loss take one after the other, so that the logits of "
        "all never stand in memory; none: as many as keep them under 256 MiB a device.",
        mutable_on_resume=True,
        aliases=("num_vocab_tiling", "logits_chunk_size"),
    )


class LanguageModeling(Tokens):
    """Predict each token of a text from those before it."""

    model_output: ClassVar = "next_tokens"
    metrics: ClassVar = ("loss", "perplexity", "bits_per_byte", "accuracy")

    name: Literal["language_modeling"] = field("language_modeling", "What is learnt.")
    sample_prompts: tuple[str, ...] = field(
        ("",),
        "Prompts that samples continue after each evaluation; an empty one opens a document.",
        aliases=("prompts",),
    )
    sample_tokens: Count = field(200, "Length of each sample.", unit="tokens")
    sample_temperature: NonNegativeNumber = field(
        0.8,
        "Softmax temperature of the samples; 0 takes the likeliest token.",
        aliases=("temperature",),
    )

    def unused_fields(self) -> dict[str, str]:
        if self.sample_prompts:
            return {}
        return dict.fromkeys(
            ("sample_tokens", "sample_temperature"), "task.sample_prompts is empty"
        )


class MaskedLanguageModeling(Tokens):
    """Predict tokens of a text that are left out from all others."""

    model_output: ClassVar = "missing_tokens"
    metrics: ClassVar = ("loss", "perplexity", "accuracy")

    name: Literal["masked_language_modeling"] = field("masked_language_modeling", "What is learnt.")
    mask_fraction: Annotated[float, Interval(gt=0.0, lt=1.0)] = field(
        0.15,
        "Share of the tokens that are predicted: of ten, eight are masked, one is replaced by a "
        "random one, one is left.",
        aliases=("mlm_probability", "masking_rate", "mask_ratio", "mask_prob"),
    )


class SequenceToSequence(Tokens):
    """Write the target of a source: a translation, a text put another way."""

    modalities: ClassVar = ("text_pairs",)
    model_output: ClassVar = "target_tokens"
    metrics: ClassVar = ("loss", "perplexity", "accuracy", "exact_match", "bleu", "chrf")
    text_metrics: ClassVar = ("exact_match", "bleu", "chrf")
    answer_fields: ClassVar = (
        "beam_size",
        "length_penalty",
        "answer_length_ratio",
        "answered_examples",
    )

    name: Literal["sequence_to_sequence"] = field("sequence_to_sequence", "What is learnt.")
    beam_size: Annotated[int, Interval(ge=1, le=256)] = field(
        4,
        "Answers that the search for the likeliest keeps side by side; 1: the likeliest token at "
        "each step.",
        unit="answers",
        mutable_on_resume=True,
        aliases=("num_beams", "beam", "beam_width", "beams"),
    )
    length_penalty: NonNegativeNumber = field(
        0.6,
        "How far the log-probability of an answer is divided by its length, as ((5 + length) / 6) "
        "to this power; 0: not at all, and short answers win.",
        mutable_on_resume=True,
        aliases=("lenpen", "alpha", "length_normalization"),
    )
    answer_length_ratio: PositiveNumber = field(
        2.0,
        "Tokens of an answer, at most, for each token of its source; ten more are always allowed.",
        mutable_on_resume=True,
        aliases=("max_len_a", "max_length_ratio"),
    )
    answered_examples: NonNegativeInteger = _answered_examples()

    def unused_fields(self) -> dict[str, str]:
        return {"length_penalty": "task.beam_size is 1"} if self.beam_size == 1 else {}


class Classification(TaskSettings):
    """Give each example one label."""

    modalities: ClassVar = ("pictures", "labelled_text", "labelled_sound")
    model_output: ClassVar = "classes"
    metrics: ClassVar = ("loss", "accuracy", "accuracy_top5")

    name: Literal["classification"] = field("classification", "What is learnt.")
    label_smoothing: Fraction = _label_smoothing()
    class_weights: tuple[PositiveNumber, ...] = field(
        (),
        "How much an example of each class counts in training; none: all alike.",
        aliases=("weights", "loss_weights", "class_weight"),
    )
    mixup: NonNegativeNumber = field(
        0.0,
        "Pairs of pictures are blended in training, by shares drawn from Beta(this, this); 0: "
        "none are.",
        aliases=("mixup_alpha",),
    )
    cutmix: NonNegativeNumber = field(
        0.0,
        "A patch of another picture replaces a part, its share drawn from Beta(this, this); with "
        "mixup each picture gets one of the two.",
        aliases=("cutmix_alpha",),
    )


class SpeechRecognition(TaskSettings):
    """Write down what is said in a recording, by connectionist temporal classification (CTC)."""

    modalities: ClassVar = ("transcribed_sound",)
    model_output: ClassVar = "transcript"
    metrics: ClassVar = ("loss", "wer", "cer", "exact_match")
    text_metrics: ClassVar = ("wer", "cer", "exact_match")
    answer_fields: ClassVar = ("decoder", "beam_size", "answered_examples")

    name: Literal["speech_recognition"] = field("speech_recognition", "What is learnt.")
    decoder: Literal["greedy", "beam"] = field(
        "greedy",
        "How a transcript is found: of the likeliest alignment, or by a search for the likeliest "
        "text.",
        mutable_on_resume=True,
        aliases=("decoding", "decoding_strategy", "decode"),
    )
    beam_size: Annotated[int, Interval(ge=1, le=256)] = field(
        8,
        "Texts that the search keeps at each position.",
        unit="texts",
        mutable_on_resume=True,
        aliases=("beam_width", "num_beams", "beams"),
    )
    answered_examples: NonNegativeInteger = _answered_examples()

    def unused_fields(self) -> dict[str, str]:
        return {} if self.decoder == "beam" else {"beam_size": "task.decoder is greedy"}


TASKS: tuple[type[TaskSettings], ...] = tuple(
    one
    for one in list(vars().values())
    if isinstance(one, type) and issubclass(one, TaskSettings) and "name" in one.model_fields
)
"""The kinds of the section `task`: every class above that says its `name`."""

Task = Annotated[Union[TASKS], pydantic.Discriminator("name")]  # noqa: UP007


def parse_stored_task(values: Mapping[str, Any]) -> TaskSettings:
    """Return the section `task` of a configuration that was written earlier, fields that are new
    since then with their defaults. Nothing is checked again."""
    (kind,) = [one for one in TASKS if kind_name(one) == values["name"]]
    return kind.model_construct(**values)
