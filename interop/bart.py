"""Encoder-decoders with the layout of BART (Lewis et al. 2019, arXiv:1910.13461).

They differ in the places of their norms and in their positions, and each computes what one choice
of our settings computes:

- Pegasus: norms before each part, Vaswani's sinusoids
- Marian: norms after each part, Vaswani's sinusoids
- M2M100 and NLLB: norms before each part, fairseq's sinusoids
- Blenderbot: norms before each part, learned positions
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interop.description import ACTIVATIONS, COMMON_SETTINGS
from interop.family import Family
from interop.fields import Choice, Custom, Int, Ours, Row, Settings, Theirs
from interop.folder import Folder
from interop.json_fields import JsonFields
from interop.tables import OUT_OF_HEADS, Table, linear, norm
from interop.tables import Row as WeightRow

PAD_OF_FAIRSEQ = 1
"""The id of padding in M2M100, from which its positions are counted."""

NORM_EPSILON = 1e-5
"""The `norm_epsilon` of the layer norms of PyTorch, for which config.json has no field."""

POSITIONS = ("encoder.embed_positions.weight", "decoder.embed_positions.weight")
BIAS = "final_logits_bias"


def _attention(ours: str, theirs: str) -> Iterator[WeightRow]:
    for one, other in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        yield from linear(f"{ours}.{one}", f"{theirs}.{other}")
    yield from linear(f"{ours}.out", f"{theirs}.out_proj", OUT_OF_HEADS)


def _stack(name: str, *, final_norm: bool) -> Iterator[WeightRow]:
    """Yield the rows of the encoder or the decoder."""
    block = f"{name}.layers.{{layer}}"
    yield from _attention(f"{block}.mixer", f"{block}.self_attn")
    yield from norm(f"{block}.mixer_norm", f"{block}.self_attn_layer_norm")
    if name == "decoder":
        yield from _attention(f"{block}.cross", f"{block}.encoder_attn")
        yield from norm(f"{block}.cross_norm", f"{block}.encoder_attn_layer_norm")
    yield from linear(f"{block}.feed_forward.up", f"{block}.fc1")
    yield from linear(f"{block}.feed_forward.down", f"{block}.fc2")
    yield from norm(f"{block}.feed_forward_norm", f"{block}.final_layer_norm")
    if final_norm:
        yield from norm(f"{name}.norm", f"{name}.layer_norm")


def _table(*, final_norm: bool, learned_positions: bool) -> Table:
    learned = (
        WeightRow(("source_positions.table.embedding",), POSITIONS[0], resizable="positions"),
        WeightRow(("positions.table.embedding",), POSITIONS[1], resizable="positions"),
    )
    sinusoids = (*POSITIONS, "encoder.embed_positions.weights", "decoder.embed_positions.weights")
    return Table(
        prefix="model.",
        rows=(
            WeightRow(("embedding.tokens.embedding",), "shared.weight", resizable="vocabulary"),
            *(learned if learned_positions else ()),
            *_stack("encoder", final_norm=final_norm),
            *_stack("decoder", final_norm=final_norm),
        ),
        ignored=(BIAS, *(() if learned_positions else sinusoids)),
        copies={
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
            "lm_head.weight": "shared.weight",
        },
    )


@dataclass(frozen=True)
class BothSides:
    """An integer that encoder and decoder have in common. theirs: without the side's name."""

    ours: str
    theirs: str

    def read(self, config: JsonFields) -> Settings:
        value = config.positive_int(f"decoder_{self.theirs}")
        if config.positive_int(f"encoder_{self.theirs}") != value:
            config.reject(f"encoder_{self.theirs}", f"the decoder's is {value}")
        return {self.ours: value}

    def write(self, ours: Settings) -> Settings:
        return {f"{side}_{self.theirs}": ours[self.ours] for side in ("encoder", "decoder")}


def _read_depths(config: JsonFields) -> Settings:
    return {
        "depth": config.positive_int("decoder_layers"),
        "encoder_depth": config.positive_int("encoder_layers"),
    }


def _write_depths(ours: Settings) -> Settings:
    return {
        "decoder_layers": ours["depth"],
        "encoder_layers": ours["encoder_depth"] or ours["depth"],
    }


def _scaled_embedding(wanted: bool, default: bool) -> Row:
    """Return the row for whether token embeddings are multiplied by sqrt(width). default: the value
    of a file without the field."""

    def read(config: JsonFields) -> Settings:
        if config.boolean("scale_embedding", default=default) != wanted:
            config.reject("scale_embedding", f"it must be {str(wanted).lower()}")
        return {}

    return Custom(read, lambda ours: {"scale_embedding": wanted})


def _longest(ours: Settings) -> int | None:
    return max(ours.get(f"data.max_{one}length") or 0 for one in ("", "source_")) or None


def _lengths(learned_positions: bool) -> Row:
    """Return the row for the number of positions, which only limits learned ones."""

    def read(config: JsonFields) -> Settings:
        if not learned_positions:
            return {}
        longest = config.positive_int("max_position_embeddings")
        return {"data.max_source_length": longest, "data.max_length": longest}

    return Custom(read, lambda ours: {"max_position_embeddings": _longest(ours)})


