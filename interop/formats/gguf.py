"""Format `gguf`: one file for llama.cpp and the programs built on it.

It holds the weights under llama.cpp's names, its settings, and the tokenizer in both llama.cpp's
form and as tokenizer.json. `triform.description` is the description that other formats have as
`triform.json`, so that every command can use the file as a workdir.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.schema.config import Config
from configs.schema.model import Decoder
from data.codecs.chat import TEMPLATE, ChatEncoder
from data.codecs.tokenizers import Tokenizer
from interop.chat_template import missing_opening
from interop.converting import to_tensors
from interop.families import FAMILIES
from interop.family import resolved
from interop.fields import Unsupported
from interop.formats.gguf_file import DESCRIPTION, TOKENIZER, library, opened
from interop.formats.native import description
from interop.formats.registry import Arrays
from interop.formats.source import Source
from interop.gguf_vocabulary import NO_COUNTERPART, Vocabulary, vocabulary
from interop.param_layout import param_layout
from model.layers.feed_forward import feed_forward_width
from model.layers.positions import rotary_frequencies
from training.model_def import ModelDef
from training.trees import flat, nested

if TYPE_CHECKING:
    from gguf import GGUFWriter

SUPPRESSED = "tokenizer.ggml.suppress_tokens"
ROTARY_FACTORS = "rope_freqs.weight"

FILE_TYPES = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
"""gguf's name of the type of a file, by the dtype of its matrices."""


@dataclass(frozen=True)
class Target:
    """A model architecture of llama.cpp.

    name: llama.cpp's name. family: the family of Hugging Face with the same weights and numbers.
    adjacent_pairs: whether rotary positions rotate the elements (2i, 2i + 1) of a head, and not
        (i, i + H/2) as ours; the rows of the query and key kernels are then reordered.
    lacks: fields of our settings that have to be none, though the family has them.
    """

    name: str
    family: str
    adjacent_pairs: bool = False
    lacks: Sequence[str] = ()


TARGETS = (
    Target("llama", "llama", adjacent_pairs=True),
    Target("qwen2", "qwen2", lacks=("attention_window", "rotary_scaling")),
    Target("qwen3", "qwen3", lacks=("attention_window", "rotary_scaling")),
)
"""The architectures that can be written; a model is written as the first that can hold it."""


def obstacle(config: Config, data_spec: DataSpec) -> str | None:
    """Return why llama.cpp can't run the model; None if it can."""
    found = _target(config, data_spec)
    if isinstance(found, str):
        return found
    data: Any = config.data  # text and conversations have a tokenizer
    kind = data.tokenizer.kind
    if kind in NO_COUNTERPART:
        return f"data.tokenizer.kind={kind}: {NO_COUNTERPART[kind]}"
    return None


def _target(config: Config, data_spec: DataSpec) -> Target | str:
    """Return the first architecture that can hold the model, or why the nearest can't."""
    if config.task.model_output != "next_tokens":
        return f"task.name={config.task.name}: only language models are written for llama.cpp"
    if not isinstance(config.model, Decoder):
        return f"model.architecture={config.model.architecture}: llama.cpp has only decoders"
    settings = config.model.model_dump()
    refusals: list[tuple[Target, list[str]]] = []
    for target in TARGETS:
        try:
            FAMILIES[target.family].configure(settings, data_spec, "next_tokens")
        except Unsupported as error:
            refusals.append((target, list(error.args)))
            continue
        ours = resolved(settings)
        lacking = [name for name in target.lacks if ours[name] is not None]
        if not lacking:
            return target
        reasons = [f"model.{name}={settings[name]}: it only has none" for name in lacking]
        refusals.append((target, reasons))
    nearest, reasons = min(refusals, key=lambda one: len(one[1]))
    return f"{'; '.join(reasons)} (the nearest architecture of llama.cpp is {nearest.name})"


