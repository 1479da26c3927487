"""Format `huggingface`: a folder that `from_pretrained` of transformers loads.

It has config.json, the weights under the names of a family (`interop/families.py`), the tokenizer
with its chat template, the settings of generation or of the preparation of pictures, and a model
card. `triform.json` makes it a model for our own commands.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.schema.config import Config
from interop.converting import to_tensors
from interop.families import FAMILIES
from interop.family import Family
from interop.fields import Unsupported
from interop.folder import CONFIG, PREPROCESSOR
from interop.formats.adapter import write_adapter
from interop.formats.equal_models import equal_config, equal_params, equal_sizes
from interop.formats.hub_pairs import HubPairTokenizer
from interop.formats.hub_pictures import preprocessor
from interop.formats.hub_tokenizer import NO_IDS, HubTokenizer
from interop.formats.model_card import model_card
from interop.formats.native import write_description
from interop.formats.source import Source
from interop.tensor_files import write_tensors
from training.trees import nested

MIXERS = {"R": "recurrent blocks", "C": "blocks of short convolutions"}
"""The mixers that no family has."""


@dataclass(frozen=True)
class Counterpart:
    """A model of transformers that computes the same as a model of ours.

    family: its family. fields: its config.json, without tokens and names of classes.
    """

    family: Family
    fields: Mapping[str, Any]


def obstacle(config: Config, data_spec: DataSpec) -> str | None:
    """Return which settings no family has; None if there is a counterpart."""
    try:
        counterpart(config, data_spec)
    except Unsupported as error:
        return str(error)
    return None


def counterpart(config: Config, data_spec: DataSpec) -> Counterpart:
    """Return the counterpart of a model: the first family that has all of its settings.

    Raises `Unsupported` if there is none. The text has the settings that the nearest family lacks.
    """
    model, output = equal_config(config).model, config.task.model_output
    settings = model.model_dump()
    for letter, blocks in MIXERS.items():
        for name in ("pattern", "encoder_pattern"):
            pattern = settings.get(name) or ""
            if letter in pattern:
                raise Unsupported(f"model.{name}={pattern}: transformers has no {blocks}")
    alike = [one for one in FAMILIES.values() if one.architecture == model.architecture]
    if not alike:
        raise Unsupported(f"model.architecture={model.architecture}: transformers has none")
    able = [one for one in alike if output in one.classes]
    if not able:
        heads = ", ".join(dict.fromkeys(name for one in alike for name in one.classes.values()))
        raise Unsupported(
            f"task.name={config.task.name}: model.architecture={model.architecture} can only be "
            f"written as {heads}"
        )
    sizes = equal_sizes(config, data_spec)
    refusals: list[tuple[Family, Unsupported]] = []
    for family in able:
        try:
            return Counterpart(family, family.configure(settings, sizes, output))
        except Unsupported as error:
            refusals.append((family, error))
    nearest, refusal = min(refusals, key=lambda one: len(one[1].args))
    raise Unsupported(f"{refusal} (the nearest family is {nearest.name})")


def write(source: Source, out: Path) -> Sequence[str]:
    """Write the folder `out`. Raises `UsageError` as `write_adapter` does."""
    found = counterpart(source.config, source.data_spec)
    card = model_card(source, found.fields["architectures"][0])
    if source.lora == "adapter":
        out.mkdir()
        notes = [*write_adapter(source, found.family, out)]
        tokenizer = _tokenizer(source)
        notes += tokenizer.write(out) if tokenizer is not None else ()
    else:
        notes = [*_write_model(source, found, out)]
    (out / "README.md").write_text(card, encoding="utf-8")
    return notes


def _write_model(source: Source, found: Counterpart, out: Path) -> Sequence[str]:
    """Write the whole model into the folder `out`. Return notes for the user."""
    scanned = getattr(source.config.model, "scan_layers", False)
    params = equal_params(source.config, source.data_spec, source.params())
    statistics = nested(source.statistics())
    tensors = to_tensors(found.family.name, nested(params), statistics, scanned=scanned)
    tensors = dict(found.family.finish(tensors, found.fields))
    out.mkdir()
    write_tensors(tensors, out)
    write_description(source.with_config(equal_config(source.config)), out, "huggingface")
    written = {**found.fields, **_dtype(tensors), **_labels(source.data_spec)}
    notes: Sequence[str] = ()
    tokenizer = _tokenizer(source)
    if tokenizer is not None:
        check_padding(found.family, tokenizer)
        notes = [*tokenizer.write(out), *tokenizer.notes_for(found.family.name)]
        written |= found.family.tokens(written, tokenizer.ids())
    elif source.data_spec.vocabulary_size is not None:
        written |= NO_IDS
    if source.data_spec.image_shape is not None:
        _write_json(out / PREPROCESSOR, preprocessor(source))
    _write_json(out / CONFIG, written)
    return notes


def _tokenizer(source: Source) -> HubTokenizer | None:
    path, config, data_spec = source.tokenizer, source.config, source.data_spec
    if path is None:
        return None
    if config.data.modality == "text_pairs":
        return HubPairTokenizer(path, config, data_spec)
    return HubTokenizer(path, config, data_spec.require("max_length"))


def check_padding(family: Family, tokenizer: HubTokenizer) -> None:
    """Raise `UsageError` if the model counts positions from an id of padding that the tokenizer has
    for another token."""
    if family.padding is not None and family.padding != tokenizer.padding:
        raise UsageError(
            f"--format=huggingface can't hold this tokenizer: {family.name} takes token "
            f"{family.padding} for padding, and here it is a token of texts"
        )


def _dtype(tensors: Mapping[str, NDArray]) -> dict[str, str]:
    """Return the field for the dtype that holds all weights, under its new and its old name."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    name = dtypes.pop().name if len(dtypes) == 1 else np.dtype(np.float32).name
    return {"dtype": name, "torch_dtype": name}


def _labels(data_spec: DataSpec) -> dict[str, Any]:
    """Return the fields for the names of the classes."""
    if data_spec.num_classes is None:
        return {}
    names = data_spec.classes or [f"LABEL_{n}" for n in range(data_spec.num_classes)]
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
