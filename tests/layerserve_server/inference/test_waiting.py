"""Threads that compute for a server don't wait busily for the next request: its own threads want the cores."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

import pytest

#: Prints the processor time, in milliseconds, that goes on being used in the tenth of a second after a call.
PROGRAM = """
import time
import layerserve_server
import torch
from layergraph import Input, Model
from layergraph.layers import Dense
torch.set_num_threads(2)
x = Input((1024,))
plan = Model(x, Dense(1024)(x)).plan()
if {engine!r} != "eager":
    assert plan.tune(engines=({engine!r},), threads=2, shared=True, pin=True).choices
data = {{plan.input_specs[0].name: torch.rand(64, 1024).numpy()}}
for _ in range(9):
    plan.run(data)
    before = time.process_time()
    time.sleep(0.1)
    print((time.process_time() - before) * 1000)
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one thread waits for nobody")
@pytest.mark.parametrize("engine", ["eager", "torchscript", "onnxruntime", "openvino"])
def test_threads_sleep_soon_after_a_call(engine: str) -> None:
    # Without what this process or its tests have set.
    set_here = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    environment = {name: value for name, value in os.environ.items() if name not in set_here}
    command = [sys.executable, "-c", PROGRAM.format(engine=engine)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert statistics.median(map(float, done.stdout.split())) < 2