def write(source: Source, out: Path) -> Sequence[str]:
    """Write the file `out`. Raises `UsageError` if the package gguf is missing, or if llama.cpp has
    no tokenizer like the model's."""
    gguf = library()
    target = _target(source.config, source.data_spec)
    assert isinstance(target, Target)
    if source.tokenizer is None:
        raise UsageError("--format=gguf: the workdir has no tokenizer.json")
    tokenizer = Tokenizer.load(source.tokenizer)
    tensors = _tensors(source, target)
    dtype = tensors["token_embd.weight"].dtype.name
    writer = gguf.GGUFWriter(out, target.name)
    try:
        _add_metadata(writer, source)
        writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
        notes = _add_tokenizer(writer, source, tokenizer)
        writer.add_string(TOKENIZER, source.tokenizer.read_text(encoding="utf-8"))
        writer.add_string(DESCRIPTION, description(source, "gguf").text())
        for name, array in tensors.items():
            if array.dtype == ml_dtypes.bfloat16:
                kind = gguf.GGMLQuantizationType.BF16
                writer.add_tensor(name, array.view(np.uint8), raw_dtype=kind)
            else:
                writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return notes


def _add_metadata(writer: "GGUFWriter", source: Source) -> None:
    """Add the sizes of the model, and where it comes from."""
    config, model, sizes = source.config, _decoder(source.config), source.data_spec
    width = model.feed_forward_width or feed_forward_width(model.feed_forward, model.width)
    head_dim = model.head_dim or model.width // model.num_heads
    writer.add_type("model")
    writer.add_name(f"{config.data.source} {source.restored.step}")
    writer.add_description(f"data.source={config.data.source}, {source.restored.step:,} steps")
    writer.add_context_length(sizes.require("max_length"))
    writer.add_vocab_size(sizes.require("vocabulary_size"))
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.depth)
    writer.add_feed_forward_length(width)
    writer.add_head_count(model.num_heads)
    writer.add_head_count_kv(model.num_kv_heads or model.num_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(model.rotary_base)
    writer.add_layer_norm_rms_eps(model.norm_epsilon)


def _add_tokenizer(writer: "GGUFWriter", source: Source, tokenizer: Tokenizer) -> Sequence[str]:
    """Add the tokenizer, and the template of a chat model. Return notes for the user."""
    words = vocabulary(tokenizer, source.data_spec.require("vocabulary_size"))
    _add_vocabulary(writer, words)
    opening, notes = tokenizer.opening, list(words.notes)
    writer.add_bos_token_id(int(opening[0]) if len(opening) == 1 else tokenizer.separator_id)
    writer.add_add_eos_token(False)
    data = source.config.data
    if data.source != "conversations":
        if len(opening) > 1:
            notes.append(f"llama.cpp does not put the {len(opening)} tokens before a text")
        writer.add_add_bos_token(len(opening) == 1)
        writer.add_eos_token_id(tokenizer.end_id)
        return notes
    writer.add_add_bos_token(False)  # The template writes what opens a conversation.
    writer.add_eos_token_id(tokenizer.separator_id)
    encoder = ChatEncoder(tokenizer, data.chat_template)
    if encoder.end_id != tokenizer.separator_id:
        writer.add_eot_token_id(encoder.end_id)
    missing, more = missing_opening(tokenizer, encoder.template)
    writer.add_chat_template("".join(missing) + (data.chat_template or TEMPLATE))
    return [*notes, *more]


def _add_vocabulary(writer: "GGUFWriter", words: Vocabulary) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    writer.add_add_space_prefix(words.adds_space)
    writer.add_array(SUPPRESSED, words.suppressed)
    if words.pre is not None:
        writer.add_tokenizer_pre(words.pre)
    if words.merges is not None:
        writer.add_token_merges(words.merges)
    if words.scores is not None:
        writer.add_token_scores(words.scores)
    if words.unknown_id is not None:
        writer.add_unk_token_id(words.unknown_id)


def _tensors(source: Source, target: Target) -> dict[str, NDArray]:
    """Return the tensors of the file by their names: matrices in the dtype of `source`, vectors in
    float32."""
    model = _decoder(source.config)
    params = nested(replace(source, dtype=None).params())
    theirs = to_tensors(target.family, params, scanned=model.scan_layers)
    names = _names(target, model.depth)
    tensors: dict[str, NDArray] = {}
    for their_name, array in theirs.items():
        name = names(their_name)
        if (heads := _heads(name, model, target)) is not None:
            array = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2)
            array = array.reshape(theirs[their_name].shape)
        dtype = "float32" if array.ndim == 1 else source.dtype or array.dtype
        with np.errstate(over="ignore"):
            tensors[name] = np.ascontiguousarray(array.astype(dtype))
        if dtype == "float16" and not np.isfinite(tensors[name]).all():
            raise UsageError(f"--dtype=float16 can't hold {name}: use bfloat16")
    if model.rotary_scaling is not None:
        half, base = (model.head_dim or model.width // model.num_heads) // 2, model.rotary_base
        scaled = rotary_frequencies(half, base, model.rotary_scaling)
        tensors[ROTARY_FACTORS] = np.asarray(rotary_frequencies(half, base, None) / scaled)
    return tensors


def _names(target: Target, depth: int) -> Callable[[str], str]:
    """Return the function from the names of Hugging Face to those of llama.cpp."""
    gguf = library()
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == target.name)
    table = gguf.get_tensor_name_map(arch, depth)

    def name(theirs: str) -> str:
        found = table.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert found is not None, theirs
        return found

    return name


