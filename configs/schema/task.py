"""The configuration section `task`: what a model learns, its loss and its metrics."""

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


class TaskSettings(Settings):
    """Base class of the settings of a task. Class attributes declare the data and the model output
    that the task uses, and its metrics."""

    if TYPE_CHECKING:
        answered_examples: int = 0  # a field of tasks with `text_metrics`

    discriminator: ClassVar = "name"
    modalities: ClassVar[tuple[str, ...]]
    """Kinds of data that the task can learn from, such as "text": see `Source.modality`."""

    model_output: ClassVar[str]
    """The model output that the task uses: one of `Architecture.outputs`."""

    metrics: ClassVar[tuple[str, ...]]
    """Names of the metrics that an evaluation returns."""

    text_metrics: ClassVar[tuple[str, ...]] = ()
    """The metrics that compare generated texts with reference texts."""

    answer_fields: ClassVar[tuple[str, ...]] = ()
    """The fields that affect generated texts, and thus the values of `text_metrics`."""

    name: str = field("", "Name of the task.")

    @property
    def measured_by(self) -> dict[str, Any]:
        """The `answer_fields` that have an effect with these settings: name to value."""
        unused = self.unused_fields()
        return {name: getattr(self, name) for name in self.answer_fields if name not in unused}


class _Smoothed(TaskSettings):
    """Base class of tasks whose targets are classes or tokens."""

    label_smoothing: Fraction = field(
        0.0,
        "Label smoothing in training: share of the target's probability that is spread over all "
        "classes. The reported loss is not smoothed.",
        aliases=("smoothing", "label_smoothing_factor"),
    )


class _Answering(TaskSettings):
    """Base class of tasks that are measured by generated texts."""

    beam_size: Annotated[int, Interval(ge=1, le=256)] = field(
        4,
        "Number of candidates that beam search keeps.",
        mutable_on_resume=True,
        aliases=("num_beams", "beam", "beam_width", "beams"),
    )
    answered_examples: NonNegativeInteger = field(
        200,
        "Number of validation examples for which each evaluation during training generates text, "
        "for text metrics and samples.",
        unit="examples",
        mutable_on_resume=True,
        aliases=("eval_samples", "num_eval_samples"),
    )


class Tokens(_Smoothed):
    """Base class of tasks that predict tokens."""

    modalities: ClassVar = ("text",)

    z_loss: NonNegativeNumber = field(
        0.0,
        "Weight of the z-loss in training, such as 1e-4. The z-loss is the squared log of the "
        "softmax denominator; it keeps logits from drifting.",
        aliases=("z_loss_weight", "z_loss_multiplier"),
    )
    loss_chunks: Count | None = field(
        None,
        "Number of chunks in which logits and loss are computed, to save memory; none: enough "
        "chunks to keep logits under 256 MiB per device.",
        mutable_on_resume=True,
        aliases=("num_vocab_tiling", "logits_chunk_size"),
    )


