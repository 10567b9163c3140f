"""Threads that compute for a server don't wait busily for the next request: its own threads want the cores."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import pytest

#: Prints the processor time of each engine, in milliseconds, in the twentieth of a second after a call.
PROGRAM = """
import time
import layerserve_server
import torch
from layergraph import Input, Model
from layergraph.layers import Dense
torch.set_num_threads(2)
x = Input((1024,))
model = Model(x, Dense(1024)(x))
for engine in {engines!r}:
    plan = model.plan()
    if engine != "eager":
        assert plan.tune(engines=(engine,), threads=2, shared=True, pin=True).choices
    data = {{plan.input_specs[0].name: torch.rand(64, 1024).numpy()}}
    for _ in range(5):
        plan.run(data)
        before = time.process_time()
        time.sleep(0.05)
        print(engine, (time.process_time() - before) * 1000)
"""
#: TorchScript has the threads of eager torch.
ENGINES = ("eager", "onnxruntime", "openvino")


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one thread waits for nobody")
def test_threads_sleep_soon_after_a_call() -> None:
    # Without what this process or its tests have set.
    set_here = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in set_here}
    command = [sys.executable, "-c", PROGRAM.format(engines=ENGINES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    used: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for line in done.stdout.splitlines():
        engine, milliseconds = line.split()
        used[engine].append(float(milliseconds))
    assert [engine for engine, found in used.items() if statistics.median(found) >= 2] == []
