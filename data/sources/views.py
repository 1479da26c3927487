"""Views: how the rows of any reader become raw examples, one class for each kind of data."""

from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any

from configs.errors import UsageError
from data.codecs.sound import Waveform, decode_sound
from data.sources import documents
from data.sources.file_rows import UserFile
from data.sources.rows import Table, View
from data.sources.tables import SUFFIXES
from data.sources.values import kind_of, text_of


class Texts(View):
    """A row is a document: `document`, its name; `piece`, the number of the piece; `text`."""

    suffixes = SUFFIXES

    @property
    def key(self) -> dict[str, Any]:
        return super().key | {"piece_characters": documents.PIECE_CHARACTERS}

    def examples(self, name: str, where: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for piece, text in enumerate(documents.pieces(self._blocks(where, row))):
            yield {"document": name, "piece": piece, "text": text}

    def more_examples(self, table: Table) -> int:
        return table.size // documents.PIECE_CHARACTERS

    def _blocks(self, where: str, row: Mapping[str, Any]) -> Iterator[str]:
        """Return the text of a row in blocks, as readers of long texts give it."""
        (field,) = self.fields
        text = row[field]
        if isinstance(text, Iterator):
            return text
        return iter((text_of(where, row, field, self.invalid_utf8),))


class FileTexts(Texts):
    """A row is a file of text, whose field no setting names."""

    text_field = "text"


class LabelledTexts(Texts):
    """A row is a document with a label: an example is as of `Texts`, and has `label`, a text."""

    suffixes = ()

    @cached_property
    def fields(self) -> dict[str, str]:
        return self.text_fields | self.label_fields

    def examples(self, name: str, where: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        label = self.label_of(where, row)
        return (piece | {"label": label} for piece in super().examples(name, where, row))

    def _blocks(self, where: str, row: Mapping[str, Any]) -> Iterator[str]:
        field, _ = self.fields
        return iter((text_of(where, row, field, self.invalid_utf8, needed="text"),))


class Pairs(View):
    """A row is a pair of texts: `name`, `source`, `target`. null is an empty text."""

    things = "pairs"

    @cached_property
    def fields(self) -> dict[str, str]:
        return {self.named[name]: f"data.{name}" for name in ("source_field", "target_field")}

    def examples(self, name: str, where: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        source, target = (
            "" if row[side] is None else text_of(where, row, side, self.invalid_utf8)
            for side in self.fields
        )
        yield {"name": name, "source": source, "target": target}


class Pictures(View):
    """A row is a labelled picture: `image`, its encoded bytes; `label`, the number of its class;
    `name`; and `path` if it is a file."""

    things = "pictures"
    numbers_classes = True

    @property
    def image_field(self) -> str:
        """The field with the picture."""
        return self.named["image_field"]

    @cached_property
    def fields(self) -> dict[str, str]:
        content = {self.image_field: "data.image_field"}
        return content | self.label_fields | content  # the first of two settings for one field

    def examples(self, name: str, where: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        field = next(iter(self.fields))
        image, named = row[field], {"name": name}
        if isinstance(image, UserFile):
            named["path"] = str(image.path)
            image = image.read()
        if not isinstance(image, bytes):
            raise _no_content(where, field, image, "a picture")
        yield {"image": image, "label": self.number_of(where, row), **named}


class FilePictures(Pictures):
    """A row is a file in the folder of its class: no setting names its fields."""

    image_field = "image"
    label_field = "label"


class Recordings(View):
    """A row is a recording with a transcript: `sound`, a function of the sample rate and the most
    seconds that returns the waveform; `text`; `name`; and `path` if it is a file."""

    things = "recordings"
    place = "listed in"

    @property
    def content_fields(self) -> dict[str, str]:
        """The field with the recording, as in `fields`."""
        return {self.named["sound_field"]: "data.sound_field"}

    @cached_property
    def fields(self) -> dict[str, str]:
        target = self.label_fields if self.numbers_classes else self.text_fields
        content = self.content_fields
        return content | target | content  # the first of two settings that name one field

    def target_of(self, where: str, row: Mapping[str, Any]) -> str:
        """Return the transcript or the label of a row, as text."""
        if self.numbers_classes:
            return self.label_of(where, row)
        return text_of(where, row, self.text_field, self.invalid_utf8)

    def examples(self, name: str, where: str, row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        field = next(iter(self.fields))
        sound = row[field]
        example = {"sound": sound, "name": name}
        if not callable(sound):
            if not isinstance(sound, bytes | UserFile):
                raise _no_content(where, field, sound, "a recording")
            example["sound"] = partial(_decode, sound)
        if isinstance(sound, UserFile):
            example["path"] = str(sound.path)
        if self.numbers_classes:
            yield example | {"label": self.number_of(where, row)}
        else:
            yield example | {"text": self.target_of(where, row)}


class LabelledRecordings(Recordings):
    """A row is a recording with a label: `label`, the number of its class, instead of `text`."""

    numbers_classes = True


class ListedRecordings(Recordings):
    """A row names the file of a recording with a transcript."""

    @property
    def content_fields(self) -> dict[str, str]:
        return {self.named["path_field"]: "data.path_field"}


class ListedLabelledRecordings(ListedRecordings, LabelledRecordings):
    """A row names the file of a recording with a label."""


def _decode(
    sound: bytes | UserFile, sample_rate: int, most_seconds: float | None = None
) -> Waveform:
    content = sound if isinstance(sound, bytes) else sound.read()
    return decode_sound(content, sample_rate, most_seconds=most_seconds)


def _no_content(where: str, field: str, value: Any, what: str) -> UsageError:
    return UsageError(f"{where}: field {field!r} holds {kind_of(value)}, not {what}")
