"""The parts of training that need no process: validation, spool, events, compile settings."""

import math
from dataclasses import replace
from types import SimpleNamespace

import layergraph
import numpy as np
import pytest
from layergraph.errors import ConfigError
from layerserve.values import tensors
from layerserve.values.table_files.table import FileArray, Selection
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.errors import (
    ForbiddenPathError,
    IncompleteDataError,
    InvalidRequestError,
    InvalidTensorError,
    MissingInputError,
    NotTrainableError,
    TooLargeError,
    UnknownInputError,
    UnknownOutputError,
)
from layerserve_server.training import events
from layerserve_server.training.checks.request_checks import checked
from layerserve_server.training.events import EventLog, EventWriter
from layerserve_server.training.model import compile_model, fit_arguments
from layerserve_server.training.process import workers
from layerserve_server.training.process.reporting import numbers
from layerserve_server.training.request import DataArray, Role, RunRequest
from layerserve_server.training.run_folder.data import array_file, read_data
from layerserve_server.training.run_folder.result import RunResult
from layerserve_server.training.run_folder.upload import Upload

INPUTS = [SimpleNamespace(name="x", shape=(None, 2), dtype="float32")]
OUTPUTS = [SimpleNamespace(name="y", shape=(None, 2), dtype="float32")]
TWO = [*OUTPUTS, SimpleNamespace(name="z", shape=(None, 1), dtype="float32")]


def array(role="x", name="", dtype="float32", shape=(6, 2)):
    return DataArray(Role(role), name, dtype, shape)


GOOD = RunRequest("m", 1, (array("x"), array("y")))


def no_files(wanted):
    raise AssertionError("no array is in a file")


def check(request, outputs=OUTPUTS, max_bytes=10**6):
    return checked(request, INPUTS, outputs, max_bytes, no_files)


# Validation.


def test_arrays_in_files_are_described_together_in_their_order():
    asked = []

    def describe(wanted):
        asked.extend(wanted)
        return [
            (replace(file, stamp=(number,)), FileArray("float32", (6, 2), mapped=True))
            for number, (file, _) in enumerate(wanted)
        ]

    x, weight = (DataFile("/data", f"{role}.npy") for role in ("x", "sample_weight"))
    filed = [DataArray(Role(file.path.removesuffix(".npy")), "", "", (), file) for file in (x, weight)]
    request = replace(GOOD, data=(filed[0], array("y"), filed[1]))
    found = checked(request, INPUTS, OUTPUTS, 10**6, describe).data
    assert asked == [(x, Selection(name="x", text=False)), (weight, Selection(name="y", text=False))]
    assert [one.file for one in found] == [replace(x, stamp=(0,)), None, replace(weight, stamp=(1,))]
    assert found[0].mapped
    for wrong, error in ((replace(x, path="../x.npy"), ForbiddenPathError), (replace(x, folder=""), NotTrainableError)):
        data = (replace(filed[0], file=wrong), array("y"))
        with pytest.raises(error):
            checked(replace(request, data=data), INPUTS, OUTPUTS, 10**6, no_files)


def test_one_array_may_weigh_all_outputs():
    data = (array("x"), array("y", "y"), array("sample_weight", shape=(6,)))
    assert [one.name for one in check(replace(GOOD, data=data), TWO).data] == ["x", "y", ""]


