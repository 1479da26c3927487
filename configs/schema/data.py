"""The configuration section `data`: the sources of text, and the union of all sources."""

import difflib
from typing import Annotated, ClassVar, Literal

import pydantic
from annotated_types import Interval

from configs.schema.conversations import Conversations
from configs.schema.pairs import AnyPairs
from configs.schema.pictures import AnyPictures
from configs.schema.settings import (
    Count,
    FilePath,
    NonNegativeInteger,
    PlainText,
    PositiveNumber,
    Settings,
    field,
)
from configs.schema.sound import AnySound
from configs.schema.source import (
    DecodedText,
    Length,
    PreparedFolder,
    PreparedSet,
    Shards,
    Splits,
    TokenizedText,
    UserFiles,
)


class Cleaning(Settings):
    """Cleaning and removal of documents before tokenization. Off by default."""

    unicode: Literal["none", "nfc", "nfkc"] = field(
        "none", "Unicode normalization form that the text is converted to."
    )
    control_characters: Literal["keep", "remove"] = field(
        "keep", "Handling of control characters other than tab, line feed and carriage return."
    )
    minimum_characters: NonNegativeInteger = field(
        0,
        "Documents with fewer characters are removed.",
        unit="characters",
        aliases=("min_length",),
    )
    maximum_characters: Count | None = field(
        None,
        "Documents with more characters are removed; none: no limit.",
        unit="characters",
        aliases=("max_length",),
    )
    duplicates: Literal["keep", "exact", "near"] = field(
        "keep",
        "Which repeated documents are removed: none, exact copies, or near duplicates too.",
        aliases=("dedup", "deduplicate", "deduplication", "minhash"),
    )
    near_similarity: Annotated[float, Interval(ge=0.1, le=1.0)] = field(
        0.5,
        "Smallest similarity (Jaccard index of their shingles) of near duplicates.",
        aliases=("jaccard_threshold", "threshold"),
    )
    near_shingle: Literal["words", "characters"] = field(
        "words",
        "Unit of the shingles (n-grams) of a document. Use characters for text without spaces.",
    )
    near_shingle_length: Annotated[int, Interval(ge=1, le=100)] = field(
        2, "Number of words or characters in a shingle.", aliases=("ngram", "shingle_size")
    )

    def unused_fields(self) -> dict[str, str]:
        if self.duplicates == "near":
            return {}
        why = f"data.cleaning.duplicates is {self.duplicates}"
        return dict.fromkeys(("near_similarity", "near_shingle", "near_shingle_length"), why)

    def check(self) -> None:
        least, most = self.minimum_characters, self.maximum_characters
        if most is not None and most < least:
            raise ValueError(
                f"data.cleaning.maximum_characters={most} is less than "
                f"data.cleaning.minimum_characters={least}: no document is left"
            )


class Text(TokenizedText):
    """Base class of data sources of text."""

    modality: ClassVar = "text"

    packing: Literal["windows", "best_fit"] = field(
        "windows",
        "How documents fill windows. windows: concatenated, then cut anywhere; best_fit: uncut if "
        "they fit into a window, with padding.",
    )
    cross_document_attention: bool = field(
        True, "Whether a document sees earlier documents in the same window."
    )
    cleaning: Cleaning = field(Cleaning(), "Cleaning of documents before tokenization.")

    def unused_fields(self) -> dict[str, str]:
        if self.packing == "best_fit":
            return {"cross_document_attention": "data.packing is best_fit, where none is seen"}
        return {}


class TextField(DecodedText):
    """The field of sources whose text is in a field."""

    text_field: PlainText = field(
        "text",
        "Field or column that contains the text.",
        aliases=("text_column", "column", "key", "field"),
    )


class PythonStdlib(Text):
    """The source code of Python's standard library, as installed with the running Python."""

    source: Literal["python_stdlib"] = "python_stdlib"


class TextFiles(DecodedText, UserFiles, Text):
    """The user's text files in UTF-8. Each file is a document."""

    source: Literal["text_files"] = "text_files"
    path: FilePath | None = field(meaning="The text files.")


class Records(TextField, UserFiles, Text):
    """Records in tables of the user. Each record is a document."""

    source: Literal["records"] = "records"
    path: FilePath | None = field(
        meaning="The records: .jsonl, .csv, .tsv (each may be compressed) or .parquet."
    )


class TFDS(TextField, PreparedSet, Text):
    """A text data set that TensorFlow Datasets prepared as ArrayRecord files."""

    source: Literal["tfds"] = "tfds"


class WebDataset(Shards, TextField, Text):
    """WebDataset's shards with texts. Each sample is a document."""

    source: Literal["webdataset"] = "webdataset"
    text_field: PlainText = "txt"


