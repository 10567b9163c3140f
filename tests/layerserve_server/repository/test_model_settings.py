"""Settings of a model: what its file may say, what a wrong one does, and that changes take effect while it serves."""

import json
import os
import time

import pytest
from layerserve_server.access.reserved import Restriction
from layerserve_server.errors import NotLoadedError, UnknownVersionError, VersionFailedError
from layerserve_server.inference.runner import ModelRunner
from layerserve_server.repository.model_settings import (
    MAX_BYTES,
    ModelSettings,
    ModelSettingsError,
    parse_settings,
    read_content,
)
from layerserve_server.repository.version_states import State


@pytest.fixture
def tell(tmp_path):
    """Writes the settings of "double", or removes them."""

    def write(text, name="double/layerserve.toml"):
        path = tmp_path / "models" / name
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return path

    return write


def answering(repository, *choice):
    with repository.leases.lease(*choice) as version:
        return version.version, version.model.offset


def states(repository):
    return {one.version: one.state for one in repository.catalogue.describe()}


def errors_counted(repository, model="double"):
    name = "layerserve_model_settings_errors_total"
    return repository._observer.registry.get_sample_value(name, {"model": model}) or 0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("max_batch_rows = 'x'", "max_batch_rows: got 'x', expected a valid integer"),
        ("max_batch_rows = 1.0", "max_batch_rows: got 1.0, expected a valid integer"),
        ("max_batch_rows = true", "max_batch_rows: got True, expected a valid integer"),
        ("max_queue_rows = 0", "max_queue_rows: got 0, expected greater than or equal to 1"),
        ("engine = 'fast'", "engine: got 'fast', expected 'auto', 'eager', 'cuda', 'onnxruntime'"),
        ("precision = 'int4'", "precision: got 'int4', expected 'float32', 'bfloat16', 'float16', 'int8' or 'tf32'"),
        ("version_policy = 'newest'", "version_policy: got 'newest', expected 'latest', 'all' or 'specific'"),
        ("golden_rtol = nan", "golden_rtol: got nan, expected"),
        ("max_batch_row = 3", "unknown setting 'max_batch_row'; did you mean 'max_batch_rows'?"),
        ("zzz = 3", "unknown setting 'zzz'; expected one of version_policy, latest_versions,"),
        ("[table]\nx = 1", "unknown setting 'table'"),
        ("specific_versions = [1]", "specific_versions: got [1] with version_policy 'latest', expected none"),
        ("version_policy = 'specific'", "specific_versions: got [] with version_policy 'specific', expected at least"),
        ("version_policy = 'specific'\nspecific_versions = [0]", "specific_versions.0: got 0, expected greater than"),
        ("version_policy = 'all'\nlatest_versions = 2", "latest_versions: got a value with version_policy 'all'"),
        (
            "version_policy = 'specific'\nspecific_versions = [1, 2]\ndefault_version = 3",
            "default_version: got 3, expected one of 1, 2",
        ),
        ("nice = -1", "nice: got -1, expected greater than or equal to 0"),
        ("x = ", "Invalid value"),
        ("a" * MAX_BYTES + " = 1", f"got more than {MAX_BYTES} bytes"),
        ("x = " + "[" * 50_000, "layerserve.toml: "),
        ("nice = " + "1" * 5000, "layerserve.toml: "),
        ("max_batch_rows = 0x" + "f" * 50_000, "got an integer of 200000 bits, expected at most 64"),
        ("callers = [{a = 9223372036854775808}]", "got an integer of 64 bits"),
    ],
)
def test_a_wrong_file_is_told_with_its_name_the_key_and_what_may_be_there(text, error):
    with pytest.raises(ModelSettingsError) as raised:
        parse_settings(text.encode(), "layerserve.toml")
    assert str(raised.value).startswith("layerserve.toml: ")
    assert error in str(raised.value)


def test_a_file_may_set_everything():
    text = """
version_policy = "specific"
specific_versions = [3, 1]
default_version = 1
load_retries = 2
load_retry_seconds = 1
warm_up_rows = 4
golden_rtol = 0
golden_atol = 1e-3
callers = ["ci", "team-*"]
max_batch_rows = 5
max_queue_rows = 6
pad_sequences = true
engine = "onnxruntime"
precision = "int8"
compute_threads = 7
keep_loaded = true
nice = 8
class_labels = { y = "labels.txt" }
canary = "5 %"
canary_label = "next"

[signatures.serving_default]
inputs = { images = "x" }
outputs = { scores = "y" }
"""
    found = parse_settings(text.encode(), "f")
    assert found.model_fields_set == set(ModelSettings.model_fields) - {"latest_versions"}
    assert (found.specific_versions, found.golden_rtol, found.load_retry_seconds) == ((3, 1), 0.0, 1.0)


