"""The description of prepared data that is stored with a model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

_NOT_OF_THE_MODEL = {"framing", "classes"}


@dataclass(frozen=True)
class DataSpec:
    """The sizes of a model that depend on its data, and the names of the classes.

    Data preparation builds it, and the manifest of every checkpoint stores it. Evaluation,
    generation and export read it from the manifest, so they need no data to build the model. A
    field is None if it does not apply to the data. The manifest has the fields in this order.
    """

    num_mels: int | None = None
    """Mel bands of a frame. Sound."""

    max_frames: int | None = None
    """Frames of the longest recording, after augmentation has slowed it down. Sound."""

    vocabulary_size: int | None = None
    """Tokens of the tokenizer. Text, text pairs, labelled text, sound with transcripts."""

    max_source_length: int | None = None
    """Tokens of the longest source, including its separator. Text pairs."""

    max_length: int | None = None
    """Most tokens of an example: a window of text, a labelled text, or the target of a pair."""

    max_labels: int | None = None
    """Tokens of the longest transcript. Sound with transcripts."""

    num_classes: int | None = None
    """Number of classes. Pictures, labelled text, labelled sound."""

    image_shape: tuple[int, int, int] | None = None
    """Height, width and channels of a picture, in pixels. Pictures."""

    framing: tuple[int, ...] | None = None
    """Tokens that the tokenizer puts around each text; None if it puts none. Text. Used by tasks,
    not by models."""

    classes: tuple[str, ...] | None = None
    """Names of the classes, in the order of their numbers. Pictures, labelled text and sound."""

    @classmethod
    def from_manifest(cls, data: Mapping[str, Any]) -> Self:
        """Build the description from `data`, a field of a checkpoint's manifest."""
        values = {**data["sizes"], "classes": data.get("classes")}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**(values | lists))

    def to_manifest(self) -> dict[str, Any]:
        """Return the field `data` of a checkpoint's manifest: `sizes` and `classes`, for JSON."""
        sizes = {name: value for name, value in asdict(self).items() if value is not None}
        return {"sizes": sizes, "classes": sizes.pop("classes", None)}

    def require(self, name: str) -> Any:
        """Return the field `name`; raise `ValueError` where the data has nothing of the kind."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"the data has no {name}")
        return value

    def model_arguments(self) -> dict[str, Any]:
        """Return the sizes as keyword arguments for the class of a model."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: given[name] for name in given if name not in _NOT_OF_THE_MODEL}
