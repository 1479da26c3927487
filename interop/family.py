"""A family of models of Hugging Face: the tables of its weights and of its config.json."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from configs.data_spec import DataSpec
from interop.description import Description
from interop.fields import Ours, Row, Settings, Unsupported, read_fields, write_fields
from interop.folder import Folder
from interop.pictures import PREPARED, data_fields
from interop.tables import Table

DATA = "data."
"""Prefix of the names of fields that are sizes of the data, in the rows of config.json."""


Finish = Callable[[Mapping[str, NDArray], Mapping[str, Any]], Mapping[str, NDArray]]
Tokens = Callable[[Mapping[str, Any], Mapping[str, int | None]], Mapping[str, Any]]


@dataclass(frozen=True)
class Family:
    """The models with one `model_type` in config.json.

    name: the `model_type`. table: the rows of the weights. fields: the rows of config.json.
    classes: the name of the class in transformers for each output of ours, such as "next_tokens" or
        "target_tokens" (`configs.schema.model.Architecture.outputs`).
    more: returns further settings, which only the folder's tensors show (such as whether there is a
        classifier), given the folder and what config.json says.
    finish: returns all tensors of a folder, given those that the table writes and config.json: it
        adds constants, and copies.
    tokens: returns fields of config.json for the ids of special tokens, given the other fields and
        the ids by their names.
    padding: the id that padding must have, if positions are counted from it.
    any_image_size: whether the weights fit images of any height and width.
    """

    name: str
    table: Table
    fields: Sequence[Row]
    classes: Mapping[str, str]
    more: Callable[[Folder, dict[str, Any]], Settings] = field(default=lambda folder, found: {})
    finish: Finish = field(default=lambda tensors, config: tensors)
    tokens: Tokens = field(default=lambda config, ids: ids)
    padding: int | None = None
    any_image_size: bool = False

    @property
    def architecture(self) -> str:
        """Return the `model.architecture` of its models."""
        rows = [row.values for row in self.fields if isinstance(row, Ours)]
        return next(values["architecture"] for values in rows if "architecture" in values)

    def describe(self, folder: Folder) -> Description:
        """Translate the folder's config.json into fields of our configuration. Raises `UsageError`
        for values that our models don't have."""
        found = read_fields(self.fields, folder.config)
        found |= self.more(folder, found)
        sizes = {n.removeprefix(DATA): v for n, v in found.items() if n.startswith(DATA)}
        settings = {n: v for n, v in found.items() if not n.startswith((DATA, PREPARED))}
        return Description(
            self.name, settings, DataSpec(**sizes), self.any_image_size, data_fields(found)
        )

    def configure(self, settings: Settings, data_spec: DataSpec, output: str) -> dict[str, Any]:
        """Return config.json for a model of ours: the inverse of `describe`.

        settings: the fields of the section `model`. output: one of `classes`. Raises `Unsupported`
        for what the family does not have.
        """
        architecture = settings.get("architecture", self.architecture)
        if architecture != self.architecture:  # It has other settings.
            raise Unsupported(f"model.architecture={architecture}: it only has {self.architecture}")
        ours = resolved(settings)
        ours |= {DATA + name: value for name, value in data_spec.model_arguments().items()}
        written = write_fields(self.fields, ours)
        return {"model_type": self.name, "architectures": [self.classes[output]], **written}


def resolved(settings: Settings) -> dict[str, Any]:
    """Return the fields of the section `model` in one form: numbers of heads and head sizes that
    are the usual ones are None, widths of feed-forward parts are numbers, the pattern is as short
    as possible and has G only next to A, and settings without an effect are off."""
    from model.layers.feed_forward import feed_forward_width  # Imports JAX, which starts late.

    full = dict(settings)
    if "num_heads" in full:
        usual_sizes = {
            "num_kv_heads": full["num_heads"],
            "head_dim": full["width"] // full["num_heads"],
        }
        full |= {name: None for name, usual in usual_sizes.items() if full.get(name) == usual}
    if "feed_forward" in full:
        usual_width = feed_forward_width(full["feed_forward"], full["width"])
        full["feed_forward_width"] = full.get("feed_forward_width") or usual_width
    if "pattern" in full:
        full |= _resolved_patterns(full)
    if full.get("use_bias"):
        full["qkv_bias"] = False
    return full


def _resolved_patterns(settings: Settings) -> dict[str, Any]:
    """Return the patterns of all stacks, and what they have an effect on. Fields of an encoder are
    None if it is as the decoder."""
    depth, pattern = settings["depth"], settings["pattern"]
    encoder_depth = settings.get("encoder_depth") or depth
    letters = mixers(pattern, depth)
    of_encoder = mixers(settings.get("encoder_pattern") or pattern, encoder_depth)
    window = settings.get("attention_window")
    if window is None or "A" not in letters + of_encoder:
        window = None
        letters, of_encoder = letters.replace("G", "A"), of_encoder.replace("G", "A")
    shortest = shortest_pattern(letters)
    found = {"attention_window": window, "pattern": shortest}
    if "encoder_depth" in settings:
        is_same = mixers(shortest, encoder_depth) == of_encoder
        found["encoder_depth"] = None if encoder_depth == depth else encoder_depth
        found["encoder_pattern"] = None if is_same else shortest_pattern(of_encoder)
    return found


def mixers(pattern: str, depth: int) -> str:
    """Return the letter of the mixer of each block."""
    return (pattern * depth)[:depth]


def shortest_pattern(letters: str) -> str:
    """Return the shortest pattern for these mixers of all blocks."""
    depth = len(letters)
    patterns = (letters[:length] for length in range(1, depth + 1))
    return next(pattern for pattern in patterns if mixers(pattern, depth) == letters)
