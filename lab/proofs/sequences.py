"""200 sequences of 8 clients on a server whose model is replaced and deleted meanwhile: sequences.py [--steps N].

Both transports, one process and two. All callers use the same ids. Some steps are cancelled, some sequences belong to a
stream. Fails if an answer isn't that of the sequence's own steps by the version that it began with, if a sequence is
lost without its typed error, or if memory isn't given back. Then compares the processor time of a step with that of a
request that stands alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from layergraph import Input, Model, layers
from layergraph.utils import set_random_seed
from layerserve.v1 import prediction_pb2 as pb
from layerserve.v1 import prediction_pb2_grpc
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.tensors import decode, encode
from tokens import entry

CLIENTS, SEQUENCES = 8, 25
SERVERS = (("grpcio", 1), ("native", 1), ("grpcio", 2), ("native", 2))
TICKS = os.sysconf("SC_CLK_TCK")
#: Statuses that a step may fail with. Each has a reason.
TYPED = {"sequence_lost", "unavailable", "busy", "model_not_ready", "version_not_found", "model_not_found"}


def write_version(models: Path, version: int) -> Model:
    """Writes a version with weights of its own, at once."""
    set_random_seed(version)
    x = Input((None, 3), name="x")
    h = layers.LSTM(16, return_sequences=True)(x)
    model = Model(x, layers.Dense(2, name="y")(layers.GRU(8, return_sequences=True)(h)))
    written = models.parent / f"written-{version}"
    written.mkdir()
    model.save(written / "model.keras")
    written.rename(models / "rnn" / str(version))
    return model


class Server:
    """A server process. A context manager."""

    def __init__(self, folder: Path, transport: str, workers: int) -> None:
        self.models = folder / "models"
        (self.models / "rnn").mkdir(parents=True)
        (self.models / "rnn" / "layerserve.toml").write_text("[sequences]\nidle_seconds = 600.0\n")
        self.steppers: dict[int, Any] = {1: write_version(self.models, 1).stepper()}
        tokens = folder / "tokens.toml"
        tokens.write_text("".join(entry(f"client-{n}", 'rights = ["predict", "read"]') for n in range(CLIENTS)))
        command = [sys.executable, "-m", "layerserve_server", str(self.models), "--tokens", str(tokens)]
        command += [
            "--transport",
            transport,
            "--workers",
            str(workers),
            "--tuning-seconds",
            "0",
            "--poll-seconds",
            "0.2",
        ]
        command += ["--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0", "--drain-seconds", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"gRPC on \S+:(\d+).*metrics on \S+:(\d+)", line):
                self.port, self.metrics_port = int(found[1]), int(found[2])
                break
        threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()), daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def metrics(self) -> dict[str, float]:
        """The metrics of sequences and of memory."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.metrics_port}/metrics")
        request.add_header("authorization", "Bearer client-0")
        text = urllib.request.urlopen(request).read().decode()
        return {
            name: float(value)
            for name, value in re.findall(
                r"^(layerserve_(?:sequence|loaded_bytes|model_versions)\S*) (\S+)$", text, re.M
            )
        }

    def memory(self) -> int:
        """Resident memory of the main process, in bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]

    def seconds(self) -> float:
        """Processor time of the main process."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


class Track:
    """What a caller knows of a sequence: the states that it may be in, after the steps that were answered."""

    def __init__(self, steppers: dict[int, Any], rows: int) -> None:
        self._steppers, self.rows = steppers, rows
        self.version = 0
        self._states: list[Any] = []
        self._unsure: Any = None

    @property
    def begun(self) -> bool:
        return self.version > 0

    def unsure(self, x: Any) -> None:
        """Notes a step that may have been computed or not."""
        self._states += [self._steppers[self.version].advance({"x": x}, state)[1] for state in self._states]

    def answered(self, x: Any, reply: pb.PredictResponse) -> str:
        """Compares an answer. Returns what is wrong with it."""
        version = reply.model.version
        stepper = self._steppers[version]
        if not self.begun:
            self.version, self._states = version, [stepper.initial_states(self.rows)]
        if version != self.version:
            return f"a step by version {version} in a sequence of version {self.version}"
        y = decode(reply.outputs[0])
        made = [stepper.advance({"x": x}, state) for state in self._states]
        fits = [after for outputs, after in made if np.allclose(outputs["y"], y, rtol=1e-5, atol=1e-5)]
        self._states = fits
        return "" if fits else f"an answer that isn't that of the sequence's steps, of {len(made)} ways"


