"""Batches one after the other, read ahead by Grain in threads or processes.

Importing Grain imports JAX, so that happens inside.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator

from data.batches import Batch, Batches

_THREADS = 4
_AHEAD = 16  # batches; of those that are much work, and large, no more than are worked at


def stream(batches: Batches, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Yield the batches `start` up to `stop` in order, read ahead by threads or by `workers`
    processes.

    Batches out of memory are not read ahead: handing one over would take longer than making it.
    """
    if start >= stop:
        return
    if batches.in_memory and not workers:
        yield from map(batches.__getitem__, range(start, stop))
        return
    import grain

    ahead = _THREADS if batches.is_expensive else _AHEAD
    dataset = (
        grain.MapDataset.range(start, stop)
        .map(batches.__getitem__)
        .to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=ahead))
    )
    if workers:
        _let_grain_read_flags()
        # By a pipe: shared memory is no faster, is not always given back, and containers limit it.
        by_pipe = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        dataset = grain.experimental.WithOptionsIterDataset(dataset, by_pipe)
        processes = grain.MultiprocessingOptions(num_workers=workers)
        dataset = dataset.mp_prefetch(processes, worker_init_fn=_begin_worker)
    iterator = iter(dataset)
    atexit.register(iterator.close)
    try:
        yield from iterator
    finally:
        iterator.close()
        atexit.unregister(iterator.close)


def _let_grain_read_flags() -> None:
    """Grain asks absl's flags how to start its processes: they stand at their defaults."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _begin_worker(number: int, count: int) -> None:
    """Leaves signals to the trainer, which may want batches after them, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def end_with_trainer() -> None:
        trainer = multiprocessing.parent_process()
        assert trainer is not None  # this process is a worker
        trainer.join()
        os._exit(1)

    threading.Thread(target=end_with_trainer, daemon=True).start()
