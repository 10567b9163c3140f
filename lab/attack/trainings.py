"""Training settings and data files that ask for gigabytes in a few bytes: refused, beside the server."""

from __future__ import annotations

import json
import struct
import time
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from attacks.check import Check, Scene
from attacks.frames import Ended, Wire, message
from attacks.messages import TRAIN, spec_message, training
from layerserve.v1 import training_pb2 as pb

#: Time in which a request must be refused on a busy machine, in seconds.
REFUSE_SECONDS = 30.0
#: How a request that can't be carried out may end: INVALID_ARGUMENT, NOT_FOUND, PERMISSION_DENIED, RESOURCE_EXHAUSTED,
#: FAILED_PRECONDITION.
REFUSALS = ("3", "5", "7", "8", "9")


def _object(name: str, **config: object) -> str:
    return json.dumps({"class_name": name, "config": config})


def _compiled(**fields: str) -> dict[str, object]:
    given = {"optimizer": '"sgd"', "loss": '"categorical_crossentropy"', **fields}
    return {"compile": pb.CompileSettings(**given)}  # type: ignore[arg-type]


def _callback(name: str, **config: object) -> dict[str, object]:
    return {"callbacks": f"[{_object(name, **config)}]"}


def _view(splits: dict[str, float], split: str) -> pb.DataView:
    return pb.DataView(splits=json.dumps(splits), split=split)


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


