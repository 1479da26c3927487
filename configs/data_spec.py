"""The description of prepared data that travels with a model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

_NOT_OF_THE_MODEL = {"framing", "classes"}


@dataclass(frozen=True)
class DataSpec:
    """The sizes that data decides of a model, and the names of its classes.

    Data preparation makes it, every checkpoint's manifest keeps it, and evaluation, generation and
    export read it there: they need no data. A field is None where the data has nothing of the kind.
    The order of the fields is that of the manifest.
    """

    num_mels: int | None = None
    """Mel bands of a frame. Sound."""

    max_frames: int | None = None
    """Frames of the longest recording, training batches' included. Sound."""

    vocabulary_size: int | None = None
    """Tokens of the tokenizer. Text, pairs and labelled text, sound with transcripts."""

    max_source_length: int | None = None
    """Tokens of the longest source, its separator included. Pairs of texts."""

    max_length: int | None = None
    """Tokens of a window, of a labelled text, or of the longest target. Text of every kind."""

    max_labels: int | None = None
    """Tokens of the longest transcript. Sound with transcripts."""

    num_classes: int | None = None
    """Classes of the labels. Pictures, labelled text, labelled sound."""

    image_shape: tuple[int, int, int] | None = None
    """Height, width and channels of a picture, in pixels. Pictures."""

    framing: tuple[int, ...] | None = None
    """Tokens that the tokenizer puts around each text; None where it puts none. Text. Tasks take
    it, models do not."""

    classes: tuple[str, ...] | None = None
    """Names of the labels, by number. Pictures, labelled text, labelled sound."""

    @classmethod
    def from_manifest(cls, data: Mapping[str, Any]) -> Self:
        """Read the field `data` of a checkpoint's manifest."""
        values = {**data["sizes"], "classes": data.get("classes")}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**(values | lists))

    def to_manifest(self) -> dict[str, Any]:
        """Return `sizes` and `classes` of the manifest, as JSON has them."""
        sizes = {name: value for name, value in asdict(self).items() if value is not None}
        return {"sizes": sizes, "classes": sizes.pop("classes", None)}

    def require(self, name: str) -> Any:
        """Return the field `name`; raise `ValueError` where the data has nothing of the kind."""
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"the data has no {name}")
        return value

    def model_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments that the class of a model takes of the data."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: given[name] for name in given if name not in _NOT_OF_THE_MODEL}
