"""Reads the arrays of a checkpoint into the shardings of a model, or says why they do not fit."""

import difflib
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from configs.errors import UsageError
from training.manifest import ITEMS
from training.spreading import gather, spread
from training.trees import Tree, flat

if TYPE_CHECKING:
    from training.step import TrainState


def restore_state(
    folder: Path, step: int, manifest: Mapping[str, Any], target: "TrainState"
) -> "TrainState":
    """Restore the complete state of a step, with the shapes, dtypes and shardings of `target`.

    Raises `UsageError` if the step's arrays differ from the target's (another model or optimizer):
    it names the arrays, both sides and the nearest name.
    """
    fields: dict[str, Any] = {}
    older = not has_ema_statistics(manifest)
    if older:  # `measure_ema` measures them before they are used.
        target = target.replace(ema_statistics=None)
    wanted = {name: getattr(target, name) for names in ITEMS.values() for name in names}
    if problems := _mismatches(flat(wanted), manifest, wanted):
        raise UsageError(
            f"checkpoint {folder / str(step)} can't be resumed: {problems}. Its weights alone can "
            f"be taken by a run in another --workdir: --config.train.initialize_from="
            f"{folder.parent} --config.train.initialize_step={step}"
        )
    for item, names in ITEMS.items():
        part = {name: wanted[name] for name in names}
        fields |= restore_fields(folder, step, manifest, item, part)
    if older and fields["ema"] is not None:
        fields["ema_statistics"] = jax.tree.map(jnp.copy, fields["statistics"])
    return target.replace(**fields)


def has_ema_statistics(manifest: Mapping[str, Any]) -> bool:
    """Return whether a step has batch statistics for its averaged weights. Older versions saved
    none."""
    return any(name.startswith("ema_statistics.") for name in manifest["leaves"])


def restore_fields(
    folder: Path, step: int, manifest: Mapping[str, Any], item: str, target: Mapping[str, Tree]
) -> dict[str, Tree]:
    """Restore the fields in `target` from one item (`ITEMS`) of a step, with the shardings of
    `target`.

    Each array is read into its shards. What several hosts need, each of them reads a part of.

    Raises `UsageError` if the step does not have these arrays in these shapes and dtypes.
    """
    wanted = flat(dict(target))
    if problems := _mismatches(wanted, manifest):
        raise UsageError(f"checkpoint {folder / str(step)}: {problems}")
    path = (folder / str(step)).absolute()
    read = spread(wanted, path / item)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            path,
            args=ocp.args.Composite(
                **{
                    item: ocp.args.PyTreeRestore(
                        item=read,
                        restore_args=ocp.checkpoint_utils.construct_restore_args(read),
                        partial_restore=True,
                    )
                }
            ),
        )[item]
    leaves = [gather(restored.pop(name), leaf.sharding) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(dict(target)), leaves)


def _mismatches(
    wanted: Mapping[str, Any], manifest: Mapping[str, Any], fields: Container[str] = ()
) -> str | None:
    """Describe how the arrays in a step's manifest differ from those that are wanted, by name; None
    if they do not. (Orbax would cast and broadcast in silence.)

    fields: the fields of the state of which all arrays of the step must be wanted.
    """
    stored = manifest["leaves"]
    spare = [name for name in stored if name not in wanted]
    left = [name for name in spare if name.partition(".")[0] in fields]

    def lack(name: str) -> str:
        near = difflib.get_close_matches(name, spare or stored, n=1)
        hint = f"; the nearest is {near[0]}, {_typed(stored[near[0]])}" if near else ""
        return f"{name} is not in it ({_typed_array(wanted[name])} in the model{hint})"

    # Three are told: rather the parameters than the optimizer's state, which has the same names.
    missing = [name for name in wanted if name not in stored]
    missing.sort(key=lambda name: not name.startswith("params."))
    unlike = [
        f"{name} is {_typed(stored[name])} in it, {_typed_array(leaf)} in the model"
        for name, leaf in wanted.items()
        if name in stored and _typed(stored[name]) != _typed_array(leaf)
    ]
    texts = [*map(lack, missing[:3]), *unlike]
    texts += [f"{name}, {_typed(stored[name])}, is not in the model" for name in left]
    if not texts:
        return None
    count = len(missing) + len(unlike) + len(left)
    more = f" and {count - 3} more" if count > 3 else ""
    is_optimizer = any(name.startswith("optimizer.") for name in (*missing, *left))
    saved = manifest.get("config", {}).get("optimizer", {}).get("name")
    by = f" (it was saved with optimizer.name={saved})" if is_optimizer and saved else ""
    return f"{'; '.join(texts[:3])}{more}{by}"


def _typed(leaf: Mapping[str, Any]) -> str:
    """Format dtype and shape of an entry in a manifest, as `_typed_array` does of an array."""
    return f"{leaf['dtype']}{leaf['shape']}"


def _typed_array(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
