"""Decoders of connectionist temporal classification (CTC): greedy, and prefix beam search.

Axes: B batch, U positions, V vocabulary (its last entry is the blank), W texts in the beam. In
`segments_BU`, 0 marks padding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

NOTHING = -1
"""Marks a position without a label in an array of labels."""


def best_path(log_probs_BUV: jax.Array, segments_BU: jax.Array) -> jax.Array:
    """Return the labels of the likeliest alignment, int32 [B, U] (Graves et al. 2006, section 3.2).

    A position is `NOTHING` if it is padding, or if its likeliest label is the blank or the same as
    at the position before.
    """
    best_BU = jnp.argmax(log_probs_BUV, axis=2).astype(jnp.int32)
    before_BU = jnp.pad(best_BU[:, :-1], ((0, 0), (1, 0)), constant_values=NOTHING)
    is_label_BU = (best_BU != before_BU) & (best_BU != log_probs_BUV.shape[2] - 1)
    return jnp.where(is_label_BU & (segments_BU != 0), best_BU, NOTHING)


def log_probability(
    logits_BUV: jax.Array, segments_BU: jax.Array, labels_BU: jax.Array
) -> jax.Array:
    """Return the log-probability of each row's labels, summed over all alignments: nats, float32
    [B].

    Entries of `labels_BU` that are `NOTHING` are skipped.
    """
    first_BU = jnp.argsort(labels_BU == NOTHING, axis=1, stable=True)
    labels_BU = jnp.take_along_axis(labels_BU, first_BU, axis=1)
    return -optax.ctc_loss(
        logits_BUV.astype(jnp.float32),
        (segments_BU == 0).astype(jnp.float32),
        jnp.maximum(labels_BU, 0),
        (labels_BU == NOTHING).astype(jnp.float32),
        blank_id=logits_BUV.shape[2] - 1,
    )


def prefix_beam_search(
    log_probs_BUV: jax.Array, segments_BU: jax.Array, *, beam_size: int
) -> tuple[jax.Array, jax.Array]:
    """Search for the `beam_size` likeliest texts of each row.

    Return labels, int32 [B, W, U] with `NOTHING` after their end, and log-probabilities in nats,
    float32 [B, W], both from the likeliest text to the least likely. If fewer texts were found, the
    log-probability of the others is -inf. (Graves 2012, "Supervised Sequence Labelling", section
    7.5; Hannun et al. 2014, arXiv:1408.2873, algorithm 1, without a language model.)

    At each position the search keeps the prefixes with the highest probability, summed over the
    alignments whose prefixes were kept too. The result is exact if the beam has room for every
    text. Otherwise the true probability of a text may be higher than the returned one.
    """

    def search(log_probs_UV, real_U):
        start = _Beam.empty(beam_size, log_probs_UV.shape[0])
        beam, _ = jax.lax.scan(_advance, start, (log_probs_UV, real_U))
        return beam.labels_WU, beam.score_W

    return jax.vmap(search)(log_probs_BUV, segments_BU != 0)


def labels_of(labels_BU: np.ndarray) -> list[np.ndarray]:
    """Return the labels of each row, without `NOTHING`."""
    return [row[row != NOTHING] for row in labels_BU]


@struct.dataclass
class _Beam:
    """A beam of distinct texts, given by their labels and lengths.

    blank_W, label_W: log-probabilities of each text after the positions so far: of all alignments
    that end in the blank, and of all that end in the text's last label. An unused entry has length
    -1 and probability 0.
    """

    labels_WU: jax.Array
    length_W: jax.Array
    blank_W: jax.Array
    label_W: jax.Array

    @classmethod
    def empty(cls, size: int, positions: int) -> "_Beam":
        """Return the initial beam, which has only the empty text."""
        is_first_W = jnp.arange(size) == 0
        impossible_W = jnp.full(size, -jnp.inf)
        return cls(
            labels_WU=jnp.full((size, positions), NOTHING, jnp.int32),
            length_W=jnp.where(is_first_W, 0, -1),
            blank_W=jnp.where(is_first_W, 0.0, -jnp.inf),
            label_W=impossible_W,
        )

    @property
    def score_W(self) -> jax.Array:
        return jnp.logaddexp(self.blank_W, self.label_W)

    @property
    def last_W(self) -> jax.Array:
        """Return the last label of each text; `NOTHING` for an empty text."""
        at_W1 = jnp.maximum(self.length_W - 1, 0)[:, None]
        last_W = jnp.take_along_axis(self.labels_WU, at_W1, axis=1)[:, 0]
        return jnp.where(self.length_W > 0, last_W, NOTHING)

    def continuations(self) -> jax.Array:
        """Return a mask, bool [W, W]: element [i, j] is True if text j is text i plus one label."""
        places_U = jnp.arange(self.labels_WU.shape[1])
        is_last_WU = places_U == self.length_W[:, None] - 1
        shorter_WU = jnp.where(is_last_WU, NOTHING, self.labels_WU)
        alike_WW = jnp.all(self.labels_WU[:, None] == shorter_WU[None], axis=2)
        return alike_WW & (self.length_W[:, None] >= 0) & (self.length_W > 0)


def _advance(beam: _Beam, position: tuple[jax.Array, jax.Array]) -> tuple[_Beam, None]:
    """Return the beam after one more position. Padding does not change it."""
    log_probs_V, is_real = position
    size, labels = beam.length_W.shape[0], log_probs_V.shape[0] - 1
    log_probs_L, last_W, score_W = log_probs_V[:labels], beam.last_W, beam.score_W
    is_last_WL = jnp.arange(labels) == last_W[:, None]

    # A text stays the same if the position has the blank or repeats the last label. To append the
    # same label again, there must be a blank in between.
    blank_W = score_W + log_probs_V[labels]
    label_W = jnp.where(beam.length_W > 0, beam.label_W + log_probs_L[last_W], -jnp.inf)
    longer_WL = jnp.where(is_last_WL, beam.blank_W[:, None], score_W[:, None]) + log_probs_L

    # If the longer text is already in the beam, its entry gets the probability.
    continues_WW = beam.continuations()
    gained_W = jnp.max(jnp.where(continues_WW, longer_WL[:, last_W], -jnp.inf), axis=0)
    label_W = jnp.logaddexp(label_W, gained_W)
    is_there_WL = jnp.any(continues_WW[:, :, None] & is_last_WL[None], axis=1)
    longer_WL = jnp.where(is_there_WL, -jnp.inf, longer_WL)

    candidates = jnp.concatenate([jnp.logaddexp(blank_W, label_W), longer_WL.ravel()])
    best_W, chosen_W = jax.lax.top_k(candidates, size)
    is_longer_W = chosen_W >= size
    source_W = jnp.where(is_longer_W, (chosen_W - size) // labels, chosen_W)
    length_W, labels_WU = beam.length_W[source_W], beam.labels_WU[source_W]
    is_new_WU = is_longer_W[:, None] & (jnp.arange(labels_WU.shape[1]) == length_W[:, None])
    new_label_W1 = ((chosen_W - size) % labels).astype(jnp.int32)[:, None]
    after = _Beam(
        labels_WU=jnp.where(is_new_WU, new_label_W1, labels_WU),
        length_W=jnp.where(best_W > -jnp.inf, length_W + is_longer_W, -1),
        blank_W=jnp.where(is_longer_W, -jnp.inf, blank_W[source_W]),
        label_W=jnp.where(is_longer_W, best_W, label_W[source_W]),
    )
    return jax.tree.map(lambda new, old: jnp.where(is_real, new, old), after, beam), None
