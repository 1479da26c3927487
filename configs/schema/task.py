"""What is learnt: the loss, the metrics, and which data and models it goes with."""

from typing import Annotated, ClassVar, Literal

import pydantic

from configs.schema.settings import Count, NonNegativeNumber, Settings, field


class LanguageModeling(Settings):
    """Predict each token of a text from those before it."""

    discriminator: ClassVar = "name"
    modality: ClassVar = "text"
    architectures: ClassVar = ("decoder",)
    metrics: ClassVar = ("loss", "perplexity", "bits_per_byte", "accuracy")

    name: Literal["language_modeling"] = field("language_modeling", "What is learnt.")
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


Task = Annotated[LanguageModeling | Classification, pydantic.Discriminator("name")]
