"""Tells how far a run has come, whichever runner has it."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from clustr_keras.bulk.output import OutputFolder
from clustr_keras.bulk.shards import Shard
from clustr_keras.progress import console, progress_bar, say

_SECONDS = 2.0
# Without a terminal a line appears at most each so many looks.
_LOOKS_PER_LINE = 15


@contextlib.contextmanager
def watching(output: OutputFolder, shards: Sequence[Shard]) -> Iterator[None]:
    """Counts the finished shards of an output folder while something runs, and shows it.

    Args:
        output: `OutputFolder`.
        shards: All `Shard`s.
    """
    over = threading.Event()

    def watch(report):
        looks, last = 0, None
        while not over.wait(_SECONDS):
            looks += 1
            done = output.finished(shards)
            report(len(done))
            if not console.is_terminal and looks % _LOOKS_PER_LINE == 0 and len(done) != last:
                last = len(done)
                say(f"{last} of {len(shards)} shards, {sum(shard.count for shard in done)} images.")

    with progress_bar("certify", len(shards)) as report:
        thread = threading.Thread(target=watch, args=(report,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