#: Requests by what is wrong with them: fields of the spec.
SPECS: dict[str, dict[str, object]] = {
    "a file pattern of gigabytes": _callback("ModelCheckpoint", filepath="{epoch:0999999999d}.keras"),
    "a pattern within a pattern": _callback("ModelCheckpoint", filepath="{epoch:{epoch}{epoch}{epoch}d}.keras"),
    "a pattern of attributes": _callback("ModelCheckpoint", filepath="{epoch.__class__.__mro__}.keras"),
    "a pattern of a float's digits": _callback("ModelCheckpoint", filepath="{loss:.999999999f}.keras"),
    "a path outside": _callback("ModelCheckpoint", filepath="../../x.keras"),
    "a separator of a thousand newlines": _callback("CSVLogger", filename="log.csv", separator="\n" * 1000),
    "a separator of megabytes": _callback("CSVLogger", filename="log.csv", separator="," * 2_000_000),
    "patience of 1e308": _callback("EarlyStopping", patience=1e308),
    "a factor of 1e308": _callback("ReduceLROnPlateau", factor=1e308),
    "an unknown callback": _callback("os.system"),
    "a million callbacks": {"callbacks": json.dumps(["TerminateOnNaN"] * 1_000_000)},
    "deep JSON of callbacks": {"callbacks": _nested(100_000)},
    "AUC of 2**27 thresholds": _compiled(metrics=f"[{_object('AUC', num_thresholds=2**27)}]"),
    "AUC of 2**62 thresholds": _compiled(metrics=f"[{_object('AUC', num_thresholds=2**62)}]"),
    "Precision with a million thresholds": _compiled(metrics=f"[{_object('Precision', thresholds=[0.5] * 1_000_000)}]"),
    "MeanIoU of a million classes": _compiled(metrics=f"[{_object('MeanIoU', num_classes=10**6)}]"),
    "MeanIoU of 10**18 classes": _compiled(metrics=f"[{_object('MeanIoU', num_classes=10**18)}]"),
    "F1Score of 10**9 classes": _compiled(metrics=f"[{_object('F1Score', num_classes=10**9)}]"),
    "a metric 10,000 times": _compiled(metrics=json.dumps(["accuracy"] * 10_000)),
    "deep JSON of metrics": _compiled(metrics=_nested(100_000)),
    "a rate of 1e308": _compiled(optimizer=_object("SGD", learning_rate=1e308)),
    "a rate of NaN": _compiled(optimizer='{"class_name": "SGD", "config": {"learning_rate": NaN}}'),
    "a rate of 5000 digits": _compiled(
        optimizer='{"class_name": "SGD", "config": {"learning_rate": ' + "9" * 5000 + "}}"
    ),
    "a rate that is a list": _compiled(optimizer=_object("SGD", learning_rate=[1] * 100)),
    "a rate of none": _compiled(optimizer=_object("SGD", learning_rate=None)),
    "a schedule of 10**9 steps' boundaries": _compiled(
        optimizer=_object(
            "SGD",
            learning_rate={
                "class_name": "PiecewiseConstantDecay",
                "config": {"boundaries": list(range(200_000)), "values": [0.1] * 200_001},
            },
        )
    ),
    "an optimizer with Python's code": _compiled(optimizer=_object("Lambda", code="__import__('os')")),
    "deep JSON of the optimizer": _compiled(optimizer=_nested(100_000)),
    "a loss with a name of megabytes": _compiled(loss=json.dumps("x" * 2_000_000)),
    "a loss weight of infinity": _compiled(loss_weights="Infinity"),
    "weights of a million classes": {"class_weight": json.dumps({str(number): 1.0 for number in range(10**6)})},
    "weights of NaN": {"class_weight": '{"0": NaN}'},
    "2**31 - 1 epochs of nothing": {"epochs": 2**31 - 1, "steps_per_epoch": 2**62},
    "batches of 2**31 - 1 rows": {"batch_size": 2**31 - 1},
    "a split of NaN": {"validation_split": float("nan")},
    "2**31 - 1 workers": {"workers": 2**31 - 1, "batch_size": 2**31 - 1},
    "100,000 patterns of layers": {"freeze": ["*a*" * 20] * 100_000},
    "a pattern of stars": {"freeze": ["*" * 5000 + "x"]},
    "a description of megabytes": {"description": "x" * 8_000_000},
    "a label of megabytes": {"publish": True, "publish_label": "x" * 2_000_000},
    "a monitor of megabytes": {"monitor": "x" * 2_000_000, "publish": True, "publish_choice": pb.PUBLISH_CHOICE_BEST},
    "a budget of NaN": {"budget": pb.Budget(seconds=float("nan"))},
    "a negative budget": {"budget": pb.Budget(memory_bytes=-1, disk_bytes=-(2**63))},
    "checkpoints each NaN seconds": {"checkpoint_seconds": float("nan")},
    "2**31 - 1 checkpoints kept": {"checkpoints": pb.CheckpointPolicy(every_steps=1, keep=2**31 - 1)},
    "checkpoints of -1 epochs": {"checkpoints": pb.CheckpointPolicy(every_epochs=-1, keep_best=-1)},
    "a checkpoint of a run outside": {"from_checkpoint": "../../../etc:passwd"},
    "a checkpoint with a name of megabytes": {"from_checkpoint": "x" * 4_000_000},
    "LoRA of rank 2**62": {"lora": json.dumps({"rank": 2**62})},
    "LoRA of rank 10**6": {"lora": json.dumps({"rank": 10**6})},
    "LoRA of rank NaN": {"lora": '{"rank": NaN, "alpha": 1e999}'},
    "LoRA of a pattern of stars": {"lora": json.dumps({"rank": 2, "layers": ["*" * 5000 + "x"]})},
    "deep JSON of LoRA": {"lora": _nested(100_000)},
    "a key of megabytes": {"idempotency_key": "x" * 4_000_000},
    "metadata of 100,000 keys": {"metadata": {f"key{number}": "x" for number in range(100_000)}},
    "metadata of megabytes": {"metadata": {"key": "x" * 4_000_000}},
    "a base of version -1": {"expected_base_version": -1},
    "100,000 splits": {"view": _view({f"s{number}": 1e-6 for number in range(100_000)}, "s0")},
    "a split of NaN rows": {"view": pb.DataView(splits='{"a": NaN}', split="a", seed=-1)},
    "deep JSON of splits": {"view": pb.DataView(splits=_nested(100_000), split="a")},
    "a split with a name of megabytes": {"view": _view({"a" * 4_000_000: 0.5}, "a")},
}
#: What may be carried out as it is asked for: it costs the run, and nobody else.
HARMLESS = (
    "patience of 1e308",
    "a rate of 1e308",
    "a metric 10,000 times",
    "batches of 2**31 - 1 rows",
    "2**31 - 1 epochs of nothing",
    "a description of megabytes",
    "100,000 patterns of layers",
    "a monitor of megabytes",
    "checkpoints each NaN seconds",
    "AUC of 2**27 thresholds",
    "weights of a million classes",
    "a schedule of 10**9 steps' boundaries",
    "2**31 - 1 checkpoints kept",
    "gradients of 2**31 - 1 steps",
    "Precision with a million thresholds",
)


def ask(address: tuple[str, int], name: str) -> Counter[str]:
    """One of these requests, without data: how it ends, or "accepted"."""
    return first_answer(address, name, spec_message(training(**SPECS[name])))


def ask_for_file(address: tuple[str, int], name: str) -> Counter[str]:
    """A run on a file below the data root."""
    spec = training()
    del spec.data[:]
    for role in (pb.DATA_ROLE_X, pb.DATA_ROLE_Y):
        spec.data.add(role=role, path=name)
    return first_answer(address, name, spec_message(spec))


