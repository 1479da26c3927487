"""What is learnt: the loss, the metrics, and which data and models it goes with."""

from typing import Annotated, Any, ClassVar, Literal

import pydantic

from configs.schema.settings import Count, Fraction, NonNegativeNumber, Settings, field


def _label_smoothing() -> Any:
    return field(
        0.0,
        "Share of the target's probability that training spreads over all; loss is without it.",
        also_called=("smoothing", "label_smoothing_factor"),
    )


class LanguageModeling(Settings):
    """Predict each token of a text from those before it."""

    discriminator: ClassVar = "name"
    modality: ClassVar = "text"
    architectures: ClassVar = ("decoder",)
    metrics: ClassVar = ("loss", "perplexity", "bits_per_byte", "accuracy")

    name: Literal["language_modeling"] = field("language_modeling", "What is learnt.")
    label_smoothing: Fraction = _label_smoothing()
    z_loss: NonNegativeNumber = field(
        0.0,
        "Weight of the squared log of the softmax's denominator in training, such as 1e-4: keeps "
        "logits from drifting.",
        also_called=("z_loss_weight", "z_loss_multiplier"),
    )
    loss_chunks: Count | None = field(
        None,
        "Chunks of positions that head and loss take one after the other, so that the logits of "
        "all never stand in memory; none: as many as keep them under 256 MiB a device.",
        free_on_resume=True,
        also_called=("num_vocab_tiling", "logits_chunk_size"),
    )
    sample_prompts: tuple[str, ...] = field(
        ("",),
        "Prompts that samples continue after each evaluation; an empty one opens a document.",
        also_called=("prompts",),
    )
    sample_tokens: Count = field(200, "Length of each sample.", unit="tokens")
    sample_temperature: NonNegativeNumber = field(
        0.8,
        "Softmax temperature of the samples; 0 takes the likeliest token.",
        also_called=("temperature",),
    )

    def needless(self) -> dict[str, str]:
        if self.sample_prompts:
            return {}
        return dict.fromkeys(
            ("sample_tokens", "sample_temperature"), "task.sample_prompts is empty"
        )


class Classification(Settings):
    """Give each example one label."""

    discriminator: ClassVar = "name"
    modality: ClassVar = "pictures"
    architectures: ClassVar = ("cnn",)
    metrics: ClassVar = ("loss", "accuracy", "accuracy_top5")

    name: Literal["classification"] = field("classification", "What is learnt.")
    label_smoothing: Fraction = _label_smoothing()


Task = Annotated[LanguageModeling | Classification, pydantic.Discriminator("name")]
