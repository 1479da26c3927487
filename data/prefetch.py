"""Prefetches batches with Grain, in threads or processes, in order.

Grain imports JAX, so Grain is imported only inside functions.
"""

import atexit
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from configs.errors import UsageError
from data.batches import Batch, Batches

_THREADS = 4
_AHEAD = 16  # batches to prefetch; of expensive (large) batches only one for each thread

MOST_DEATHS = 3
"""How often the processes that make batches may die, each time within `FEW_BATCHES` of the time
before."""
FEW_BATCHES = 100

_DIED = re.compile(r"terminated unexpectedly with exit code (-?\d+)")  # Grain says so.


def stream(
    batches: Batches,
    start: int,
    stop: int,
    workers: int,
    warn: Callable[[str], None] = lambda text: None,
) -> Iterator[Batch]:
    """Return an iterator over the batches `start` to `stop` - 1, in order.

    workers: the number of processes that make batches ahead. If it is 0, threads do; but if all
    records are in memory, the calling thread makes each batch when it is needed, because passing a
    batch between threads takes longer than making it.

    warn: called with a message if one of the processes has died, as it does for want of memory. New
    ones then make the same batches.

    Raises UsageError if processes die again and again: `MOST_DEATHS` times.
    """
    if start >= stop or (batches.in_memory and not workers):
        return map(batches.__getitem__, range(start, stop))
    if not workers:
        return _made_ahead(batches, start, stop, workers)
    return _outliving_deaths(batches, start, stop, workers, warn)


def _outliving_deaths(
    batches: Batches, start: int, stop: int, workers: int, warn: Callable[[str], None]
) -> Iterator[Batch]:
    """Yield what `_made_ahead` does, and begin it anew if one of its processes has died."""
    deaths, died_at = 0, start
    while start < stop:
        try:
            for batch in _made_ahead(batches, start, stop, workers):
                yield batch
                start += 1
        except RuntimeError as error:
            if (found := _DIED.search(str(error))) is None:
                raise
            deaths = deaths + 1 if start - died_at < FEW_BATCHES else 1
            died_at = start
            what = f"{_how_it_ended(int(found[1]))}, at batch {start + 1}"
            if deaths == MOST_DEATHS:
                raise UsageError(
                    f"processes that read data died {deaths} times, the last one by {what}. If "
                    "memory is short, fewer --config.data.workers need less; the same command goes "
                    "on from the last checkpoint"
                ) from None
            warn(f"a process that reads data died by {what}: new ones make the same batches")


def _how_it_ended(exit_code: int) -> str:
    if exit_code >= 0:
        return f"status {exit_code}"
    return signal.Signals(-exit_code).name


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
