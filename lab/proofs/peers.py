"""Runs peers' examples and tests against our server, and compares what passes with `peers_expected.toml`. Each file has
a server of its own.

peers.py --python PYTHON [--triton-client FOLDER] [--triton-server FOLDER] [--open-inference FOLDER]
         [--schemathesis COMMAND] [--tensorflow-serving FOLDER --tensorflow PYTHON] [--only TEXT] [--transport native]

The folders are the sources of github.com/triton-inference-server/client and /server, of
github.com/kserve/open-inference-protocol, and of github.com/tensorflow/serving. The first PYTHON has tritonclient[all],
ml_dtypes, requests, psutil and boofuzz, the other tensorflow, tensorflow-serving-api and portpicker. Files run as they
are, but for ports and for the names of models in paths. Models are those of `peer_models`. COMMAND asks the server by
its own /openapi.json as well. Fails if a test passes or fails that isn't expected to. Logs: build/peers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peer_models
import tomllib
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.system_memory import available_memory

HERE = Path(__file__).parent
BUILD = Path("build/peers")
EXPECTED = HERE / "peers_expected.toml"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
#: Maximum duration of a file, in seconds.
SECONDS = 900
#: Duration of the fuzzer, in seconds, and the minimum number of its requests.
FUZZ_SECONDS, MIN_REQUESTS = 300, 500
#: A port of Triton, behind how files name the host.
PORT = re.compile(r"(localhost:|\"localhost\"\) \+ \":|_ipaddr\}:|127\.0\.0\.1\", )(8000|8001)")
CLIENT, SERVER = "src/python/examples/", "qa/"
SIMPLE = ("simple", "simple_int8", "simple_string", "simple_identity")


@dataclass(frozen=True)
class Suite:
    """Files of a peer that need the same models and settings."""

    name: str
    #: Below the folder of the sources: patterns of examples, or files of unittest.
    files: Sequence[str]
    models: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    #: Environment of the tests; Triton's ports stand for ours.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Tests that don't run.
    left_out: Sequence[str] = ()
    #: What differs where a file runs several times. Failures are expected of the file with this in brackets.
    variant: str = ""
    #: Path that is posted to before each test, where Triton's have a new server for each.
    before_each: str = ""
    #: Maximum duration of a file, in seconds.
    seconds: float = SECONDS
    #: Whether it goes on until it is stopped: a fuzzer, which passes if no request has failed by then.
    endless: bool = False
    #: Free memory that it needs, in bytes; it is left out where there is less.
    memory: int = 0


TENSORFLOW_SERVING = "tensorflow_serving/model_servers/tensorflow_model_server_test.py"
#: Its models are graphs of TensorFlow, which aren't served: these stand for them.
TWINS = {
    "saved_model_half_plus_two_cpu": "half_plus_two",
    "saved_model_half_plus_two_tf2_cpu": "half_plus_two",
    "saved_model_half_plus_three": "half_plus_three",
}
EXPLICIT = {"model_control": "explicit", "load": "*"}
UNREGISTERED = ("after_inference", "during_inference_single_req", "during_inference_multiple_req")
SHARED_MEMORY = {"system_shared_memory": "write"}
#: The index of these tests has eight models.
EIGHT = (*SIMPLE, "simple_identity_int64", "identity_fp32", "addsub", "subadd")
ZEROS = [name for name in peer_models.MODELS if "_zero_" in name and "element" not in name and "queue" not in name]
SUITES = (
    Suite(
        "client",
        [CLIENT + name for name in ("simple_grpc_*.py", "simple_http_*.py", "grpc_explicit_*.py", "reuse_infer_*.py")],
        (*EIGHT[:7], "simple_sequence"),
        {**EXPLICIT, **SHARED_MEMORY},
    ),
    Suite("server", [SERVER + "L0_grpc/python_grpc_aio_test.py"], EIGHT, SHARED_MEMORY),
    # That of these seven.
    Suite("server", [SERVER + "L0_http/python_http_aio_test.py"], EIGHT[:7], SHARED_MEMORY),
    Suite(
        "server",
        [SERVER + "L0_http/http_test.py"],
        ["simple_identity", "simple_identity_int64", *(name for name in peer_models.MODELS if "onnx_zero_" in name)],
        # It makes a body of 6 GB in memory, which is refused for its size.
        left_out=["test_loading_large_invalid_model"],
    ),
    Suite("server", [SERVER + "L0_parameters/class_count_test.py"], ["identity_fp32", "identity_bytes"]),
    Suite(
        "server",
        [SERVER + "L0_client_nobatch/client_test.py"],
        ["onnx_int32_int8_int8", "onnx_nobatch_int32_int8_int8"],
    ),
    Suite(
        "server",
        [SERVER + "L0_input_validation/input_validation_test.py"],
        ["input_all_required", "pt_identity", "onnx_object_int32_int32"],
        {**EXPLICIT, **SHARED_MEMORY},
    ),
    Suite("server", [SERVER + "L0_string_io/string_client_test.py"], ["string_identity"]),
    *(
        Suite(
            "server",
            [SERVER + "L0_shared_memory/shared_memory_test.py"],
            ["simple", "onnx_int32_int32_int32"],
            SHARED_MEMORY,
            environment={"CLIENT_TYPE": protocol, "BACKENDS": "onnx"},
            variant=protocol,
            # Of the first two, one wants a server without shared memory, and the other asks none.
            left_out=[
                *("test_client_shm_disabled_by_default", "test_python_client_leak"),
                *(f"test_unregister_shm_{when}_{other}" for when in UNREGISTERED),
            ],
            before_each="/v2/systemsharedmemory/unregister",
        )
        for protocol, other in (("http", "grpc"), ("grpc", "http"))
    ),
    Suite("server", [SERVER + "L0_infer_zero/infer_zero_test.py"], ZEROS, environment={"BACKENDS": "onnx"}),
    Suite(
        "server",
        [SERVER + "L0_large_payload/large_payload_test.py"],
        ["onnx_nobatch_zero_1_float32"],
        {"max_message_bytes": 2**31 - 1, "max_buffered_bytes": 16 << 30},
        memory=40 << 30,
    ),
    Suite(
        "server",
        [SERVER + "L0_sequence_batcher/sequence_batcher_test.py"],
        ["onnx_sequence_int32", "onnx_sequence_bool"],
        environment={
            **{"BACKENDS": "onnx", "BATCHER_TYPE": "FIXED", "MODEL_INSTANCES": "1"},
            **dict.fromkeys(("ENSEMBLES", "NO_BATCHING", "IMPLICIT_STATE", "INITIAL_STATE_FILE"), "0"),
        },
    ),
    Suite("server", [SERVER + "L0_client_timeout/client_infer_timeout_test.py"], ["custom_identity_int32"]),
    Suite(
        "server",
        [SERVER + "L0_sagemaker/sagemaker_test.py"],
        ["sm_model"],
        {"health_path": "/ping", "predict_path": "/invocations"},
        environment={"SAGEMAKER_BIND_TO_PORT": "8000"},
    ),
    Suite(
        "server",
        [SERVER + "L0_vertex_ai/vertex_ai_test.py"],
        ["addsub", "subadd"],
        {"health_path": "/health", "predict_path": "/predict", "predict_model": "addsub"},
        environment={"AIP_HTTP_PORT": "8000", "AIP_PREDICT_ROUTE": "/predict", "AIP_HEALTH_ROUTE": "/health"},
    ),
    # Its combinations would take days.
    Suite("server", [SERVER + "L0_http_fuzz/fuzztest.py"], ["simple"], seconds=FUZZ_SECONDS, endless=True),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--triton-client", type=Path)
    parser.add_argument("--triton-server", type=Path)
    parser.add_argument("--open-inference", type=Path)
    parser.add_argument("--schemathesis", help="its command, for the descriptions of HTTP")
    parser.add_argument("--tensorflow-serving", type=Path)
    parser.add_argument("--tensorflow", help="the Python for its tests")
    parser.add_argument("--only", default="", help="a part of the names of the files to be run")
    parser.add_argument("--transport", default="grpcio")
    arguments = parser.parse_args()
    folders = {"client": arguments.triton_client, "server": arguments.triton_server}
    shutil.rmtree(BUILD, ignore_errors=True)
    expected = tomllib.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    differ = 0
    for number, suite in enumerate(SUITES):
        folder = folders[suite.name]
        files = [] if folder is None else sorted(one for name in suite.files for one in folder.glob(name))
        files = [one for one in files if arguments.only in str(one)]
        if files and (available_memory() or 0) < suite.memory:
            print(f"{files[0].name}: left out, needs {suite.memory >> 30} GiB of free memory")
        elif files:
            for file in files:
                differ += run(suite, BUILD / str(number) / file.stem, folder, file, expected, arguments)
    if arguments.schemathesis and arguments.only in "schemathesis":
        differ += generated(arguments, expected)
    if arguments.tensorflow_serving and arguments.only in TENSORFLOW_SERVING:
        differ += tensorflow_serving(arguments, expected)
    print(f"{differ} differ from what is expected")
    return bool(differ)


def run(suite: Suite, build: Path, folder: Path, file: Path, expected: Mapping[str, Any], options: Any) -> int:
    """Serves the models of a suite and runs one of its files. Returns the number of unexpected outcomes."""
    with serving(suite.models, build, options.transport, **suite.settings) as app:
        ports = {"8000": str(app.http_port), "8001": str(app.grpc_port)}
        copy(folder, suite, build / "sources", ports)
        name = str(file.relative_to(folder))
        before = f"http://127.0.0.1:{app.http_port}{suite.before_each}" if suite.before_each else ""
        outcomes = outcomes_of(build / "sources" / name, suite, options.python, ports, before)
    title = f"{name} ({suite.variant})" if suite.variant else name
    return report(title, outcomes, expected.get(title, {}))


def generated(options: Any, expected: Mapping[str, Any]) -> int:
    """Has schemathesis generate requests from descriptions. Returns the number of unexpected outcomes."""
    build, outcomes = BUILD / "generated", {}
    with serving(("simple", "identity_fp32", "simple_string"), build, options.transport) as app:
        address = f"http://127.0.0.1:{app.http_port}"
        described = {"own": f"{address}/openapi.json"}
        if options.open_inference is not None:
            text = (options.open_inference / "specification/protocol/open_inference_rest.yaml").read_text()
            copied = build / "open_inference_rest.yaml"
            copied.write_text(text.replace("${MODEL_NAME}", "simple").replace("${MODEL_VERSION}", "1"))
            described["open_inference_rest"] = str(copied.absolute())
        for name, where in described.items():
            command = [options.schemathesis, "run", where, "--url", address, "--phases", "coverage,fuzzing"]
            command += ["--checks", CHECKS, "--max-examples", "40", "--no-color"]
            done = subprocess.run(command, cwd=build, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            (build / f"{name}.log").write_text(done.stdout)
            counts = re.findall("^ *([0-9]+ generated.*)$", done.stdout, re.M)
            print(f"schemathesis, {name}: {', '.join(counts)}")
            outcomes[name] = "ok" if done.returncode == 0 else f"status {done.returncode}"
    return report("schemathesis", outcomes, expected.get("schemathesis", {}))


def tensorflow_serving(options: Any, expected: Mapping[str, Any]) -> int:
    """Runs TensorFlow Serving's test, which starts servers. Returns the number of unexpected outcomes."""
    source = options.tensorflow_serving / "tensorflow_serving"
    package = BUILD.absolute() / "tensorflow_serving" / "tf_serving" / "tensorflow_serving"
    for path in (*source.glob("model_servers/**/*.py"), *source.glob("servables/tensorflow/testdata/*.[tj]*")):
        copied = package / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)
    # The rest of the package is installed.
    (package / "__init__.py").write_text("__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n")
    testdata = package / "servables/tensorflow/testdata"
    for folder, model in TWINS.items():
        peer_models.save(model, testdata / folder / "00000123" / "model.keras")
    starter = package / "model_servers" / "tensorflow_model_server"
    path = os.pathsep.join(sys.path)
    program = HERE.absolute() / "peer_model_server.py"
    starter.write_text(f"#!/bin/sh\nPYTHONPATH='{path}' exec {sys.executable} {program} \"$@\"\n")
    starter.chmod(0o755)
    (package / "temporary").mkdir()
    suite = Suite(
        "tensorflow",
        [TENSORFLOW_SERVING],
        [],
        environment={
            "TEST_SRCDIR": str(package.parents[1]),
            "TEST_TMPDIR": str(package / "temporary"),
            "PYTHONPATH": str(package.parent),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        # It waits for a dozen servers, and repeats for a minute what fails.
        seconds=2 * SECONDS,
    )
    outcomes = outcomes_of(package.parent / TENSORFLOW_SERVING, suite, options.tensorflow, {}, "")
    return report(TENSORFLOW_SERVING, outcomes, expected.get(TENSORFLOW_SERVING, {}))


@contextmanager
def serving(models: Sequence[str], build: Path, transport: str, **settings: Any) -> Iterator[App]:
    """Serves models until all of them answer, and then stops."""
    peer_models.put(models, build / "models")
    chosen = Settings(
        path=build / "models",
        state=build / "state",
        host="127.0.0.1",
        grpc_port=0,
        http_port=0,
        metrics_port=-1,
        transport=transport,
        engine="eager",
        plugins="peer_plugin",
        server_name="triton",
        drain_seconds=0,
        **settings,
    )
    with App(chosen) as app, Client(f"127.0.0.1:{app.grpc_port}") as client:
        # A file is read when it is as it was at the look before.
        while len(client.models()) < len(models):
            app.repository.scan()
        yield app


def copy(folder: Path, suite: Suite, target: Path, ports: Mapping[str, str]) -> None:
    """Copies the folders of a suite's files, and what they have in common, with other ports."""
    for part in {str(Path(one).parent) for one in suite.files} | ({"qa/common"} if suite.name == "server" else set()):
        for path in (folder / part).glob("*.py"):
            text = PORT.sub(lambda found: found[1] + ports[found[2]], path.read_text())
            copied = target / path.relative_to(folder)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_text(text)


def outcomes_of(file: Path, suite: Suite, python: str, ports: Mapping[str, str], before: str) -> dict[str, str]:
    """Runs a file. Returns "ok" or an error by name of its tests; an example is one test.

    `before` is an address that is posted to before each test, or empty.
    """
    environment = {**os.environ, **{name: ports.get(value, value) for name, value in suite.environment.items()}}
    environment["PEER_BEFORE_EACH"] = before
    results, log = file.with_suffix(".json"), file.with_suffix(".log")
    is_test = "unittest" in (text := file.read_text()) or "tf.test" in text
    command = (
        [python, str(HERE.absolute() / "peer_tests.py"), file.name, results.name, *suite.left_out]
        if is_test
        else [python, file.name]
    )
    with log.open("w") as output:
        try:
            status = subprocess.run(
                command, cwd=file.parent, env=environment, stdout=output, stderr=output, timeout=suite.seconds
            ).returncode
        except subprocess.TimeoutExpired:
            if suite.endless:
                return {"whole": fuzzed(file.parent)}
            status = f"more than {suite.seconds} seconds"
    if is_test and results.exists():
        found: dict[str, str] = json.loads(results.read_text())
        return found
    lines = log.read_text(errors="replace").strip().splitlines()
    return {"whole": "ok" if status == 0 else f"status {status}: {lines[-1] if lines else ''}"[:400]}


def fuzzed(folder: Path) -> str:
    """Returns "ok" if no request of a stopped fuzzer failed, of many; it notes them in a folder of databases."""
    counts: Counter[str] = Counter()
    for path in folder.glob("boofuzz-results/*.db"):
        with closing(sqlite3.connect(path)) as database:
            counts.update(dict(database.execute("SELECT type, count(*) FROM steps GROUP BY type")))
    print(f"{counts['send']} generated requests, {counts['fail'] + counts['error']} failed")
    failed = counts["fail"] or counts["error"] or counts["send"] < MIN_REQUESTS
    return f"got {dict(counts)}" if failed else "ok"


def report(name: str, outcomes: Mapping[str, str], expected: Mapping[str, Any]) -> int:
    """Prints what passed and failed. Returns the number of outcomes that aren't expected."""
    failures: Mapping[str, str] = expected.get("failures", {})
    passed = sum(outcome == "ok" for outcome in outcomes.values())
    print(f"{name}: {passed} of {len(outcomes)} pass")
    differ = 0
    for test, outcome in outcomes.items():
        if outcome == "ok" and test in failures:
            print(f"  {test}: passes, expected to fail: {failures[test]}")
        elif outcome != "ok" and test not in failures:
            print(f"  {test}: {outcome}")
        else:
            continue
        differ += 1
    missing = failures.keys() - outcomes.keys()
    count = expected.get("tests", len(outcomes))
    if missing or count != len(outcomes):
        print(f"  got {len(outcomes)} tests, expected {count}; missing: {', '.join(sorted(missing)) or 'none'}")
        differ += 1
    return differ


if __name__ == "__main__":
    sys.exit(main())