class Mixture(TextField, PreparedFolder, Splits, Text):
    """A mixture of several sources of text. Each source provides a share of the examples."""

    source: Literal["mixture"] = "mixture"
    parts: tuple[str, ...] | None = field(
        None,
        "Sources to mix. Each is KIND, or KIND:PATH, or KIND:NAME.",
        required=True,
        mutable_on_resume=True,
        accepts="sources separated by commas, such as python_stdlib,text_files:notes",
        aliases=("sources", "datasets", "paths"),
    )
    weights: tuple[PositiveNumber, ...] = field(
        (),
        "Relative share of each part in the examples; (): equal shares.",
        aliases=("proportions", "ratios", "shares", "mixture_weights"),
    )

    def shares(self) -> tuple[float, ...]:
        """Return the weight of each part, 1 by default. The weights need not add up to 1."""
        return self.weights or (1.0,) * len(self.parts or ())

    def part_settings(self) -> tuple[Text, ...]:
        """Return a source for each part: its own path or name, and other fields from the mixture.

        Raises ValueError for an invalid part.
        """
        return tuple(map(self._settings_of_part, self.parts or ()))

    def unused_fields(self) -> dict[str, str]:
        reasons = super().unused_fields()
        members = self.part_settings()
        for name in ("data_dir", "text_field", "invalid_utf8", "splits"):
            if members and not any(name in type(one).model_fields for one in members):
                reasons[name] = "no source of data.parts has it"
        return reasons

    def _settings_of_part(self, part: str) -> Text:
        kind, _, path = part.partition(":")
        if kind not in PARTS:
            near = difflib.get_close_matches(kind, PARTS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PARTS)}"
            raise ValueError(f"data.parts: {kind!r} is no source of text: {hint}")
        fields = PARTS[kind].model_fields
        own = next((name for name in ("path", "name") if name in fields), None)
        if own and not path:
            raise ValueError(f"data.parts: {kind} needs a {own}: {kind}:{own.upper()}")
        if path and not own:
            raise ValueError(f"data.parts: {kind} takes no path, so not {part!r}")
        given = {name: getattr(self, name) for name in Mixture.model_fields if name in fields}
        given.pop("source")
        return PARTS[kind](**given | ({own: path} if own else {}))

    def check(self) -> None:
        parts = self.parts or ()
        self.part_settings()
        for part in parts:
            if parts.count(part) > 1:
                raise ValueError(
                    f"data.parts: {part} stands there twice: give it once, with both its weights"
                )
        if self.parts is not None and self.weights and len(self.weights) != len(parts):
            raise ValueError(
                f"data.weights has {len(self.weights)} numbers, but data.parts {len(parts)} "
                "sources: give one for each"
            )
        for part, weight in zip(parts, self.weights, strict=False):
            if weight < 1e-6 * sum(self.weights):
                raise ValueError(
                    f"data.weights: {weight:g} of {sum(self.weights):g} for {part} is less than a "
                    "millionth: raise it, or leave the source out"
                )


PARTS: dict[str, type[Text]] = {
    "python_stdlib": PythonStdlib,
    "text_files": TextFiles,
    "records": Records,
    "tfds": TFDS,
}
"""The kinds of sources that `data.parts` may contain, by name."""


class LabelledText(TextField, TokenizedText):
    """Base class of data sources of labelled texts."""

    modality: ClassVar = "labelled_text"

    sequence_length: Length = field(
        meaning="Length that texts are padded or cut to, which is the model's context length."
    )
    label_field: PlainText = field(
        "label",
        "Field or column that contains the label: text, an integer, or true or false.",
        aliases=("label_column", "target", "class_field"),
    )

    def check(self) -> None:
        if self.text_field == self.label_field:
            raise ValueError(
                f"data.text_field and data.label_field are both {self.text_field}: a text can't be "
                "its own label"
            )


class Table(UserFiles, LabelledText):
    """The user's table of labelled texts, one per row: CSV, TSV, JSON lines or Parquet."""

    source: Literal["table"] = "table"
    path: FilePath | None = field(
        meaning="The table: .csv, .tsv, .jsonl (each may be compressed) or .parquet."
    )


class WebDatasetTable(Shards, LabelledText):
    """WebDataset's shards with labelled texts."""

    source: Literal["webdataset_table"] = "webdataset_table"
    text_field: PlainText = "txt"
    label_field: PlainText = "cls"


Data = Annotated[
    PythonStdlib
    | TextFiles
    | Records
    | TFDS
    | WebDataset
    | WebDatasetTable
    | Mixture
    | Table
    | Conversations
    | AnyPairs
    | AnyPictures
    | AnySound,
    pydantic.Discriminator("source"),
]
