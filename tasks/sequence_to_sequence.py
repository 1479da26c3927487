"""Sequence to sequence: predict the target text of a source text, token by token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from tasks.language_modeling import LanguageModeling
from tasks.task import Batch


@dataclass(frozen=True)
class SequenceToSequence(LanguageModeling):
    """The task of generating a target text from a source text, trained with teacher forcing.

    A batch contains `source`, `source_segments` int32 [B, S] (1 for tokens, 0 for padding),
    `tokens`, `targets` int32 [B, T], `weights` float32 [B, T]. Each target token is predicted from
    the source and the true target tokens before it.
    """

    higher_is_better: ClassVar[frozenset[str]] = frozenset(
        {"accuracy", "exact_match", "bleu", "chrf"}
    )

    def hidden(self, model: Any, batch: Batch, dropout_key: jax.Array | None) -> jax.Array:
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        memory = model.encode(
            batch["source"], segments_BS=batch["source_segments"], dropout_key=keys[0]
        )
        hidden_BTD, _ = model.hidden(batch["tokens"], memory, dropout_key=keys[1])
        return hidden_BTD

    def summarize(self, sums: Mapping[str, float], text_bytes: int | None) -> dict[str, float]:
        """Return `examples`, `loss` in nats per target token, `perplexity` and `accuracy`, the
        fraction of target tokens predicted correctly from the true tokens before them."""
        return super().summarize(sums, None)

    def text_metrics(
        self, hypotheses: Sequence[str], references: Sequence[str]
    ) -> dict[str, float]:
        """Compare generated texts with the references. Returns `exact_match` from 0 to 1, and
        sacrebleu's default `bleu` and `chrf` from 0 to 100 (Post 2018, arXiv:1804.08771)."""
        import sacrebleu

        hypotheses, references = list(hypotheses), list(references)
        right = sum(one == other for one, other in zip(hypotheses, references, strict=True))
        return {
            "exact_match": right / len(references),
            "bleu": sacrebleu.corpus_bleu(hypotheses, [references]).score,
            "chrf": sacrebleu.corpus_chrf(hypotheses, [references]).score,
        }