VALIDATION = (array("validation_x", shape=(2, 2)), array("validation_y", shape=(2, 2)))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"epochs": -1}, InvalidRequestError, "epochs: got -1, expected 1 or more"),
        ({"batch_size": -1}, InvalidRequestError, "batch_size: got -1"),
        ({"seed": -1}, InvalidRequestError, "seed: got -1"),
        ({"validation_split": 1.0}, InvalidRequestError, "validation_split: got 1.0"),
        ({"validation_split": math.nan}, InvalidRequestError, "validation_split: got nan"),
        ({"validation_split": 0.9}, InvalidRequestError, "leaves none"),
        ({"publish_label": "a b"}, InvalidRequestError, "publish_label: got 'a b'"),
        ({"data": ()}, MissingInputError, "training data: no x for input 'x'"),
        ({"data": (array("x"),)}, InvalidRequestError, "training data: no y; expected targets for 'y'"),
        ({"data": (array("y"),)}, MissingInputError, "no x for input 'x'"),
        ({"data": (array("x"), array("x"), array("y"))}, InvalidRequestError, "x 'x': given twice"),
        ({"data": (array("x", "a"), array("y"))}, UnknownInputError, "x: unknown input 'a'"),
        ({"data": (array("x"), array("y", "a"))}, UnknownOutputError, "y: unknown output 'a'"),
        ({"data": (array("x"), array("y", shape=(5, 2)))}, InvalidTensorError, "x 'x' has 6, y 'y' has 5"),
        ({"data": (array("x", shape=(6, 3)), array("y"))}, InvalidTensorError, "x 'x': got length 3 on axis 1"),
        ({"data": (array("x", dtype="string"), array("y"))}, InvalidTensorError, "got dtype string"),
        ({"data": (array("x", shape=()), array("y"))}, InvalidTensorError, "got a scalar"),
        ({"data": (array("x", shape=(-1, 2)), array("y"))}, InvalidTensorError, "no negative length"),
        ({"data": (array("x", shape=(0, 2)), array("y", shape=(0, 2)))}, InvalidTensorError, "got no rows"),
        ({"data": (array("x", shape=(2**60, 2)), array("y"))}, TooLargeError, "too large"),
        ({"data": (array("x", shape=(10**6, 2)), array("y", shape=(10**6, 2)))}, TooLargeError, "at most 1000000"),
        ({"data": (*GOOD.data, *VALIDATION), "validation_split": 0.5}, InvalidRequestError, "exclude each other"),
        ({"data": (*GOOD.data, VALIDATION[0])}, InvalidRequestError, "validation data: no y"),
        ({"data": (*GOOD.data, *(array("sample_weight", "y"),) * 600)}, InvalidRequestError, "at most 512"),
        ({"data": (array(shape=(2**62,) * 10**5), array("y"))}, InvalidTensorError, "data 0: got 100000 axes"),
        ({"data": (array(shape=(6, 0, 2**62)), array("y"))}, TooLargeError, "too large"),
        ({"data": (array("x", "n" * 10**6), array("y"))}, InvalidRequestError, "data 0: got a text of 1000000"),
        ({"epochs": 2**31 - 1}, InvalidRequestError, "epochs: got 2147483647, expected at most 100000"),
        ({"description": "d" * 10**6}, InvalidRequestError, "description: got 1000000 characters"),
        ({"monitor": "m" * 10**6}, InvalidRequestError, "monitor: got 1000000 characters"),
        ({"publish_label": "l" * 10**6}, InvalidRequestError, "publish_label: got 1000000 characters"),
        ({"publish_if_improved": "l" * 10**6}, InvalidRequestError, "publish_if_improved: got 1000000 characters"),
        ({"freeze": ("a",) * 10**5}, InvalidRequestError, "freeze: got 100000 patterns, expected at most 1000"),
        ({"freeze": ("!" + "*a" * 1000,)}, InvalidRequestError, "freeze: got a text of 2001 characters"),
        ({"callbacks": ("TerminateOnNaN",) * 51}, InvalidRequestError, "callbacks: got 51 callbacks"),
        ({"class_weight": dict.fromkeys(range(10**6), 1.0)}, InvalidRequestError, "class_weight: got 1000000 classes"),
        ({"class_weight": {0: 1e308}}, InvalidRequestError, "class_weight: got 1e+308 for class 0"),
        ({"class_weight": {0: math.nan}}, InvalidRequestError, "class_weight: got nan for class 0"),
    ],
)
def test_requests_that_do_not_fit(changes, error, text):
    with pytest.raises(error) as caught:
        check(replace(GOOD, **changes))
    assert text in str(caught.value)


def test_a_request_comes_back_from_its_folder(tmp_path):
    request = replace(check(GOOD), compile={"loss": {"y": "mse"}}, class_weight={0: 1.0, 1: 5.0}, seed=7)
    request.write(tmp_path)
    assert RunRequest.read(tmp_path) == request


# Spool.

X = np.arange(12, dtype=np.float32).reshape(6, 2)


