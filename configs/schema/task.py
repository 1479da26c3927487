"""The section `task`: loss, metrics, and the data and models that a task works with."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Union

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
        "Share of the target's probability that training spreads over all classes; the reported "
        "loss ignores it.",
        aliases=("smoothing", "label_smoothing_factor"),
    )


def _answered_examples() -> Any:
    return field(
        200,
        "Validation examples that the model answers in each evaluation during training, for text "
        "metrics and samples.",
        unit="examples",
        mutable_on_resume=True,
        aliases=("eval_samples", "num_eval_samples"),
    )


class TaskSettings(Settings):
    """Base class of tasks: the data that a task learns from, the model output, the metrics."""

    if TYPE_CHECKING:
        name: str
        answered_examples: int = 0  # of tasks with `text_metrics`

    discriminator: ClassVar = "name"
    modalities: ClassVar[tuple[str, ...]]
    """Modalities of the data that the task learns from."""

    model_output: ClassVar[str]
    """The output that the task uses, one of a model's `outputs`."""

    metrics: ClassVar[tuple[str, ...]]
    """Names of the metrics of an evaluated split."""

    text_metrics: ClassVar[tuple[str, ...]] = ()
    """The metrics that compare the texts that the model writes with the right texts."""

    answer_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that affect what the model writes, and thus the values of `text_metrics`."""

    @property
    def measured_by(self) -> dict[str, Any]:
        """The `answer_fields` that have an effect in this configuration: name to value."""
        unused = self.unused_fields()
        return {name: getattr(self, name) for name in self.answer_fields if name not in unused}


class Tokens(TaskSettings):
    """Fields of all tasks that predict tokens."""

    modalities: ClassVar = ("text",)

    label_smoothing: Fraction = _label_smoothing()
    z_loss: NonNegativeNumber = field(
        0.0,
        "Weight of the squared log of the softmax's denominator in training, such as 1e-4; keeps "
        "logits from drifting.",
        aliases=("z_loss_weight", "z_loss_multiplier"),
    )
    loss_chunks: Count | None = field(
        None,
        "Chunks of positions whose logits and loss are computed one after the other, to save "
        "memory; none: as many as keep logits under 256 MiB per device.",
        mutable_on_resume=True,
        aliases=("num_vocab_tiling", "logits_chunk_size"),
    )


class LanguageModeling(Tokens):
    """Predict each token of a text from the tokens before it."""

    model_output: ClassVar = "next_tokens"
    metrics: ClassVar = ("loss", "perplexity", "bits_per_byte", "accuracy")

    name: Literal["language_modeling"] = field("language_modeling", "What is learnt.")
    sample_prompts: tuple[str, ...] | None = field(
        ("",),
        "Prompts for samples after each evaluation; an empty prompt starts a document; none: "
        "beginnings of lines of the validation split.",
        aliases=("prompts",),
    )
    sample_tokens: Count = field(200, "Length of each sample.", unit="tokens")
    sample_temperature: NonNegativeNumber = field(
        0.8,
        "Softmax temperature of the samples; 0 takes the likeliest token.",
        aliases=("temperature",),
    )

    def unused_fields(self) -> dict[str, str]:
        if self.sample_prompts != ():
            return {}
        return dict.fromkeys(
            ("sample_tokens", "sample_temperature"), "task.sample_prompts is empty"
        )


class MaskedLanguageModeling(Tokens):
    """Predict masked tokens of a text from all other tokens."""

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
    """Write a target text for a source text, such as its translation or summary."""

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
        "Answers that beam search keeps; 1: the likeliest token at each step.",
        unit="answers",
        mutable_on_resume=True,
        aliases=("num_beams", "beam", "beam_width", "beams"),
    )
    length_penalty: NonNegativeNumber = field(
        0.6,
        "The log-probability of an answer is divided by ((5 + length) / 6) to this power; 0: not "
        "divided, which favours short answers.",
        mutable_on_resume=True,
        aliases=("lenpen", "alpha", "length_normalization"),
    )
    answer_length_ratio: PositiveNumber = field(
        2.0,
        "Most tokens of an answer for each token of its source; ten more are always allowed.",
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
        "Weight of the examples of each class in training; none: equal weights.",
        aliases=("weights", "loss_weights", "class_weight"),
    )
    mixup: NonNegativeNumber = field(
        0.0,
        "Training blends pairs of pictures, with shares drawn from Beta(this, this); 0: no "
        "blending.",
        aliases=("mixup_alpha",),
    )
    cutmix: NonNegativeNumber = field(
        0.0,
        "Training replaces a patch by one of another picture, its share drawn from Beta(this, "
        "this); with mixup, each picture gets one of the two.",
        aliases=("cutmix_alpha",),
    )


class SpeechRecognition(TaskSettings):
    """Transcribe a recording, by connectionist temporal classification (CTC)."""

    modalities: ClassVar = ("transcribed_sound",)
    model_output: ClassVar = "transcript"
    metrics: ClassVar = ("loss", "wer", "cer", "exact_match")
    text_metrics: ClassVar = ("wer", "cer", "exact_match")
    answer_fields: ClassVar = ("decoder", "beam_size", "answered_examples")

    name: Literal["speech_recognition"] = field("speech_recognition", "What is learnt.")
    decoder: Literal["greedy", "beam"] = field(
        "greedy",
        "How a transcript is found: from the likeliest alignment, or by beam search for the "
        "likeliest text.",
        mutable_on_resume=True,
        aliases=("decoding", "decoding_strategy", "decode"),
    )
    beam_size: Annotated[int, Interval(ge=1, le=256)] = field(
        8,
        "Texts that beam search keeps at each position.",
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
"""All kinds of the section `task`: every class above that has a field `name`."""

if TYPE_CHECKING:
    Task = TaskSettings
else:
    Task = Annotated[Union[TASKS], pydantic.Discriminator("name")]  # noqa: UP007


def parse_stored_task(values: Mapping[str, Any]) -> TaskSettings:
    """Return the section `task` of a stored configuration, without checking it.

    Fields that are newer than the stored configuration have their defaults.
    """
    (kind,) = [one for one in TASKS if kind_name(one) == values["name"]]
    return kind.model_construct(**values)
