"""Compares training by two workers with training by one process: `make -C lab fuzz FUZZ=workers COUNT=200 SEED=0`.

torchrun starts the script once per worker. `tests/support/worker_runs.py` has the models and the comparison.
"""

from __future__ import annotations

import sys

from runner import Fuzzer, run
from torch import distributed
from worker_runs import check

if __name__ == "__main__":
    status = run(Fuzzer("workers", "models", lambda seed, folder: check(seed), end_on_error=True))
    if distributed.is_initialized():
        distributed.destroy_process_group()
    sys.exit(status)
