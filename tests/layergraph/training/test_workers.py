"""Training with several workers has the results of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.errors import ConfigError
from layergraph.functional.call_context import CallContext
from layergraph.functional.shard import Shard
from layergraph.regularizers import OrthogonalRegularizer
from layergraph.training.shareable import check_shareable

SUPPORT = Path(__file__).parents[2] / "support"


def run_twice(script: Path) -> str:
    """Runs a script in two processes of one group; returns what they print.

    They are forked from one Python, which has imported torch: `torchrun` imports it once more for each of them.
    """
    path = os.pathsep.join(filter(None, (str(SUPPORT), os.environ.get("PYTHONPATH"))))
    ended = subprocess.run(
        [sys.executable, "-c", FORK, str(script)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-4000:]
    return ended.stdout


#: Each process runs the script as its main program, and ends as Python ends.
FORK = """
import os, runpy, sys
import worker_runs

os.environ.update(WORLD_SIZE="2", STORE=sys.argv[1] + ".store")
children = []
for rank in range(2):
    os.environ["RANK"] = str(rank)
    if not (child := os.fork()):
        break
    children.append(child)
if child:
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))
runpy.run_path(sys.argv[1], run_name="__main__")
"""

#: Compares the models of `worker_runs.py`, and data in row groups of `grouped_data.py`, then has a callback decide, and
#: a run refused.
RUN = """
import gc
import os
import grouped_data
import numpy as np
import worker_runs
from layergraph import Input, Model, Sequential, layers
from layergraph.errors import ConfigError
from layergraph.training.callbacks.callback import Callback
from layergraph.training.workers import Workers
from torch import distributed


class Decides(Callback):
    def on_train_batch_end(self, batch, logs=None):
        if workers.first:
            self.model.optimizer.learning_rate = 0.25
            self.model.stop_training = batch == 1


for seed in range(8):
    worker_runs.check(seed)
workers = worker_runs.group()
grouped_data.check(workers)
gc.disable()
model = Sequential([Input((2,)), layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(np.ones((12, 2)), np.zeros((12, 1)), batch_size=2, verbose=0, callbacks=[Decides()], workers=workers)
print(f"steps {model.optimizer.iterations}, rate {float(model.optimizer.learning_rate)}")
x = Input((2,))
model = Model(x, [layers.Dense(1, trainable=False)(x), layers.Dense(1)(x)])
model.compile("sgd", ["mse", None])
try:
    model.fit(np.ones((12, 2)), [np.zeros((12, 1))] * 2, verbose=0, workers=workers)
except ConfigError as error:
    print(error)
distributed.destroy_process_group()
if os.path.isdir("/proc/self/task"):
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    # In one piece, as both workers print.
    print(f"threads of the group: {[name for name in names if 'gloo' in name or 'store' in name]}")
"""


def test_workers_give_the_numbers_of_one_process_and_decide_together(tmp_path: Path) -> None:
    """One model of each kind; `make -C lab fuzz FUZZ=workers` compares any number."""
    (tmp_path / "run.py").write_text(RUN)
    printed = run_twice(tmp_path / "run.py")
    assert printed.count("steps 2, rate 0.25") == 2
    assert printed.count("the loss depends on no trainable weight") == 2
    # One that frees a tensor when Python has begun to end aborts the process.
    if sys.platform == "linux":
        assert printed.count("threads of the group: []") == 2


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_shards_are_all_rows_once(workers: int) -> None:
    for rows in range(workers, 12):
        shards = [Shard.of(rows, rank, workers) for rank in range(workers)]
        assert [row for shard in shards if shard for row in range(rows)[shard.rows]] == list(range(rows))


def test_fewer_rows_than_workers_are_not_shared_out() -> None:
    assert Shard.of(2, 0, 3) is None


def test_workers_draw_what_one_process_would() -> None:
    import torch

    def drawn(shard: Shard | None, rows: int) -> object:
        context = CallContext(generator=torch.Generator().manual_seed(1), shard=shard)
        like = torch.empty(rows, 3)
        return context.drawn(like.shape, like, lambda empty: empty.uniform_(generator=context.generator)).numpy()

    parts = [drawn(shard, shard.count) for rank in range(2) if (shard := Shard.of(5, rank, 2))]
    np.testing.assert_array_equal(np.concatenate(parts), drawn(None, 5))


def test_models_whose_batches_cannot_be_shared_out_are_refused() -> None:
    x = Input((3,))
    penalty = OrthogonalRegularizer()
    model = Model(x, layers.Dense(2, name="enc", activity_regularizer=penalty)(x))
    with pytest.raises(ConfigError, match="layer 'enc' has the activity regularizer OrthogonalRegularizer"):
        check_shareable(model)