def test_a_file_is_read_as_a_regular_file_only(tmp_path):
    path = tmp_path / "layerserve.toml"
    assert read_content(path) is None
    path.symlink_to(__file__)
    with pytest.raises(ModelSettingsError, match=r"layerserve\.toml: Too many levels of symbolic links"):
        read_content(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelSettingsError, match="expected a regular file"):
        read_content(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelSettingsError):
        read_content(path)


def test_a_wrong_file_at_the_first_load_fails_its_model_alone_until_it_is_right(make, put, tell):
    put("good", offset=1)
    put(offset=2)
    tell("nice = 'x'")
    repository = make()
    assert answering(repository, "good") == (1, 1)
    (one,) = repository.catalogue.describe("double")
    assert one.state is State.FAILED
    assert one.reason.startswith("layerserve.toml: nice: got 'x', expected a valid integer")
    with pytest.raises(VersionFailedError, match="nice: got 'x'"):
        repository.leases.lease("double")
    repository.scan()
    assert errors_counted(repository) == 1
    tell("nice = 3")
    repository.scan()
    assert answering(repository, "double") == (1, 2)
    assert repository.catalogue.describe("double")[0].reason == ""


def test_a_file_that_becomes_wrong_leaves_the_earlier_settings_and_is_shown_and_counted(make, put, tell):
    put(version=1, offset=1)
    put(version=2, offset=2)
    tell("default_version = 1")
    repository = make()
    assert answering(repository, "double") == (1, 1)
    for number, text in enumerate(("default_version = 'x'", "default_version = 'y'"), 1):
        tell(text)
        for _ in range(2):
            repository.scan()
        assert answering(repository, "double") == (1, 1)
        assert {"default_version: got" in one.reason for one in repository.catalogue.describe()} == {True}
        assert {one.state for one in repository.catalogue.describe()} == {State.READY, State.AVAILABLE}
        assert errors_counted(repository) == number
    tell("default_version = 1")  # as it was
    repository.scan()
    assert {one.reason for one in repository.catalogue.describe()} == {""}
    tell(None)
    repository.scan()
    assert answering(repository, "double") == (2, 2)


def test_a_worker_that_starts_while_the_file_is_wrong_has_the_settings_in_force(make, put, tell):
    for version in (1, 2):
        put(version=version, offset=version)
    tell("default_version = 1\ngolden_rtol = 0.5\nversion_policy = 'specific'\nspecific_versions = [1, 2]")
    main = make()
    assert main.catalogue.in_force_without_files() == {}
    tell("default_version = 'x'")
    main.scan()
    in_force = json.loads(json.dumps(main.catalogue.in_force_without_files()))
    worker = make(scan=False)
    worker.open(None, in_force)
    assert worker.catalogue.settings("double") == main.catalogue.settings("double")
    assert worker.catalogue.serving("double") == main.catalogue.serving("double")
    assert answering(worker, "double") == (1, 1)
    tell("")
    worker.scan()
    assert answering(worker, "double") == (2, 2)


def test_a_restarted_worker_has_the_versions_that_the_others_have(make, put):
    put(version=1, offset=1)
    main = make()
    put(version=2, offset=2)
    put("new", offset=3)
    worker = make(scan=False)
    worker.open(main.catalogue.versions())
    assert worker.catalogue.serving("double") == main.catalogue.serving("double")
    assert [one.name for one in worker.catalogue.describe()] == ["double"]


def test_a_model_file_in_the_root_may_have_its_settings_beside_it_or_in_its_folder(
    make, put, tell, tmp_path, load_fake
):
    put(offset=3).rename(tmp_path / "models" / "flat.keras")
    seen = []
    tell("nice = 4", "flat.toml")
    repository = make(load=lambda path, settings: seen.append(settings.nice) or load_fake(path))
    assert seen == [4]
    tell("nice = 5", "flat/layerserve.toml")
    repository.scan()
    (one,) = repository.catalogue.describe("flat")
    assert (one.state, one.reason) == (State.READY, "got both layerserve.toml and flat.toml, expected one of the two")
    tell(None, "flat.toml")
    repository.scan()
    assert seen == [4, 5]
    assert repository.catalogue.describe("flat")[0].reason == ""


