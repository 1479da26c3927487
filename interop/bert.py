"""BERT (Devlin et al. 2019, arXiv:1810.04805): `BertForMaskedLM`, `BertForPreTraining` and
`BertForSequenceClassification`."""

from configs.data_spec import DataSpec
from interop.description import ACTIVATIONS, COMMON_SETTINGS, Description, class_count
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


def describe(folder: Folder) -> Description:
    """Translate the folder's config.json into fields of our configuration."""
    config = folder.config
    config.require(
        position_embedding_type=["absolute"], is_decoder=[False], add_cross_attention=[False]
    )
    settings = {
        "architecture": "encoder",
        **COMMON_SETTINGS,
        "width": config.positive_int("hidden_size"),
        "depth": config.positive_int("num_hidden_layers"),
        "num_heads": config.positive_int("num_attention_heads"),
        "positions": "learned",
        "token_types": config.positive_int("type_vocab_size"),
        "embedding_norm": True,
        "logit_soft_cap": None,
        "norm": "layer_norm",
        "norm_placement": "post",
        "norm_epsilon": config.positive_float("layer_norm_eps", default=1e-12),
        "feed_forward": config.lookup("hidden_act", ACTIVATIONS, default="gelu"),
        "feed_forward_width": config.positive_int("intermediate_size"),
    }
    data_spec = DataSpec(
        vocabulary_size=config.positive_int("vocab_size"),
        max_length=config.positive_int("max_position_embeddings"),
        num_classes=class_count(folder),
    )
    if data_spec.num_classes is not None:
        settings["pooling"] = "first_dense"
    else:
        settings["tied_embeddings"] = config.boolean("tie_word_embeddings", default=True)
        settings["head_transform"] = True
    return Description("bert", settings, data_spec)