class Run:
    """The clients of a server."""

    def __init__(self, server: Server, steps: int, seed: int) -> None:
        self.server, self.left = server, steps
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    async def all(self) -> None:
        """Runs all sequences."""
        channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{self.server.port}", [("grpc.use_local_subchannel_pool", 1)])
            for _ in range(CLIENTS)
        ]
        lives = []
        for number, channel in enumerate(channels):
            stub = prediction_pb2_grpc.PredictionServiceStub(channel)
            metadata = (("authorization", f"Bearer client-{number}"),)
            for index in range(SEQUENCES):
                life = self._on_stream if index % 5 == 0 else self._by_id
                lives.append(life(stub, metadata, f"sequence-{index}"))
        await asyncio.gather(*lives)
        for channel in channels:
            await channel.close()

    def _request(self, track: Track, id: str, end: bool) -> tuple[Any, pb.PredictRequest]:
        x = self.numbers.random((track.rows, self.random.choice((1, 1, 1, 2, 3)), 3), "float32")
        sequence = pb.Sequence(id=id, start=not track.begun, end=end)
        return x, pb.PredictRequest(model=ModelSpec(name="rnn"), inputs=[encode(x, "x", "float32")], sequence=sequence)

    def _take(self, track: Track, x: Any, reply: pb.PredictResponse) -> None:
        self.left -= 1
        self.counts["steps"] += 1
        if problem := track.answered(x, reply):
            self.problems.append(problem)

    def _failed(self, code: Any, reason: str, text: str) -> bool:
        """Counts an error. Returns whether the sequence is lost."""
        if code is grpc.StatusCode.CANCELLED and not reason:
            self.counts["cancelled"] += 1
            return False
        self.counts[f"{reason}: {text.rpartition('dropped: ')[2].partition(',')[0][:60]}"] += 1
        if reason not in TYPED:
            self.problems.append(f"{code}: {reason}: {text}")
        return reason == "sequence_lost"

    async def _by_id(self, stub: Any, metadata: Any, id: str) -> None:
        while self.left > 0:
            track = Track(self.server.steppers, self.random.choice((1, 1, 2)))
            count = self.random.randint(5, 80)
            for number in range(count):
                x, request = self._request(track, id, end=number == count - 1)
                call = stub.Predict(request, metadata=metadata, timeout=60)
                cancelled = self.random.random() < 0.02
                if cancelled:
                    await asyncio.sleep(self.random.random() * 0.05)
                    call.cancel()
                try:
                    self._take(track, x, await call)
                except asyncio.CancelledError:
                    self.counts["cancelled"] += 1
                    if not track.begun or number == count - 1:
                        break  # begins anew
                    track.unsure(x)
                except grpc.aio.AioRpcError as error:
                    reason = dict(error.trailing_metadata()).get("layerserve-reason", "")
                    if self._failed(error.code(), str(reason), error.details() or "") or not track.begun:
                        break
                if self.problems:
                    return

    async def _on_stream(self, stub: Any, metadata: Any, id: str) -> None:
        while self.left > 0:
            track = Track(self.server.steppers, 1)
            stream = stub.PredictStream(metadata=metadata, timeout=120)
            await self._steps_of(stream, track)
            self.counts["streams"] += 1
            if self.random.random() < 0.5:
                stream.cancel()
                continue
            with contextlib.suppress(Exception):  # the server may have ended it
                await stream.done_writing()
                while await stream.read() is not grpc.aio.EOF:
                    pass
            if self.problems:
                return

    async def _steps_of(self, stream: Any, track: Track) -> None:
        try:
            for _ in range(self.random.randint(5, 80)):
                x, request = self._request(track, "", end=False)
                await stream.write(pb.PredictStreamRequest(request=request))
                if self.random.random() < 0.005:
                    return  # leaves a step behind
                reply = await stream.read()
                if reply.WhichOneof("outcome") == "error":
                    error = reply.error
                    if self._failed(error.code, error.metadata["layerserve-reason"], error.message) or not track.begun:
                        return
                else:
                    self._take(track, x, reply.response)
                if self.problems:
                    return
        except grpc.aio.AioRpcError:
            code, metadata = await stream.code(), dict(await stream.trailing_metadata())
            self._failed(code, str(metadata.get("layerserve-reason", "")), await stream.details())