def arrays(address: tuple[str, int]) -> Counter[str]:
    """Arrays that are announced and can't be."""
    seen: Counter[str] = Counter()
    for shape in ((2**62, 64), (2**40, 64), (-5, 64), (0, 64), (1,) * 10_000, (32, 2**62)):
        spec = training()
        spec.data[0].shape[:] = shape
        seen += first_answer(address, "an array", spec_message(spec))
    spec = training()
    spec.data.extend([spec.data[0]] * 50_000)
    return seen + first_answer(address, "50,000 arrays", spec_message(spec))


def first_answer(
    address: tuple[str, int], name: str, request: bytes, path: str = TRAIN, *, unary: bool = False
) -> Counter[str]:
    """How a call ends that sends one message, as "NAME: STATUS"; "accepted" if a reply comes first."""
    try:
        with Wire(address).settle() as wire:
            number = wire.open(path)
            wire.give(number, message(request), end=unary)
            answer, until = wire.answers[number], time.monotonic() + REFUSE_SECONDS
            while not answer.end and not answer.data and time.monotonic() < until:
                wire.read(0.5)
            end = answer.status or ("accepted" if answer.data else "silent")
            wire.reset(number)
            return Counter([f"{name}: {end}"])
    except Ended as error:
        return Counter([f"{name}: ended {error}"])


def make_files(root: Path) -> list[str]:
    """Data files that are cut off, lie or are bombs."""
    root.mkdir(exist_ok=True)
    np.save(root / "whole.npy", np.zeros((32, 64), np.float32))
    whole = (root / "whole.npy").read_bytes()
    (root / "cut.npy").write_bytes(whole[:-8])
    (root / "empty.npy").write_bytes(b"")
    (root / "header.npy").write_bytes(_header("(1000000000000, 64)"))
    (root / "negative.npy").write_bytes(_header("(-1, 64)") + bytes(1000))
    (root / "object.npy").write_bytes(_header("(32, 64)", "|O") + bytes(1000))
    (root / "long.npy").write_bytes(b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"{" * 1000)
    with zipfile.ZipFile(root / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("x.npy", _header("(32, 64)") + bytes(300_000_000))
    with zipfile.ZipFile(root / "larger.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.npy", _header("(1000000000, 64)") + bytes(1000))
    liar = bytearray((root / "bomb.npz").read_bytes())
    struct.pack_into("<I", liar, liar.rfind(b"PK\1\2") + 24, 100)
    (root / "liar.npz").write_bytes(liar)
    (root / "cut.npz").write_bytes((root / "bomb.npz").read_bytes()[:1000])
    (root / "none.parquet").write_bytes(b"PAR1" + bytes(100) + struct.pack("<I", 2**31) + b"PAR1")
    return [path.name for path in sorted(root.iterdir()) if path.name != "whole.npy"] + ["../x.npy", "/etc/passwd"]


def _header(shape: str, dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def expect_refusals(
    scene: Scene, futures: Iterable[Future[Counter[str]]], harmless: Collection[str] = ()
) -> Counter[str]:
    """Counts how requests ended, as "NAME: STATUS". Only those that are `harmless` may be accepted."""
    seen: Counter[str] = sum((future.result() for future in futures), Counter())
    for what in seen:
        name, _, end = what.rpartition(": ")
        scene.expect(end in REFUSALS or (end == "accepted" and name in harmless), f"{what}, expected a refusal")
    return Counter(what.rpartition(": ")[2] for what in seen)


def _specs(scene: Scene) -> Counter[str]:
    futures = [scene.pool.submit(ask, scene.server.address, name) for name in SPECS]
    futures.append(scene.pool.submit(arrays, scene.server.address))
    return expect_refusals(scene, futures, HARMLESS)


def _files(scene: Scene) -> Counter[str]:
    root = scene.server.log.with_suffix(".data")
    names = make_files(root)
    server = scene.start(data_root=root)
    before = server.memory()
    futures = [scene.pool.submit(ask_for_file, server.address, name) for name in names]
    seen = expect_refusals(scene, futures)
    growth = server.memory() - before
    scene.expect(growth < 150, f"memory grew by {growth:.0f} MiB")
    status = server.end()
    scene.expect(status == 0, f"exit status {status}")
    return seen


CHECKS = [
    Check("training settings that ask for gigabytes", 8, _specs, memory=200.0),
    Check("data files that are damaged or lie", 9, _files, memory=200.0),
]