def test_settings_beside_a_deleted_file_in_the_root_hold_for_the_other_versions(make, put, tell, tmp_path):
    """Also on a server that has never seen the file."""
    put(version=2).parents[1].rename(tmp_path / "models" / "flat")
    tell('callers = ["ann"]', "flat.toml")
    assert make().catalogue.restrictions == {"flat": Restriction(("ann",))}


@pytest.mark.parametrize("text", ["engine = 'eager'", "compute_threads = 3", "golden_atol = 1.0", "nice = 2"])
def test_what_belongs_to_loading_is_loaded_aside_and_swapped_in(make, put, tell, load_fake, text):
    put(offset=1)
    answers = []

    def load(path, settings):
        if settings != ModelSettings():
            answers.append(answering(repository, "double"))
        return load_fake(path)

    repository = make(load=load)
    lease = repository.leases.lease("double")
    tell(text)
    repository.scan()
    assert answers == [(1, 1)]
    with repository.leases.lease("double") as now:
        assert now is not lease.version
        assert now.settings == parse_settings(text.encode(), "f")
    assert lease.version.retired
    lease.end()
    repository.scan()
    assert len(answers) == 1
    assert states(repository) == {1: State.READY}


def test_settings_that_the_model_can_not_have_leave_it_as_it_is(make, put, tell, load_fake):
    put(offset=1)

    def load(path, settings):
        if settings.engine:
            raise VersionFailedError("setting 'engine': 'onnxruntime' can't run the model")
        return load_fake(path)

    repository = make(load=load)
    tell("engine = 'onnxruntime'")
    for _ in range(2):
        repository.scan()
    assert answering(repository, "double") == (1, 1)
    (one,) = repository.catalogue.describe()
    assert one.state is State.READY
    assert one.reason.startswith("the model's settings have changed and it can't be loaded with them; the previous one")
    loads = repository._observer.registry.get_sample_value("layerserve_model_load_failures_total", {"model": "double"})
    assert loads == 1
    tell(None)
    repository.scan()
    assert repository.catalogue.describe()[0].reason == ""


def test_limits_of_the_queue_change_in_place(make, put, tell):
    put(offset=1)
    repository = make(queue_limits=lambda model: (model.max_batch_rows or 8, model.max_queue_rows or 16))
    with repository.leases.lease("double") as version:
        tell("max_batch_rows = 3\nmax_queue_rows = 5")
        repository.scan()
        assert not version.retired
        assert (version.queue.max_batch_rows, version.queue.max_queue_rows) == (3, 5)
        tell(None)
        repository.scan()
        assert (version.queue.max_batch_rows, version.queue.max_queue_rows) == (8, 16)


@pytest.mark.parametrize(
    ("text", "loaded", "default"),
    [
        ("", {4}, 4),
        ("latest_versions = 2", {3, 4}, 4),
        ("latest_versions = 9", {1, 2, 3, 4}, 4),
        ("version_policy = 'all'", {1, 2, 3, 4}, 4),
        ("version_policy = 'specific'\nspecific_versions = [1, 3, 9]", {1, 3}, 3),
        ("default_version = 2", {2}, 2),
        ("default_version = 2\nlatest_versions = 2", {2, 4}, 2),
        ("version_policy = 'specific'\nspecific_versions = [1, 3]\ndefault_version = 1", {1, 3}, 1),
    ],
)
@pytest.mark.parametrize("later", [False, True], ids=["from the start", "while it serves"])
def test_the_policy_chooses_what_is_loaded(make, put, tell, text, loaded, default, later):
    for version in range(1, 5):
        put(version=version, offset=version)
    if not later:
        tell(text)
    repository = make()
    if later:
        tell(text)
        repository.scan()
    assert {number for number, state in states(repository).items() if state is State.READY} == loaded
    assert answering(repository, "double") == (default, default)
    assert [one.version for one in repository.catalogue.describe() if one.default] == [default]


def test_versions_that_are_not_in_the_list_are_refused_and_those_of_latest_are_loaded_on_demand(make, put, tell):
    for version in (1, 2):
        put(version=version, offset=version)
    repository = make()
    assert answering(repository, "double", 1) == (1, 1)
    tell("version_policy = 'specific'\nspecific_versions = [2]")
    repository.scan()
    for lease in (repository.leases.lease, repository.leases.lease_loaded):
        with pytest.raises(NotLoadedError, match="version 1 isn't served: the model's settings serve version 2 only"):
            lease("double", 1)
    assert states(repository) == {1: State.UNLOADED, 2: State.READY}


