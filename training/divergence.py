"""Checks whether a run has diverged, and which of its metrics are not finite."""

import math
from collections.abc import Mapping


class Diverged(Exception):
    """Raised if too many steps in a row, or the last steps of the run, were not finite."""


def check_skipped(skipped: int, step: int, limit: int, saved_step: int, *, ends: bool) -> None:
    """Raise `Diverged` if the last `skipped` steps up to `step` were skipped and these are too
    many.

    `limit` skipped steps are too many. If the run ends at `step` (`ends`), two are too many, as
    only a single one may be a bad batch. If it ends at step 1, one is too many.

    saved_step: the step of the last checkpoint; -1 if there is none.
    """
    if skipped >= limit:
        reason = f"{skipped} steps in a row were not finite (train.max_skipped_steps)"
    elif ends and skipped >= min(2, step):
        reason = f"the run ends at step {step}, its last {skipped} not finite"
    else:
        return
    last = f"the last checkpoint is {saved_step}" if saved_step > 0 else "there is no checkpoint"
    raise Diverged(f"{reason}. Try a lower optimizer.learning_rate; {last}")


def not_finite(metrics: Mapping[str, float]) -> list[str]:
    """Return the names of the metrics that are NaN or infinite."""
    return [name for name, value in metrics.items() if not math.isfinite(value)]