def test_chunks_of_arrays_that_take_turns_become_arrays(tmp_path):
    arrays = (array(), array("y", dtype="bfloat16", shape=(6,)), array("sample_weight", dtype="bool", shape=(6,)))
    y, w = np.arange(6, dtype=np.float32), np.array([True, False] * 3)
    with Upload(tmp_path, arrays) as upload:
        for start in (0, 2, 4):
            rows = slice(start, start + 2)
            upload.add(0, tensors.encode_data(X[rows], "float32"))
            upload.add(1, tensors.encode_data(y[rows], "bfloat16"))
            upload.add(2, tensors.encode_data(w[rows], "bool"))
        upload.check_complete()
    for got, expected in zip(read_data(tmp_path, arrays), (X, y, w), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_arrays_without_elements_need_no_chunk(tmp_path):
    arrays = (array(shape=(6, 0)),)
    with Upload(tmp_path, arrays) as upload:
        upload.check_complete()
    assert read_data(tmp_path, arrays)[0].shape == (6, 0)


@pytest.mark.parametrize(
    ("index", "data", "error", "text"),
    [
        (1, b"", InvalidRequestError, "got a chunk for array 1, but the spec declares 1 arrays"),
        (-1, b"", InvalidRequestError, "got a chunk for array -1"),
        (0, bytes(7), InvalidTensorError, "x: got a chunk of 7 bytes, expected whole rows of 8 bytes each"),
        (0, bytes(56), InvalidRequestError, "x: got more than the 6 rows"),
    ],
)
def test_chunks_that_do_not_fit(tmp_path, index, data, error, text):
    with Upload(tmp_path, (array(),)) as upload, pytest.raises(error) as caught:
        upload.add(index, data)
    assert text in str(caught.value)


def test_chunks_of_text_become_rows(tmp_path):
    texts = np.array([["", "a"], ["über", "b" * 300], ["", ""]], object)
    arrays = (array("x", dtype="string", shape=(3, 2)), array())
    with Upload(tmp_path, arrays) as upload:
        upload.add(0, tensors.encode_data(texts[:1], "string"))
        upload.add(1, X.tobytes())
        upload.add(0, tensors.encode_data(texts[1:], "string"))
        upload.check_complete()
    text, numbers = read_data(tmp_path, arrays)
    assert text.shape == (3, 2)
    assert text.take(slice(0, 3)).tolist() == [[t.encode() for t in row] for row in texts.tolist()]
    np.testing.assert_array_equal(numbers, X)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"\x01\0\0", InvalidTensorError, "got a chunk that ends within text 0, expected whole texts"),
        (b"\x01\0\0\0", InvalidTensorError, "got a chunk that ends within text 0"),
        (b"\x01\0\0\0a\xff\xff\xff\xffb", InvalidTensorError, "got a chunk that ends within text 1"),
        (bytes(4), InvalidTensorError, "got a chunk of 1 texts, expected whole rows of 2 texts each"),
        (bytes(4 * 8), InvalidRequestError, "got more than the 3 rows that the spec declares"),
        (b"\x0b\0\0\0abcdefghijk" + bytes(4), TooLargeError, "got more than 10 bytes of text"),
    ],
)
def test_chunks_of_text_that_do_not_fit(tmp_path, data, error, text):
    with Upload(tmp_path, (array("x", dtype="string", shape=(3, 2)),), 10) as upload:
        with pytest.raises(error) as caught:
            upload.add(0, data)
        assert text in str(caught.value)
        with pytest.raises(IncompleteDataError, match="the stream ended after 0 rows, expected 3"):
            upload.check_complete()


def test_text_without_a_byte(tmp_path):
    arrays = (array("x", dtype="string", shape=(3,)), array("x", dtype="string", shape=(3, 0)))
    with Upload(tmp_path, arrays) as upload:
        upload.add(0, bytes(12))
        upload.check_complete()
    texts, none = read_data(tmp_path, arrays)
    assert texts.take(slice(0, 3)).tolist() == [b"", b"", b""]
    assert none.take(slice(0, 3)).shape == (3, 0)