def _decoder(config: Config) -> Decoder:
    assert isinstance(config.model, Decoder)
    return config.model


def _heads(name: str, model: Decoder, target: Target) -> int | None:
    """Return the number of heads of a tensor whose rows are reordered; None for others."""
    if target.adjacent_pairs and ".attn_q." in name:
        return model.num_heads
    if target.adjacent_pairs and ".attn_k." in name:
        return model.num_kv_heads or model.num_heads
    return None


def read_arrays(path: Path, model_def: ModelDef) -> Arrays:
    """Return the parameters of the model `model_def` and its batch statistics, of which it has
    none, by their dotted names.

    Raises `UsageError` if the file is damaged, or lacks a tensor or has one that is unknown or of
    another shape; the message names it.
    """
    reader = opened(path)
    target = _target(model_def.config, model_def.data_spec)
    if isinstance(target, str):
        raise UsageError(f"{path} does not fit its {DESCRIPTION}: {target}")
    model, table = _decoder(model_def.config), FAMILIES[target.family].table
    shapes = flat(model_def.own_params)
    layout = param_layout(shapes, scanned=model.scan_layers)
    names = _names(target, model.depth)
    rows = {names(table.tensor_name(row)): row for row in table.rows_of(layout)}
    stored = {tensor.name: tensor for tensor in reader.tensors if tensor.name != ROTARY_FACTORS}
    faults = [f"lacks {name}" for name in rows.keys() - stored.keys()]
    faults += [f"has {name}, which is unknown" for name in stored.keys() - rows.keys()]
    arrays: dict[str, NDArray] = {}
    for name in rows.keys() & stored.keys():
        slices = [layout[one] for one in rows[name].ours]
        wanted = rows[name].their_shape([one.shape for one in slices])
        tensor = _array(stored[name])
        if tensor is None or tensor.shape != wanted:
            found = list(reversed(stored[name].shape.tolist()))
            faults.append(
                f"has {name} of {stored[name].tensor_type.name} and shape {found} in place of "
                f"F32, F16 or BF16 and {list(wanted)}"
            )
            continue
        if (heads := _heads(name, model, target)) is not None:
            tensor = tensor.reshape(heads, -1, 2, *wanted[1:]).swapaxes(1, 2).reshape(wanted)
        parts = rows[name].to_ours(tensor, [one.shape for one in slices])
        for one, part in zip(slices, parts, strict=True):
            if one.leaf not in arrays:
                arrays[one.leaf] = np.empty(shapes[one.leaf].shape, part.dtype)
            one.view(arrays)[...] = part
    if faults:
        more = f", and {len(faults) - 3} more faults" if len(faults) > 3 else ""
        raise UsageError(
            f"{path} does not fit its {DESCRIPTION}: it {'; '.join(sorted(faults)[:3])}{more}"
        )
    return arrays, {}


def _array(tensor: Any) -> NDArray | None:
    """Return a tensor of a file; None if its numbers are quantised."""
    if tensor.tensor_type.name == "BF16":
        return tensor.data.view(ml_dtypes.bfloat16)
    return tensor.data if tensor.tensor_type.name in ("F32", "F16") else None
