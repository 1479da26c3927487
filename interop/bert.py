"""BERT (Devlin et al. 2019, arXiv:1810.04805): `BertForMaskedLM`, `BertForPreTraining` and
`BertForSequenceClassification`."""

from interop.description import ACTIVATIONS, COMMON_SETTINGS, class_count
from interop.family import Family
from interop.fields import Choice, Custom, Float, Int, Ours, Settings, Theirs, Unsupported
from interop.folder import Folder
from interop.tables import OUT_OF_HEADS, Kernel, Row, Table, linear, norm

BLOCK, THEIRS, HEAD = "backbone.layers.{layer}", "encoder.layer.{layer}", "cls.predictions"

TABLE = Table(
    prefix="bert.",
    rows=(
        Row(
            ("embedding.tokens.embedding",),
            "embeddings.word_embeddings.weight",
            resizable="vocabulary",
        ),
        Row(
            ("positions.table.embedding",),
            "embeddings.position_embeddings.weight",
            resizable="positions",
        ),
        Row(("token_types.table.embedding",), "embeddings.token_type_embeddings.weight"),
        *norm("embedding_norm", "embeddings.LayerNorm"),
        *linear(f"{BLOCK}.mixer.query", f"{THEIRS}.attention.self.query"),
        *linear(f"{BLOCK}.mixer.key", f"{THEIRS}.attention.self.key"),
        *linear(f"{BLOCK}.mixer.value", f"{THEIRS}.attention.self.value"),
        *linear(f"{BLOCK}.mixer.out", f"{THEIRS}.attention.output.dense", OUT_OF_HEADS),
        *norm(f"{BLOCK}.mixer_norm", f"{THEIRS}.attention.output.LayerNorm"),
        *linear(f"{BLOCK}.feed_forward.up", f"{THEIRS}.intermediate.dense"),
        *linear(f"{BLOCK}.feed_forward.down", f"{THEIRS}.output.dense"),
        *norm(f"{BLOCK}.feed_forward_norm", f"{THEIRS}.output.LayerNorm"),
        *linear("head_transform.dense", f"{HEAD}.transform.dense"),
        *norm("head_transform.norm", f"{HEAD}.transform.LayerNorm"),
        Row(("head_transform.bias",), f"{HEAD}.bias", resizable="vocabulary"),
        Row(("embedding.head.kernel",), f"{HEAD}.decoder.weight", Kernel(), resizable="vocabulary"),
        *linear("pool.dense", "pooler.dense"),
        *linear("classes", "classifier"),
    ),
    # The weights of next sentence prediction. (In a classifier, rows use the pooler.)
    ignored=("pooler.dense.*", "cls.seq_relationship.*", "embeddings.position_ids"),
    copies={
        f"{HEAD}.decoder.weight": "embeddings.word_embeddings.weight",
        f"{HEAD}.decoder.bias": f"{HEAD}.bias",
    },
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)


def _more(folder: Folder, found: Settings) -> Settings:
    """Return the settings of the head that the folder's tensors show."""
    count = class_count(folder)
    if count is not None:
        return {"pooling": "first_dense", "data.num_classes": count}
    tied = folder.config.boolean("tie_word_embeddings", default=True)
    return {"tied_embeddings": tied, "head_transform": True}


def _write_head(ours: Settings) -> Settings:
    """Return the fields of config.json for a head of ours."""
    if ours.get("data.num_classes") is None:
        if not ours["head_transform"]:
            raise Unsupported("model.head_transform=false: it only has true")
        return {"tie_word_embeddings": ours["tied_embeddings"]}
    if ours["pooling"] != "first_dense":
        raise Unsupported(f"model.pooling={ours['pooling']}: it only has first_dense")
    return {}


FAMILY = Family(
    "bert",
    TABLE,
    fields=(
        Ours({"architecture": "encoder", **COMMON_SETTINGS, "norm_placement": "post"}),
        Ours({"positions": "learned", "norm": "layer_norm"}),
        Ours({"embedding_norm": True, "logit_soft_cap": None}),
        Theirs(
            {
                "position_embedding_type": ["absolute"],
                "is_decoder": [False],
                "add_cross_attention": [False],
            }
        ),
        Int("width", "hidden_size"),
        Int("depth", "num_hidden_layers"),
        Int("num_heads", "num_attention_heads"),
        Int("token_types", "type_vocab_size"),
        Float("norm_epsilon", "layer_norm_eps", default=1e-12),
        Choice("feed_forward", "hidden_act", ACTIVATIONS, default="gelu"),
        Int("feed_forward_width", "intermediate_size"),
        Int("data.vocabulary_size", "vocab_size"),
        Int("data.max_length", "max_position_embeddings"),
        Custom(lambda config: {}, _write_head),
    ),
    classes={"missing_tokens": "BertForMaskedLM", "classes": "BertForSequenceClassification"},
    more=_more,
)
