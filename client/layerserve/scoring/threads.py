"""How many threads a process computes with."""

from __future__ import annotations

import os

#: The variable with the number of threads that a process may compute with. Ray and Spark set it in theirs.
THREADS = "OMP_NUM_THREADS"


def limit_threads(*, is_maker: bool) -> None:
    """Has torch compute with the cores that were given to this process.

    The process that made a scorer keeps torch's number, unless the variable is set. Others share the cores: without the
    variable, they compute with one thread.
    """
    given = os.environ.get(THREADS, "")
    if is_maker and not given:
        return
    import torch

    torch.set_num_threads(int(given) if given.isdecimal() and int(given) else 1)
