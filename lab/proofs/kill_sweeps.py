"""Kills trials and servers during sweeps: `make -C lab sweep-kills ARGS="--sweeps 3 --trials 20"`.

Each sweep of 20 trials runs in two slots. Meanwhile a kill -9 hits a trial's process, the server, or both in turn, at
random times. At its end the table has each trial once, with the run of its own and the value that the unbroken sweep
had, and the best trial's weights are published once, bit for bit those of the unbroken sweep.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from attacks.repository import make_repository
from kill_runs import MODEL, Server, check_repository
from layerserve import Checkpoints, LayerserveError, ServerFile
from layerserve.sweeps import Range, SweepInfo
from small_runs import SETTINGS, assert_bit_for_bit, dense_data, kill_training, weights

SPACE = {"optimizer.learning_rate": Range(1e-4, 1e-1, log=True), "batch_size": [16, 32, 64], "freeze": [[], ["dense"]]}
EPOCHS = 3


def begin(server: Server, trials: int) -> str:
    data = [ServerFile("x.npy"), ServerFile("y.npy")]
    settings = {
        **SETTINGS,
        "epochs": EPOCHS,
        "validation_split": 0.25,
        "publish": "best",
        "checkpoints": Checkpoints(resume_seconds=0),
    }
    return server.client.sweeps.create(MODEL, *data, SPACE, trials=trials, parallel=2, search_seed=7, **settings).id


def watched(server: Server, sweep_id: str) -> SweepInfo:
    """The sweep, also while its server has just been started."""
    while True:
        try:
            return server.client.sweeps.get(sweep_id).info()
        except LayerserveError as error:
            print(f"  {error}", flush=True)
            time.sleep(0.2)


def ended(server: Server, sweep_id: str) -> SweepInfo:
    while not (info := watched(server, sweep_id)).ended:
        time.sleep(0.1)
    return info


def outcome(info: SweepInfo) -> dict[int, Any]:
    """What must not depend on interruptions, by trial."""
    return {trial.number: (trial.state, trial.settings, trial.value, trial.history) for trial in info.trials}


def run(folder: Path, sweeps: int, trials: int, seed: int) -> None:
    moment = random.Random(seed)
    repository = make_repository(folder / "models")
    x, y = dense_data()
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    server = Server(repository)
    unbroken = ended(server, begin(server, trials))
    assert unbroken.state == "finished", unbroken.reason
    expected = weights(repository, MODEL, unbroken.version)
    print(f"unbroken: best is trial {unbroken.best} with {unbroken.monitor} {unbroken.best_trial}", flush=True)
    for number in range(sweeps):
        sweep_id, kills = begin(server, trials), Counter[str]()
        while not (info := watched(server, sweep_id)).ended:
            time.sleep(moment.uniform(0.0, 3.0))
            victim = moment.choice(["trial", "trial", "server", "both"])
            if kills.total() >= 10 or info.trials_ended >= trials - 1:
                continue
            kills[victim] += 1
            if victim == "trial":
                kill_training(server.process.pid)
            else:
                server.kill(training_too=victim == "both")
                check_repository(repository)
                server.start()
        assert info.state == "finished", info.reason
        assert outcome(info) == outcome(unbroken), (outcome(info), outcome(unbroken))
        assert info.best == unbroken.best
        runs = [run for run in server.client.runs(MODEL) if run.sweep == sweep_id]
        assert sorted(run.trial for run in runs) == list(range(trials)), "a trial has one run"
        assert_bit_for_bit(weights(repository, MODEL, info.version), expected)
        published = [one for one in server.client.models(MODEL) if one.training_run == sweep_id]
        assert len(published) == 1, "a sweep publishes once"
        print(f"sweep {number + 1} of {sweeps}: kills {dict(kills)}, {len(info.trials)} trials: equal", flush=True)
    check_repository(repository)
    server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.sweeps, arguments.trials, arguments.seed)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