@contextlib.contextmanager
def replaced(server: Server) -> Iterator[None]:
    """Publishes versions, and deletes all older ones at every second."""
    stop = threading.Event()

    def publish() -> None:
        version = max(server.steppers)
        while not stop.wait(1.5):
            version += 1
            # Before the server has it: the oracle must know every version that answers.
            server.steppers[version] = write_version(server.models, version).stepper()
            if version % 2 == 0 and not stop.wait(1.0):
                for old in range(1, version):
                    shutil.rmtree(server.models / "rnn" / str(old), ignore_errors=True)

    thread = threading.Thread(target=publish)
    thread.start()
    yield
    stop.set()
    thread.join()


def check(transport: str, workers: int, steps: int, seed: int) -> bool:
    """Runs one server. Prints what happened, and returns whether it was as it should be."""
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), transport, workers) as server:
        # Until all threads and buffers are there.
        with replaced(server):
            asyncio.run(Run(server, steps // 3, seed + 1).all())
        before = server.memory()
        run = Run(server, steps, seed)
        with replaced(server):
            asyncio.run(run.all())
        time.sleep(3)
        # Sequences whose last step was cancelled are idle; the last version's deletion ends them.
        (server.models / "rnn" / "layerserve.toml").write_text("[sequences]\nidle_seconds = 600.0\n")
        shutil.rmtree(server.models / "rnn")
        time.sleep(3)
        metrics, after = server.metrics(), server.memory()
        print(f"{transport}, {workers} processes: {dict(run.counts)}")
        print(f"  {metrics}")
        print(f"  memory {before / 2**20:.0f} MiB, then {after / 2**20:.0f} MiB")
        for problem in run.problems[:5]:
            print(f"  {problem}")
        left = metrics["layerserve_sequences"], metrics["layerserve_sequence_bytes"]
        if left != (0, 0):
            print(f"  left: {left}")
        internal = [line for line in server.log if "internal error" in line or "Traceback" in line]
        for line in internal[:5]:
            print(f"  {line}")
        return not run.problems and left == (0, 0) and not internal


async def load(port: int, requests: int, sequences: bool) -> None:
    """Sends requests with 64 under way: steps of 64 sequences, or requests that stand alone."""
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)])
    call = channel.unary_unary("/layerserve.v1.PredictionService/Predict")
    x = np.random.default_rng(0).random((1, 1, 3), "float32")
    metadata = (("authorization", "Bearer client-0"),)

    async def caller(number: int) -> None:
        for index in range(requests // 64):
            request = pb.PredictRequest(model=ModelSpec(name="rnn"), inputs=[encode(x, "x", "float32")])
            if sequences:
                request.sequence.CopyFrom(pb.Sequence(id=f"load-{number}", start=not index))
            await call(request.SerializeToString(), metadata=metadata)

    await asyncio.gather(*map(caller, range(64)))
    await channel.close()


def compare(transport: str, requests: int) -> bool:
    """Compares processor time. Returns whether a step takes at most twice as much."""
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), transport, 1) as server:
        used: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(6):
            for sequences in (False, True):
                began = server.seconds()
                asyncio.run(load(server.port, requests, sequences))
                if turn:
                    used[sequences].append((server.seconds() - began) / requests)
        alone, step = min(used[False]), min(used[True])
        print(f"{transport}: processor time of a request {alone * 1e6:.0f} us, of a step {step * 1e6:.0f} us")
        return step <= 2 * alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30_000, help="number of steps on each server (default: 30000)")
    parser.add_argument("--requests", type=int, default=6400, help="number of requests of a turn of the comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--server", action="append", choices=[f"{one}-{count}" for one, count in SERVERS])
    arguments = parser.parse_args()
    good = True
    for transport, workers in SERVERS:
        if not arguments.server or f"{transport}-{workers}" in arguments.server:
            good &= check(transport, workers, arguments.steps, arguments.seed)
    for transport in ("grpcio", "native"):
        good &= compare(transport, arguments.requests)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