def test_rows_that_are_missing_are_told(tmp_path):
    with Upload(tmp_path, (array(),)) as upload:
        upload.add(0, bytes(16))
        with pytest.raises(IncompleteDataError, match="x: the stream ended after 2 rows, expected 6"):
            upload.check_complete()


def test_the_data_is_mapped_and_not_read(tmp_path):
    with Upload(tmp_path, (array(),)) as upload:
        upload.add(0, X.tobytes())
    assert isinstance(read_data(tmp_path, (array(),))[0], np.memmap)
    assert array_file(tmp_path, 0).exists()


# Events.


def step(number):
    return events.Step(1, 1, number, 9, {"loss": math.nan})


EVERY_KIND = [
    events.Accepted("m", 1, 10),
    events.Queued(2),
    events.Started(1, 2, 3),
    events.Step(1, 2, 3, 4, {"loss": 0.5}),
    events.Epoch(1, 2, {"loss": 0.5}, 0.25),
    events.Log("text"),
    events.Resumed(1, 2),
    events.Checkpoint("e1s2", 1, 2, 300),
    events.Paused(1, 2, "the disk is full"),
    events.Finished(3, {"loss": 0.5}, 1.5, "no improvement"),
    events.Failed("reason", 1, 2, resumable=True),
    events.Cancelled(1),
]


def test_every_kind_comes_back_from_the_file(tmp_path):
    writer = EventWriter(tmp_path)
    for what in EVERY_KIND:
        writer.write(what)
    writer.close()
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    read = [events.Event.from_line(line) for line in lines]
    assert [event.what for event in read] == EVERY_KIND
    assert {type(what) for what in EVERY_KIND} == set(events.KINDS.values())
    assert [event.sequence for event in read] == list(range(len(EVERY_KIND)))


def test_a_last_event_that_others_follow_was_not_the_last(tmp_path):
    log = EventLog(tmp_path)
    events.append(tmp_path, events.Failed("killed", 1, 2, resumable=True))
    log.refresh()
    assert log.ended
    events.append(tmp_path, events.Queued(0))
    log.refresh()
    assert not log.ended
    assert [event.what for event in log.events] == [events.Log("interrupted: killed"), events.Queued(0)]


def test_of_step_events_in_a_row_only_the_newest_is_kept(tmp_path):
    writer = EventWriter(tmp_path)
    for what in (step(1), step(2), events.Log("a"), step(3), step(4)):
        writer.write(what)
    writer.close()
    log = EventLog(tmp_path)
    log.refresh()
    assert [event.sequence for event in log.events] == [1, 2, 4]
    assert [event.sequence for event in log.since(2)] == [2, 4]


def test_a_writer_goes_on_behind_half_a_line_of_a_killed_one(tmp_path):
    events.append(tmp_path, events.Log("a"))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"sequence": 1, "ti')
    log = EventLog(tmp_path)
    log.refresh()
    assert len(log.events) == 1
    events.append(tmp_path, events.Failed("killed"))
    log.refresh()
    assert [(event.sequence, event.what) for event in log.events] == [
        (0, events.Log("a")),
        (1, events.Failed("killed")),
    ]


def test_watchers_are_called_for_what_comes_while_they_watch(tmp_path):
    log, called = EventLog(tmp_path), []
    with log.watchers.watched(lambda: called.append(len(log.events))):
        log.refresh()
        assert called == []
        events.append(tmp_path, events.Log("a"))
        log.refresh()
        log.put(events.Log("b"))
        assert called == [1, 2]
    log.put(events.Log("c"))
    assert called == [1, 2]
    assert [event.what for event in log.since(1)] == [events.Log("b"), events.Log("c")]


# Compile settings and fit's arguments.


class Compiled:
    compiled = True
    optimizer = "the file's, with its state"
    compile_problem = ""
    compile_config = {
        "optimizer": {},
        "loss": "mse",
        "loss_weights": [1.0],
        "metrics": ["mae"],
        "weighted_metrics": None,
    }

    def compile(self, **arguments):
        self.arguments = arguments


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({"optimizer": "sgd"}, {"optimizer": "sgd", "loss": "mse", "loss_weights": [1.0], "metrics": ["mae"]}),
        ({"loss": "mae"}, {"optimizer": Compiled.optimizer, "loss": "mae"}),
        (
            {"metrics": ["mse"]},
            {"optimizer": Compiled.optimizer, "loss": "mse", "loss_weights": [1.0], "metrics": ["mse"]},
        ),
    ],
)
def test_what_the_request_leaves_out_is_as_in_the_file(settings, arguments):
    model = Compiled()
    compile_model(model, settings)
    assert model.arguments == arguments


