"""Many small pieces of linear algebra on all cores: one piece to a core, instead of all cores on each piece.

A module's Gram matrices and eigenvectors are too small to share out: LAPACK's symmetric eigensolver hardly uses a
second core, and on a busy machine every barrier inside a small product waits for whichever core is taken (measured:
133 s for a merge that needs 8).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`work` of each item, in their order, a few ahead of whoever takes them. torch uses one core in each thread
    meanwhile.
    """
    workers = torch.get_num_threads()
    if workers == 1:
        yield from map(work, items)
        return
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers)
    started: deque[Future[Result]] = deque()
    try:
        for item in items:
            started.append(pool.submit(work, item))
            if len(started) > workers:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(workers)