def _read_target_vocabulary(config: JsonFields) -> Settings:
    config.require(decoder_vocab_size=[config.value("vocab_size"), None])
    return {}


def _more(folder: Folder, found: Settings) -> Settings:
    """Check that the head has no bias."""
    if BIAS in folder.names and np.any(folder.tensor(BIAS)):
        folder.refuse(BIAS, "it must be zero, as heads here have no bias")
    return {}


def _with_sinusoids(
    tensors: Mapping[str, NDArray], config: Mapping[str, Any]
) -> Mapping[str, NDArray]:
    """Add the tables of sinusoids, for readers that don't compute them."""
    count, width = config["max_position_embeddings"], config["d_model"]
    frequencies = 10_000.0 ** (-2 * np.arange(width // 2) / width)
    angles = np.arange(count)[:, None] * frequencies
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    dtype = tensors["model.shared.weight"].dtype
    return {**tensors, **{f"model.{name}": table.astype(dtype) for name in POSITIONS}}


def _with_equal_lengths(
    tensors: Mapping[str, NDArray], config: Mapping[str, Any]
) -> Mapping[str, NDArray]:
    """Extend the shorter table of positions with zeros, which are never read."""
    count, changed = config["max_position_embeddings"], dict(tensors)
    for name in (f"model.{name}" for name in POSITIONS):
        missing = count - len(tensors[name])
        changed[name] = np.pad(tensors[name], ((0, missing), (0, 0)))
    return changed


def _tokens(config: Mapping[str, Any], ids: Mapping[str, int | None]) -> Mapping[str, Any]:
    """Return the fields of the special tokens. Without a field for the token that is forced at the
    end, it would be one of the family's own tokenizer."""
    forced = {"forced_eos_token_id": ids["eos_token_id"]}
    return {**ids, **({} if config["model_type"] == M2M100.name else forced)}


def _family(
    name: str,
    class_name: str,
    *rows: Row,
    positions: str,
    scale_embedding_default: bool = False,
    pre_norm: bool = True,
    **options: Any,
) -> Family:
    """Make a family. rows: those of config.json that only it has. options: as in `Family`."""
    learned = positions == "learned"
    return Family(
        name,
        _table(final_norm=pre_norm, learned_positions=learned),
        fields=(
            Ours({"architecture": "encoder_decoder", "encoder_pattern": None}),
            Ours({**COMMON_SETTINGS, "norm_placement": "pre" if pre_norm else "post"}),
            Ours({"positions": positions, "norm": "layer_norm", "norm_epsilon": NORM_EPSILON}),
            Ours({"shared_embeddings": True, "tied_embeddings": True, "logit_soft_cap": None}),
            Theirs({"tie_word_embeddings": [True], "is_encoder_decoder": [True]}),
            _scaled_embedding(not learned, scale_embedding_default),
            Int("width", "d_model"),
            Custom(_read_depths, _write_depths),
            BothSides("num_heads", "attention_heads"),
            BothSides("feed_forward_width", "ffn_dim"),
            Choice("feed_forward", "activation_function", ACTIVATIONS),
            Int("data.vocabulary_size", "vocab_size"),
            _lengths(learned),
            *rows,
        ),
        classes={"target_tokens": class_name},
        more=_more,
        tokens=_tokens,
        **options,
    )


PEGASUS = _family(
    "pegasus",
    "PegasusForConditionalGeneration",
    Theirs({"normalize_before": [True], "normalize_embedding": [False]}),  # CTranslate2 reads them
    positions="sinusoidal",
    finish=_with_sinusoids,
)
"""Zhang et al. 2020, arXiv:1912.08777."""

MARIAN = _family(
    "marian",
    "MarianMTModel",
    Theirs({"share_encoder_decoder_embeddings": [True]}),
    Custom(_read_target_vocabulary, lambda ours: {}),
    positions="sinusoidal",
    pre_norm=False,
    finish=_with_sinusoids,
)
"""Junczys-Dowmunt et al. 2018, arXiv:1804.00344."""

M2M100 = _family(
    "m2m_100",
    "M2M100ForConditionalGeneration",
    Theirs({"pad_token_id": [PAD_OF_FAIRSEQ]}),
    positions="sinusoidal_fairseq",
    scale_embedding_default=True,
    padding=PAD_OF_FAIRSEQ,
)
"""Fan et al. 2021, arXiv:2010.11125; also NLLB (arXiv:2207.04672)."""

BLENDERBOT = _family(
    "blenderbot",
    "BlenderbotForConditionalGeneration",
    Custom(lambda config: {}, lambda ours: {"encoder_no_repeat_ngram_size": 0}),
    positions="learned",
    finish=_with_equal_lengths,
)
"""Roller et al. 2021, arXiv:2004.13637."""

FAMILIES = (PEGASUS, MARIAN, M2M100, BLENDERBOT)
