"""Prefetches batches with Grain, in threads or processes, in order.

Grain imports JAX, so Grain is imported only inside functions.
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
_AHEAD = 16  # batches to prefetch; of expensive (large) batches only one for each thread


def stream(batches: Batches, start: int, stop: int, workers: int) -> Iterator[Batch]:
    """Return an iterator over the batches `start` to `stop` - 1, in order.

    workers: the number of processes that make batches ahead. If it is 0, threads do; but if all
    records are in memory, the calling thread makes each batch when it is needed, because passing a
    batch between threads takes longer than making it.
    """
    if start >= stop or (batches.in_memory and not workers):
        return map(batches.__getitem__, range(start, stop))
    return _made_ahead(batches, start, stop, workers)


def _made_ahead(batches: Batches, start: int, stop: int, workers: int) -> Iterator[Batch]:
    import grain

    ahead = _THREADS if batches.is_expensive else _AHEAD
    dataset = (
        grain.MapDataset.range(start, stop)
        .map(batches.__getitem__)
        .to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=ahead))
    )
    if workers:
        _let_grain_read_flags()
        # Use a pipe: shared memory is no faster, is not always freed, and containers limit it.
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
    """Mark absl's flags as parsed, with their defaults: Grain reads them to start processes."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _begin_worker(number: int, count: int) -> None:
    """Ignore signals, since the trainer may need batches after them; end when the trainer ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def end_with_trainer() -> None:
        trainer = multiprocessing.parent_process()
        assert trainer is not None  # this process is a worker
        trainer.join()
        os._exit(1)

    threading.Thread(target=end_with_trainer, daemon=True).start()
