"""Transcribes recordings with a model for connectionist temporal classification (CTC).

Axes: B batch, T frames, F mel bands, U positions of the model, L labels, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from data.codecs.tokenizers import UNKNOWN, Tokenizer
from inference.compiled import CompiledFunction
from inference.ctc import best_path, labels_of, log_probability, prefix_beam_search
from inference.predictors.predictor import Prediction
from inference.recordings import in_groups
from inference.text import writable_tokens
from parallel.axes import replicated
from parallel.feeding import gather_batch

MOST_ROWS = 32
"""Maximum number of recordings in a batch."""


class Transcriber:
    """Transcribes recordings, with models sharded over `mesh` by `rules`.

    decoder: "greedy" returns the text of the likeliest alignment; "beam" returns the likeliest text
        found by a search with `beam_size` prefixes (see `inference.ctc`). Labels that do not occur
        in texts, such as the separator, are never generated. The score of an answer is its
        log-probability in nats, summed over all alignments, with no label excluded.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        decoder: str,
        beam_size: int,
        mesh: Mesh,
        rules: Mapping[str, Sequence[str]],
    ):
        self._tokenizer = tokenizer
        self._beam_size = beam_size if decoder == "beam" else None
        # The last entry is the blank.
        self._writable_V = np.append(writable_tokens(tokenizer), True)
        self._writable_V[tokenizer.separator_id] = False
        self._transcribe = CompiledFunction(
            self._decoded,
            mesh=mesh,
            rules=rules,
            out_shardings=replicated(mesh),  # Every host reads all answers.
        )

    def predict_batch(self, module: nnx.Module, batch: Mapping[str, Any]) -> list[Prediction]:
        """Return the transcript of each row except padding (see `BatchPredictor`)."""
        weights_B = gather_batch({"weights": batch["weights"]})["weights"]
        answers = self._answers(module, batch["frames"], batch["segments"])
        return [answers[row] for row in np.flatnonzero(weights_B > 0)]

    def references(self, batch: Mapping[str, Any]) -> list[dict[str, str]]:
        """Return the `reference` for each row except padding (see `BatchPredictor`)."""
        rows = np.flatnonzero(batch["weights"] > 0)
        labels = [batch["labels"][row][batch["label_weights"][row] > 0] for row in rows]
        # A character unknown to the tokenizer becomes one that no model generates.
        return [{"reference": self._tokenizer.decode(i).replace(UNKNOWN, "\ufffd")} for i in labels]

    def transcribe(self, module: nnx.Module, recordings: Sequence[np.ndarray]) -> list[Prediction]:
        """Return the transcript of each of `recordings` (frames [T, F] each), in order."""
        return in_groups(
            recordings, MOST_ROWS, lambda group, *inputs: self._answers(module, *inputs)
        )

    def _answers(self, module: nnx.Module, frames_BTF: Any, segments_BT: Any) -> list[Prediction]:
        """Return the transcript of each row. Positions with segment 0 are padding."""
        labels_BU, score_B = jax.device_get(self._transcribe(module, frames_BTF, segments_BT))
        texts = [self._tokenizer.decode(ids) for ids in labels_of(labels_BU)]
        return [Prediction(text, float(score)) for text, score in zip(texts, score_B, strict=True)]

    def _decoded(
        self, module: Any, frames_BTF: jax.Array, segments_BT: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        logits_BUV, segments_BU = module.transcribe(frames_BTF, segments_BT=segments_BT)
        log_probs_BUV = jnp.where(self._writable_V, jax.nn.log_softmax(logits_BUV), -jnp.inf)
        if self._beam_size is None:
            labels_BU = best_path(log_probs_BUV, segments_BU)
        else:
            labels_BWU, _ = prefix_beam_search(
                log_probs_BUV, segments_BU, beam_size=self._beam_size
            )
            labels_BU = labels_BWU[:, 0]
        return labels_BU, log_probability(logits_BUV, segments_BU, labels_BU)
