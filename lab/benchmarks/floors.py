"""What this machine can do at best: arithmetic, memory, an empty call. Other figures are read against these."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import grpc
import numpy as np
import torch
from loads import PREDICT, predict_load
from servers import PEERS, first_reply, free_port
from torch.nn.functional import conv2d


def seconds(run: Callable[[], object], least: float = 0.5) -> float:
    """Median time of a run; as many runs as fit into `least` seconds, five at least."""
    run()
    times: list[float] = []
    while len(times) < 5 or sum(times) < least:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return median(times)


@torch.inference_mode()
def main() -> None:
    print(f"{torch.get_num_threads()} threads")
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    print(f"matrix product, 2048 cubed    {2 * 2048**3 / seconds(lambda: a @ b) / 1e9:8.0f} GFLOP/s")
    x = torch.rand(1, 64, 256, 256).to(memory_format=torch.channels_last)
    w = torch.rand(64, 64, 3, 3).to(memory_format=torch.channels_last)
    flops = 2 * 256 * 256 * 64 * 64 * 9
    print(f"convolution 3x3, 64 to 64     {flops / seconds(lambda: conv2d(x, w, padding=1)) / 1e9:8.0f} GFLOP/s")
    source = np.ones(1 << 28, np.uint8)
    target = np.empty_like(source)
    print(f"copy of 256 MiB               {source.size / seconds(lambda: np.copyto(target, source)) / 1e9:8.1f} GB/s")
    print(f"empty call, Python client     {empty_call() * 1e6:8.0f} us")


def empty_call() -> float:
    """A call to a grpcio server in another process that always says the same."""
    port = free_port()
    server = subprocess.Popen([sys.executable, str(PEERS / "constant_reply.py"), str(port)])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            first_reply(channel, predict_load("small"), server)
            return seconds(lambda: channel.unary_unary(PREDICT)(b"", timeout=60))
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
