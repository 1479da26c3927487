"""Runs train.py, and prints what its resumption read and needed, as a JSON object.

python measured_resume.py ARGUMENTS

`verify`, `restore`: bytes that this process read to verify the checkpoint, and to restore it.
`peak`: the highest memory until the state is restored, in addition to that of the start of the run;
`state`: bytes of this process's part of the state. `equal`: whether its bits are those on the disk.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

found: dict[str, int | bool] = {}


def memory(name: str) -> int:
    """Returns bytes: VmHWM is the peak, VmRSS what there is now."""
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return 1024 * int(match[1])


def read_by_files() -> int:
    (line, *_) = Path("/proc/self/io").read_text().splitlines()
    return int(line.removeprefix("rchar: "))


def read_by_tensorstore() -> int:
    """Not counted as above: how processes exchange arrays is counted there, too."""
    import tensorstore

    name = "/tensorstore/kvstore/file/bytes_read"
    return sum(
        value["value"]
        for metric in tensorstore.experimental_collect_matching_metrics(name)
        for value in metric["values"]
    )


def measure(train) -> None:
    """Wraps what resumes a run."""
    import training.restore

    go, first_state = train.Run.go, train.Run.first_state
    find_checkpoint = training.restore.find_checkpoint

    def measured_go(run, signals):
        Path("/proc/self/clear_refs").write_text("5")
        found["before"] = memory("VmRSS")
        return go(run, signals)

    def measured_find(*arguments):
        before = read_by_files()
        result = find_checkpoint(*arguments)
        found["verify"] = read_by_files() - before
        return result

    def measured_state(run, manifest):
        import jax

        before = read_by_tensorstore()
        state = jax.block_until_ready(first_state(run, manifest))
        found["restore"] = read_by_tensorstore() - before
        found["peak"] = memory("VmHWM") - found.pop("before")
        leaves = jax.tree.leaves(state)
        shards = [leaf.addressable_shards for leaf in leaves]
        found["state"] = sum(shard.data.nbytes for some in shards for shard in some)
        found["equal"] = manifest is not None and is_equal(run.workdir, manifest["step"], state)
        return state

    train.Run.go, train.Run.first_state = measured_go, measured_state
    training.restore.find_checkpoint = measured_find


def is_equal(workdir: Path, step: int, state) -> bool:
    import jax
    import numpy as np

    from training.arrays import restore_fields
    from training.manifest import ITEMS, read_manifest
    from training.trees import flat, nested

    folder, here = (
        workdir / "checkpoints",
        jax.sharding.SingleDeviceSharding(jax.local_devices()[0]),
    )
    manifest, stored = read_manifest(folder / str(step)), {}
    for item, fields in ITEMS.items():
        target = {
            name: jax.ShapeDtypeStruct(tuple(leaf["shape"]), leaf["dtype"], sharding=here)
            for name, leaf in manifest["leaves"].items()
            if name.split(".")[0] in fields
        }
        stored |= flat(restore_fields(folder, step, manifest, item, nested(target)))
    names = [name for fields in ITEMS.values() for name in fields]
    leaves = flat({name: getattr(state, name) for name in names})
    assert leaves.keys() == stored.keys()
    return all(
        np.asarray(shard.data).tobytes() == np.asarray(stored[name])[shard.index].tobytes()
        for name, leaf in leaves.items()
        for shard in leaf.addressable_shards
    )


if __name__ == "__main__":
    import train
    from configs.reading.command_line import run_verb

    def main(argv):
        measure(train)
        status = train.main(argv)
        print(json.dumps(found), file=sys.stderr)
        return status

    run_verb(main)