class LanguageModeling(Tokens):
    """Predict each token of a text from the tokens before it."""

    model_output: ClassVar = "next_tokens"
    metrics: ClassVar = ("loss", "perplexity", "bits_per_byte", "accuracy")

    name: Literal["language_modeling"] = "language_modeling"
    sample_prompts: tuple[str, ...] | None = field(
        ("",),
        "Prompts for the samples after each evaluation. An empty prompt starts a new document. "
        "none: starts of lines from the validation split.",
        aliases=("prompts",),
    )
    sample_tokens: Count = field(200, "Length of each sample.", unit="tokens")
    sample_temperature: NonNegativeNumber = field(
        0.8,
        "Softmax temperature of the samples; 0: always the most likely token.",
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

    name: Literal["masked_language_modeling"] = "masked_language_modeling"
    mask_fraction: Annotated[float, Interval(gt=0.0, lt=1.0)] = field(
        0.15,
        "Share of tokens that the model predicts. Of these, 80 % are masked, 10 % are replaced by "
        "a random token, 10 % stay unchanged.",
        aliases=("mlm_probability", "masking_rate", "mask_ratio", "mask_prob"),
    )


class SequenceToSequence(_Answering, Tokens):
    """Generate a target text from a source text, such as its translation or summary."""

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

    name: Literal["sequence_to_sequence"] = "sequence_to_sequence"
    beam_size: Annotated[int, Interval(ge=1, le=256)] = field(
        meaning="Number of candidates that beam search keeps; 1: greedy decoding.", unit="answers"
    )
    length_penalty: NonNegativeNumber = field(
        0.6,
        "Beam search divides log-probabilities by ((5 + length) / 6) to this power. 0: no "
        "division, which favours short outputs.",
        mutable_on_resume=True,
        aliases=("lenpen", "alpha", "length_normalization"),
    )
    answer_length_ratio: PositiveNumber = field(
        2.0,
        "Longest output, in tokens per source token; 10 more tokens are always allowed.",
        mutable_on_resume=True,
        aliases=("max_len_a", "max_length_ratio"),
    )

    def unused_fields(self) -> dict[str, str]:
        return {"length_penalty": "task.beam_size is 1"} if self.beam_size == 1 else {}


class Classification(_Smoothed):
    """Give each example one label."""

    modalities: ClassVar = ("pictures", "labelled_text", "labelled_sound")
    model_output: ClassVar = "classes"
    metrics: ClassVar = ("loss", "accuracy", "accuracy_top5")

    name: Literal["classification"] = "classification"
    class_weights: tuple[PositiveNumber, ...] = field(
        (),
        "Weight of each class in the training loss; (): equal weights.",
        aliases=("weights", "loss_weights", "class_weight"),
    )
    mixup: NonNegativeNumber = field(
        0.0,
        "Mixup in training: blends pairs of pictures, with a weight from Beta(a, a), where a is "
        "this value; 0: no mixup.",
        aliases=("mixup_alpha",),
    )
    cutmix: NonNegativeNumber = field(
        0.0,
        "CutMix in training: pastes a patch of another picture. Its area comes from Beta(a, a), a "
        "is this value; 0: no CutMix. With mixup, each picture gets one of both.",
        aliases=("cutmix_alpha",),
    )


class SpeechRecognition(_Answering):
    """Transcribe a recording, by connectionist temporal classification (CTC)."""

    modalities: ClassVar = ("transcribed_sound",)
    model_output: ClassVar = "transcript"
    metrics: ClassVar = ("loss", "wer", "cer", "exact_match")
    text_metrics: ClassVar = ("wer", "cer", "exact_match")
    answer_fields: ClassVar = ("decoder", "beam_size", "answered_examples")

    name: Literal["speech_recognition"] = "speech_recognition"
    decoder: Literal["greedy", "beam"] = field(
        "greedy",
        "CTC decoding. greedy: the text of the most likely alignment; beam: beam search for the "
        "most likely text.",
        mutable_on_resume=True,
        aliases=("decoding", "decoding_strategy", "decode"),
    )
    beam_size: Annotated[int, Interval(ge=1, le=256)] = field(
        8, "Number of candidate texts that beam search keeps.", unit="texts"
    )

    def unused_fields(self) -> dict[str, str]:
        return {} if self.decoder == "beam" else {"beam_size": "task.decoder is greedy"}


TASKS: tuple[type[TaskSettings], ...] = tuple(
    one
    for one in list(vars().values())
    if isinstance(one, type) and issubclass(one, TaskSettings) and kind_name(one)
)
"""All tasks: the classes above that have a name."""

if TYPE_CHECKING:
    Task = TaskSettings
else:
    Task = Annotated[Union[TASKS], pydantic.Discriminator("name")]  # noqa: UP007


def parse_stored_task(values: Mapping[str, Any]) -> TaskSettings:
    """Build the section `task` from the values in a stored configuration, without checking them.

    Fields that are missing in `values` get their defaults.
    """
    (kind,) = [one for one in TASKS if kind_name(one) == values["name"]]
    return kind.model_construct(**values)