def test_a_list_is_followed_without_a_gap(make, put, tell, load_fake):
    """The version that isn't in it any more answers until one that is has been loaded; also where that fails."""
    for version in (1, 2):
        put(version=version, offset=version)
    put(version=3, text="{")
    tell("version_policy = 'specific'\nspecific_versions = [1]")
    answers = []

    def load(path):
        if path.parent.name == "2":
            answers.append(answering(repository, "double"))
        return load_fake(path)

    repository = make(load=load)
    tell("version_policy = 'specific'\nspecific_versions = [3]")
    repository.scan()
    assert answering(repository, "double") == (1, 1)
    assert states(repository) == {1: State.READY, 2: State.UNLOADED, 3: State.FAILED}
    tell("version_policy = 'specific'\nspecific_versions = [2]")
    repository.scan()
    assert answers == [(1, 1)]
    assert answering(repository, "double") == (2, 2)
    assert states(repository)[1] is State.UNLOADED


def test_a_default_that_fails_leaves_the_one_before(make, put, tell):
    put(version=1, offset=1)
    put(version=2, text="{")
    put(version=3, offset=3)
    repository = make()
    for version in (2, 9):
        tell(f"default_version = {version}")
        repository.scan()
        assert answering(repository, "double") == (3, 3)
    tell("default_version = 1")
    repository.scan()
    assert answering(repository, "double") == (1, 1)
    assert states(repository)[3] is State.AVAILABLE
    # At a start there is none before it, and no other version is passed off as it.
    for version, error in ((2, VersionFailedError), (9, UnknownVersionError)):
        tell(f"default_version = {version}")
        with pytest.raises(error):
            make().leases.lease("double")


def test_what_fails_to_load_is_tried_again_as_often_as_the_settings_say(make, put, tell, load_fake, wait_until):
    put(offset=1)
    tell("load_retries = 2\nload_retry_seconds = 0.05")
    tries = []

    def load(path):
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise OSError(5, "Input/output error")
        return load_fake(path)

    repository = make(load=load)
    (one,) = repository.catalogue.describe()
    assert (one.state, one.reason) == (State.FAILED, "Input/output error (to be tried again; 2 tries are left)")
    wait_until(lambda: repository.rollout.retry() or states(repository)[1] is State.READY)
    assert len(tries) == 3
    assert tries[1] - tries[0] >= 0.05
    assert tries[2] - tries[1] >= 0.1
    assert repository.catalogue.describe()[0].reason == ""


@pytest.mark.parametrize("again", [lambda one: one.scan(), lambda one: one.rollout.retry()], ids=["scan", "retry"])
def test_retries_end(make, put, tell, wait_until, again):
    put(offset=1)
    tell("load_retries = 1\nload_retry_seconds = 0.01")
    tries = []

    def load(path):
        tries.append(path)
        raise OSError(5, "Input/output error")

    repository = make(load=load)
    wait_until(lambda: again(repository) or len(tries) == 2)
    time.sleep(0.05)
    again(repository)
    assert len(tries) == 2
    assert repository.catalogue.describe()[0].reason == "Input/output error"


def test_a_version_is_warmed_up_before_it_serves(make, put, tell, load_fake):
    put(version=1, offset=1)
    tell("warm_up_rows = 5")
    models = []
    repository = make(load=lambda path: models.append(load_fake(path)) or models[-1])
    assert models[0].batches[-2:] == [1, 5]
    with repository.leases.lease("double") as version:
        assert version.model is models[0]


def test_a_version_that_fails_at_its_warm_up_does_not_serve(make, put, tell, load_fake):
    put(version=1, offset=1)
    tell("warm_up_rows = 5")

    def load(path):
        model = load_fake(path)
        if path.parent.name == "2":
            plan = model.plan

            def broken(outputs=None):
                made = plan(outputs)
                made.run = lambda inputs: (_ for _ in ()).throw(MemoryError("no memory for 5 rows"))
                return made

            model.plan = broken
        return model

    repository = make(load=load)
    put(version=2, offset=2)
    repository.scan()
    repository.scan()
    assert answering(repository, "double") == (1, 1)
    assert states(repository)[2] is State.FAILED
    assert repository.catalogue.describe()[0].reason == "warm_up_rows: computing 5 rows failed: no memory for 5 rows"


def test_a_version_without_rows_to_warm_up_with_serves_all_the_same(make, put, tell, caplog, monkeypatch):
    put(version=1, offset=1)
    tell("warm_up_rows = 5")
    monkeypatch.setattr(ModelRunner, "warm_up", lambda *_: False)
    assert answering(make(), "double") == (1, 1)
    text = "model 'double' version 1 isn't warmed up: no random inputs were found that it accepts"
    assert text in caplog.messages
