"""A real Prometheus asks a live server every query of the alerts, the dashboard and the autoscalers.

    python lab/proofs/monitoring.py

The server, with a store of models, tokens, shadows and samples, meets everything that has a metric: calls that fail
or are refused, a version that can't be loaded and one that can't be fetched, invalid settings, a run that fails,
tokens that can't be read again. Then each query must return data: alerts without their threshold, and each selector
in them by itself. Needs Prometheus (Debian: `apt-get install --no-install-recommends prometheus`) and the extra
`server`. Exits with 1 if a query returns nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from layergraph import Input, Model
from layergraph.layers import Dense
from layerserve import Client, LayerserveError
from telemetry import free_port, wait_for
from tokens import write_tokens

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
WIDTH = 4
#: A layer that fails at large numbers, so that a server has internal errors, and a run fails.
PLUGIN = """
from layergraph import layers, plugins

@plugins.register_keras_serializable("proof")
class Fragile(layers.Layer):
    def call(self, inputs):
        if inputs.device.type == "cpu" and bool((inputs > 1e6).any()):
            raise RuntimeError("too large")
        return inputs
"""
ROWS = np.ones((3, WIDTH), "float32")
TOKENS = {
    "all": "rights = ['predict', 'read', 'train', 'manage']",
    "few": "rights = ['predict', 'read']\nrows_per_minute = 3",
}
PATIENCE_SECONDS = 120.0


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_store(folder)
        with (
            serving(folder) as (server, metrics),
            crowded(folder) as (small, others),
            prometheus(folder, metrics, others) as address,
        ):
            wait_for("Prometheus", lambda: values(address, 'up{job="layerserve"} == 1'))
            stop = threading.Event()
            traffic = threading.Thread(target=send, args=(server, small, stop))
            traffic.start()
            try:
                provoke(server, folder)
                missing = ask(address, queries())
            finally:
                stop.set()
                traffic.join()
            wrong = [rule["name"] for rule in rules(address) if rule["health"] != "ok"]
    for name in (*missing, *wrong):
        print(f"FAILED: {name}")
    print(f"{len(queries()) - len(missing)} of {len(queries())} queries return data; {len(wrong)} rules are ill")
    return bool(missing or wrong)


def write_store(folder: Path) -> None:
    """Models as in a store, the plugin, and tokens."""
    (folder / "fragile_layers.py").write_text(PLUGIN)
    sys.path.insert(0, str(folder))
    from fragile_layers import Fragile

    for version in (1, 2):
        x = Input((WIDTH,), name="x")
        model = Model(x, Dense(2, name="y")(Fragile()(x)))
        model.compile("sgd", "mse")
        place = folder / "store" / "small" / str(version)
        place.mkdir(parents=True)
        model.save(place / "model.keras")
    (folder / "store" / "small" / "labels.json").write_text('{"next": 1}')
    (folder / "store" / "small" / "layerserve.toml").write_text('shadow = "next"\nshadow_share = "100 %"\n')
    for name, data in (("broken", b"no model"), ("lost", b"no model")):
        (folder / "store" / name / "1").mkdir(parents=True)
        (folder / "store" / name / "1" / "model.keras").write_bytes(data)
    # Its file isn't the one that the manifest says.
    manifest = {"file": "model.keras", "bytes": 8, "sha256": 64 * "0"}
    (folder / "store" / "lost" / "1" / "manifest.json").write_text(json.dumps(manifest))
    write_tokens(folder / "tokens.toml", TOKENS)
    # Where files of samples should go, so that they are lost.
    (folder / "state").mkdir()
    (folder / "state" / "samples").write_text("")


def serving(folder: Path) -> contextlib.AbstractContextManager[tuple[str, str]]:
    """The server that meets everything. Gives its address and that of its metrics."""
    options = ["--state", str(folder / "state"), "--tokens", str(folder / "tokens.toml")]
    options += ["--sample-models", "small=1", "--remote-poll-seconds", "0.5"]
    return started(folder, f"file://{folder / 'store'}", *options)


def crowded(folder: Path) -> contextlib.AbstractContextManager[tuple[str, str]]:
    """A server with room for one of its two models."""
    for name in ("one", "other"):
        shutil.copytree(folder / "store" / "small" / "1", folder / "crowded" / name / "1")
    return started(folder, str(folder / "crowded"), "--max-model-bytes", "800000", "--training-slots", "0")


@contextlib.contextmanager
def started(folder: Path, path: str, *options: str) -> Iterator[tuple[str, str]]:
    """A server. Gives its address and that of its metrics."""
    ports = free_port(), free_port()
    common = ["--plugins", "fragile_layers", "--grpc-port", str(ports[0]), "--metrics-port", str(ports[1])]
    common += ["--tuning-seconds", "0", "--drain-seconds", "0"]
    command = [sys.executable, "-m", "layerserve_server", path, *common, *options]
    variables = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    log = folder / f"{ports[0]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=variables, stderr=output)
    try:
        yield f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
    finally:
        process.terminate()
        process.wait()
        if process.returncode:
            print(log.read_text()[-4000:], file=sys.stderr)


@contextlib.contextmanager
def prometheus(folder: Path, *metrics: str) -> Iterator[str]:
    """Prometheus with the alerts, which reads the metrics every second, with a token. Gives its address."""
    scrape = {"job_name": "layerserve", "authorization": {"credentials": "all"}}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(MONITORING / "alerts.yaml")],
        "scrape_configs": [scrape | {"static_configs": [{"targets": metrics}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    process = subprocess.Popen([*command, f"--web.listen-address={address}", "--log.level=error"])
    try:
        yield address
    finally:
        process.terminate()
        process.wait()


def provoke(server: str, folder: Path) -> None:
    """Makes happen what has a metric of its own."""
    with Client(server, token="all", timeout=60) as client:
        client.wait_until_ready(timeout=60)
        x = np.ones((8, WIDTH), "float32")
        y = np.zeros((8, 2), "float32")
        client.train("small", x, y, epochs=3, publish=False).wait(timeout=300)
        x[-1] = 1e7
        with contextlib.suppress(LayerserveError):
            client.train("small", x, y, epochs=3, publish=False, shuffle=False, batch_size=2).wait(timeout=300)
    (folder / "store" / "small" / "layerserve.toml").write_text("no toml")
    (folder / "tokens.toml").write_text("no toml")


def send(server: str, small: str, stop: threading.Event) -> None:
    """Sends calls and streams until it is stopped: valid ones, some that fail, and some that are refused."""
    with (
        Client(server, token="all", timeout=10) as client,
        Client(server, token="few", timeout=10) as few,
        Client(small, timeout=10) as crowded,
    ):
        while not stop.wait(0.05):
            for rows in (ROWS, 1e7 * ROWS):
                with contextlib.suppress(LayerserveError):
                    client.predict("small", rows)
                with contextlib.suppress(LayerserveError):
                    list(client.predict_many("small", [rows, rows]))
            with contextlib.suppress(LayerserveError):
                few.predict("small", ROWS, timeout=1)
            for name in ("one", "other"):
                with contextlib.suppress(LayerserveError):
                    crowded.predict(name, ROWS)


def queries() -> dict[str, str]:
    """Every query, by what it is for."""
    found = {}
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            name, expression = rule["alert"], " ".join(rule["expr"].split())
            for selector in sorted(set(re.findall(r"\w+\{[^}]*\}", expression))):
                found[f"{name}: {selector}"] = selector
            # Those that compare twice, or are of what isn't there, have no value without the comparison.
            if not re.search("^absent|unless on", expression):
                found[name] = re.sub(r" (>|==) [\d.]+$", "", expression)
                assert found[name] != expression, expression
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            text = re.sub(r"\$(job|instance|model)\b", ".*", target["expr"]).replace("$__rate_interval", "30s")
            found[f"panel {panel['title']}: {target['legendFormat']}"] = text
    adapter = yaml.safe_load((MONITORING / "adapter.yaml").read_text())["rules"]["custom"][0]["metricsQuery"]
    found["Prometheus Adapter"] = adapter.replace("<<.GroupBy>>", "instance").replace("<<.LabelMatchers>>", 'job!=""')
    keda = yaml.safe_load((ROOT / "deploy/kubernetes/components/keda/scaledobject.yaml").read_text())
    found["KEDA"] = keda["spec"]["triggers"][0]["metadata"]["query"]
    return found


def ask(address: str, wanted: dict[str, str]) -> list[str]:
    """The queries that return nothing, after a time in which each was asked again and again."""
    missing = dict(wanted)
    end = time.monotonic() + PATIENCE_SECONDS
    while missing and time.monotonic() < end:
        missing = {name: query for name, query in missing.items() if not values(address, query)}
        time.sleep(1)
    return [f"{name}: no data: {query}" for name, query in missing.items()]


def values(address: str, query: str) -> list[float]:
    """The numbers that a query returns. Exits if Prometheus refuses it."""
    found = get(address, "query", query=query)["result"]
    return [number for one in found if (number := float(one["value"][1])) == number]


def rules(address: str) -> list[Any]:
    return [rule for group in get(address, "rules")["groups"] for rule in group["rules"]]


def get(address: str, what: str, **arguments: str) -> Any:
    url = f"http://{address}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]
    except urllib.error.HTTPError as error:
        if error.code == 503:  # Prometheus is starting
            return {"result": []}
        sys.exit(f"FAILED: {arguments}: {error.read().decode()}")
    except OSError:  # not even that
        return {"result": []}


if __name__ == "__main__":
    sys.exit(main())