def test_without_settings_the_file_is_not_compiled_anew():
    model = Compiled()
    compile_model(model, {})
    assert not hasattr(model, "arguments")


@pytest.fixture(name="custom")
def _custom(tmp_path):
    """A model from a file, half-trained with a loss and a metric that only its author has."""
    inputs = layergraph.Input((2,))
    model = layergraph.Model(inputs, layergraph.layers.Dense(1)(inputs))
    model.compile(layergraph.optimizers.Adam(0.125), "mse", metrics=["mae"])
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    model.save(tmp_path / "model.keras")
    model = layergraph.load_model(tmp_path / "model.keras")
    model.compile_config = {**model.compile_config, "loss": "my_loss", "metrics": ["my_metric"]}
    return model


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "sgd"}])
def test_a_loss_of_the_request_replaces_one_that_only_its_author_has(custom, optimizer):
    compile_model(custom, {"loss": "mse", **optimizer})
    custom.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    if not optimizer:
        assert (float(custom.optimizer.learning_rate), custom.optimizer.iterations) == (0.125, 2)


@pytest.mark.parametrize("settings", [{}, {"metrics": ["mae"]}, {"optimizer": "sgd"}])
def test_a_loss_that_only_its_author_has_is_named(custom, settings):
    start = "" if "optimizer" in settings else "the compile settings of the model file can't be used, give a loss: "
    with pytest.raises(ConfigError, match=f"^{start}unknown loss 'my_loss'"):
        compile_model(custom, settings)


def test_fit_gets_dicts_by_name():
    data = (array("x", "x"), array("y", "y"), array("sample_weight", ""), *VALIDATION)
    arguments = fit_arguments(replace(GOOD, data=data, epochs=3), [1, 2, 3, 4, 5])
    assert arguments["x"] == {"x": 1}
    assert arguments["y"] == {"y": 2}
    assert arguments["sample_weight"] == 3
    assert arguments["validation_data"] == ({"": 4}, {"": 5})
    assert arguments["epochs"] == 3


# Workers that ended.


@pytest.mark.parametrize(
    ("codes", "text", "kind"),
    [
        ({1: -9, 0: workers.LOST_PEER}, "worker 1 of the run was ended by signal SIGKILL", "killed"),
        # What couldn't be ended by SIGTERM in time is killed, too.
        ({1: -9, 0: -9}, "worker 1 of the run was ended by signal SIGKILL", "killed"),
        ({0: -6, 1: -9}, "worker 1 of the run was ended by signal SIGKILL", "killed"),
        ({0: -6, 1: -15}, "worker 0 of the run was ended by signal SIGABRT", "killed"),
        ({0: workers.LOST_PEER, 1: -15}, "a worker of the run was lost", "killed"),
        ({1: 1, 0: -15}, "internal error in worker 1; see the run's log", "failed"),
    ],
)
def test_the_worker_that_ended_first_is_told(codes, text, kind, tmp_path):
    outcome = workers.lost(tmp_path, {rank: SimpleNamespace(exitcode=code) for rank, code in codes.items()})
    assert outcome.reason.startswith(text)
    assert outcome.kind == kind


# Events of long runs.


def test_texts_of_an_outcome_have_a_length(tmp_path):
    RunResult("failed", "x" * 10**6, withheld="y" * 10**6).write(tmp_path)
    assert (tmp_path / "outcome.json").stat().st_size < 4000
    assert RunResult.read(tmp_path).reason.endswith("xxx ...")


def test_of_a_metric_of_many_numbers_the_first_are_told():
    told = numbers({"loss": 0.5, "f1": np.arange(10**6)})
    assert len(told) == 1001
    assert (told["loss"], told["f1[999]"]) == (0.5, 999.0)
