"""The description of the prepared data, which is stored with every model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

_NOT_OF_THE_MODEL = {"framing", "classes"}


@dataclass(frozen=True)
class DataSpec:
    """The sizes that a model gets from its data, and the names of the classes.

    Data preparation builds a `DataSpec`, and the manifest of every checkpoint stores it.
    Evaluation, generation and export read it from the manifest, so they can build the model without
    the data. A field is None if it does not apply to the data. The manifest lists the fields in the
    same order.
    """

    num_mels: int | None = None
    """Number of mel bands of a frame. Audio."""

    max_frames: int | None = None
    """Frames of the longest recording, at the slowest speed of augmentation. Audio."""

    vocabulary_size: int | None = None
    """Number of tokens of the tokenizer. Text, text pairs, labelled text, transcribed audio."""

    max_source_length: int | None = None
    """Maximum number of tokens of a source, including its separator. Text pairs."""

    max_length: int | None = None
    """Maximum number of tokens of a window of text, a labelled text, or the target of a pair."""

    max_labels: int | None = None
    """Number of tokens of the longest transcript. Transcribed audio."""

    num_classes: int | None = None
    """Number of classes. Images, labelled text, labelled audio."""

    image_shape: tuple[int, int, int] | None = None
    """Height and width in pixels, and number of channels. Images."""

    framing: tuple[int, ...] | None = None
    """Ids of the tokens that the tokenizer puts around each text, such as BERT's [CLS] and [SEP];
    None if there are none. Text. Used by tasks, not by models."""

    classes: tuple[str, ...] | None = None
    """Names of the classes, in the order of the labels. Images, labelled text, labelled audio."""

    @classmethod
    def from_manifest(cls, data: Mapping[str, Any]) -> Self:
        """Build a `DataSpec` from the field `data` of a checkpoint's manifest."""
        values = {**data["sizes"], "classes": data.get("classes")}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**(values | lists))

    def to_manifest(self) -> dict[str, Any]:
        """Return the value of the manifest's field `data`: `{"sizes": ..., "classes": ...}`."""
        sizes = {name: value for name, value in asdict(self).items() if value is not None}
        return {"sizes": sizes, "classes": sizes.pop("classes", None)}

    def require(self, name: str) -> Any:
        """Return the field `name`. Raises ValueError if it is None."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"the data has no {name}")
        return value

    def model_arguments(self) -> dict[str, Any]:
        """Return the sizes as keyword arguments for the constructor of a model."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: given[name] for name in given if name not in _NOT_OF_THE_MODEL}
