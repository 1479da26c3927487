"""Verifies a step by all processes of a run together: each reads its share of the bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from parallel.exchange import agree
from training.manifest import MANIFEST, Damaged, find_faults, read_manifest


def verify_together(folder: Path) -> dict[str, Any]:
    """Compare every file of a step with its manifest; return the manifest.

    All processes must call this function. Each reads as many bytes as the others.

    Raises in all processes `Damaged`, naming each file that is missing, truncated, altered or
    added.
    """
    manifest: dict[str, Any] = {}
    try:
        manifest = read_manifest(folder)
        faults = find_faults(folder, manifest, jax.process_index(), jax.process_count())
    except Damaged as damage:
        faults = {MANIFEST: str(damage)}
    if faults := agree("verify", faults, _merge):
        raise Damaged("; ".join(sorted(faults.values())))
    return manifest


def _merge(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Join the faults that the processes found. The first process knows most of each file."""
    return {name: text for part in reversed(parts) for name, text in part.items()}
