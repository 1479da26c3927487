"""BERT (Devlin et al. 2019, arXiv:1810.04805): `BertForMaskedLM`, `BertForPreTraining` and
`BertForSequenceClassification`."""

from configs.data_spec import DataSpec
from interop.description import ACTIVATIONS, BLOCKS, Description, class_count
from interop.folder import Folder
from interop.tables import OUT_OF_HEADS, Kernel, Row, Table, linear, norm, same

BLOCK, THEIRS, HEAD = "backbone.layers.{layer}", "encoder.layer.{layer}", "cls.predictions"

TABLE = Table(
    prefix="bert.",
    rows=(
        same(
            "embedding.tokens.embedding", "embeddings.word_embeddings.weight", counts="vocabulary"
        ),
        same(
            "positions.table.embedding", "embeddings.position_embeddings.weight", counts="positions"
        ),
        same("token_types.table.embedding", "embeddings.token_type_embeddings.weight"),
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
        same("head_transform.bias", f"{HEAD}.bias", counts="vocabulary"),
        Row(("embedding.head.kernel",), f"{HEAD}.decoder.weight", Kernel(), counts="vocabulary"),
        *linear("pool.dense", "pooler.dense"),
        *linear("classes", "classifier"),
    ),
    # What only the guess of the next sentence uses, but for a classifier that has the pooler.
    ignored=("pooler.dense.*", "cls.seq_relationship.*", "embeddings.position_ids"),
    copies={
        f"{HEAD}.decoder.weight": "embeddings.word_embeddings.weight",
        f"{HEAD}.decoder.bias": f"{HEAD}.bias",
    },
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)


def describe(folder: Folder) -> Description:
    """What config.json says, in our terms."""
    config = folder.config
    config.demand(
        position_embedding_type=["absolute"], is_decoder=[False], add_cross_attention=[False]
    )
    settings = {
        "architecture": "encoder",
        **BLOCKS,
        "width": config.count("hidden_size"),
        "depth": config.count("num_hidden_layers"),
        "num_heads": config.count("num_attention_heads"),
        "positions": "learned",
        "token_types": config.count("type_vocab_size"),
        "embedding_norm": True,
        "logit_soft_cap": None,
        "norm": "layer_norm",
        "norm_placement": "post",
        "norm_epsilon": config.number("layer_norm_eps", default=1e-12),
        "feed_forward": config.translated("hidden_act", ACTIVATIONS, default="gelu"),
        "feed_forward_width": config.count("intermediate_size"),
    }
    data_spec = DataSpec(
        vocabulary_size=config.count("vocab_size"),
        max_length=config.count("max_position_embeddings"),
        num_classes=class_count(folder),
    )
    if data_spec.num_classes is not None:
        settings["pooling"] = "first_dense"
    else:
        settings["tied_embeddings"] = config.flag("tie_word_embeddings", default=True)
        settings["head_transform"] = True
    return Description("bert", settings, data_spec)
