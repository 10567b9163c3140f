"""Random sequences of changes while callers predict: none fails, and each answer is that of the version it names."""

import hashlib
import json
import random
import threading

import pytest
from layerserve_server.errors import NotLoadedError, RefusedChangeError, UnavailableError, VersionFailedError
from layerserve_server.repository import memory_limit
from layerserve_server.repository.audit import AuditLog
from layerserve_server.repository.changes import Changes
from layerserve_server.repository.management import Manager
from layerserve_server.repository.staging import DeclaredFile
from layerserve_server.repository.uploads import Uploads
from layerserve_server.repository.version import GRAPH_BYTES

CALLERS, STEPS = 8, 40


class Callers:
    """Threads that ask for the default, for a label, and for versions by number, until they are stopped."""

    def __init__(self, repository, offsets):
        self.repository, self.offsets = repository, offsets
        self.stop, self.problems, self.answers = threading.Event(), [], 0
        choices = [("double", None, None), ("double", None, "stable"), ("away", None, None), ("double", None, None)]
        self.threads = [threading.Thread(target=self.call, args=(choices[number % 4],)) for number in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def call(self, choice):
        while not self.stop.is_set() and not self.problems:
            try:
                with self.repository.leases.lease_loaded(*choice) or self.repository.leases.lease(*choice) as version:
                    expected = self.offsets[choice[0], version.version]
                    got = version.model.offset
                    assert not version.queue._closed
                self.answers += 1
                self.stop.wait(0.0005)
                if got != expected:
                    self.problems.append((choice, version.version, got, expected))
            except (NotLoadedError, UnavailableError) as error:
                # A model that is unloaded, and then being loaded.
                if choice[0] != "away":
                    self.problems.append((choice, error))
            except Exception as error:
                self.problems.append((choice, error))

    def close(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


class RandomChanges:
    """Changes of a repository, chosen at random, and what they must lead to."""

    def __init__(self, repository, manager, uploads, offsets, tmp_path, seed):
        self.uploads = uploads
        self.repository, self.manager, self.offsets, self.tmp_path = repository, manager, offsets, tmp_path
        self.random = random.Random(seed)
        self.runs = 0

    def versions(self):
        return [one.version for one in self.repository.catalogue.describe("double")]

    def labels(self):
        return self.repository.catalogue.labels("double")

    def step(self):
        kinds = [self.upload, self.train, self.label, self.pin, self.unpin, self.roll_back, self.delete, self.away]
        self.random.choice([*kinds, self.upload, self.settings, self.broken])()

    def offset(self):
        return self.random.randrange(10**6)

    def upload(self):
        content = json.dumps({"offset": self.offset()}).encode()
        digest = hashlib.sha256(content).hexdigest()
        staged = self.uploads.stage("double", [DeclaredFile("model.keras", len(content), digest)], "", "me")
        staged.add(0, content)
        staged.complete()
        # Noted before it serves: callers look it up at once.
        self.offsets["double", self.repository.publisher.highest("double") + 1] = json.loads(content)["offset"]
        version, change = self.uploads.publish(staged, "", "me")
        staged.discard()
        assert version == change.versions[0].version

    def broken(self):
        digest = hashlib.sha256(b"{").hexdigest()
        staged = self.uploads.stage("double", [DeclaredFile("model.keras", 1, digest)], "", "me")
        staged.add(0, b"{")
        staged.complete()
        with pytest.raises(VersionFailedError):
            self.uploads.publish(staged, "", "me")
        staged.discard()

    def train(self):
        self.runs += 1
        offset = self.offset()
        result = self.tmp_path / "result.keras"
        result.write_text(json.dumps({"offset": offset}))
        self.offsets["double", self.repository.publisher.highest("double") + 1] = offset
        label = self.random.choice(["", "stable", "trained"])
        version = self.repository.publisher.publish("double", result, run=f"r{self.runs}", base_version=1, label=label)
        assert not label or self.labels()[label] == version

    def label(self):
        name, version = self.random.choice(["stable", "canary"]), self.random.choice(self.versions())
        self.manager.set_label("double", name, version, "me")
        with self.repository.leases.lease("double", None, name) as leased:
            assert leased.version == version

    def pin(self):
        version = self.random.choice(self.versions())
        self.manager.pin("double", version, "me")
        assert self.repository.catalogue.describe_one("double").version == version

    def unpin(self):
        self.manager.unpin("double", "me")
        assert self.repository.catalogue.describe_one("double").version == max(self.versions())

    def roll_back(self):
        default = self.repository.catalogue.describe_one("double").version
        lower = [version for version in self.versions() if version < default]
        if lower:
            assert self.manager.roll_back("double", 0, "me")[0] == max(lower)

    def delete(self):
        version = self.random.choice(self.versions())
        force = self.random.random() < 0.5
        try:
            self.manager.delete_version("double", version, "me", force=force)
        except RefusedChangeError:
            assert version in self.labels().values() or not force
        else:
            assert version not in self.versions()

    def settings(self):
        texts = ["", "latest_versions = 2", "version_policy = 'all'", "nice = 1", "max_batch_rows = 3", "wrong = 1"]
        path = self.tmp_path / "models" / "double" / "layerserve.toml"
        path.with_suffix(".new").write_text(self.random.choice(texts))
        path.with_suffix(".new").rename(path)
        self.repository.scan()

    def away(self):
        if self.repository.catalogue.control("away").loaded is False:
            self.manager.load("away", "me")
        else:
            self.manager.unload("away", "me")


@pytest.mark.parametrize(("seed", "graphs"), [(1, 0), (2, 0), (3, 0), (4, 6), (5, 6)])
def test_no_request_fails_whatever_is_changed(make, put, tmp_path, monkeypatch, seed, graphs):
    """Also where only so many versions are in memory as there may be in use."""
    monkeypatch.setattr(memory_limit, "SETTLED_SECONDS", 0.0)
    offsets = {}
    for name in ("double", "away"):
        for version in (1, 2):
            offsets[name, version] = 100 * version
            put(name, version=version, offset=100 * version)
    repository = make(
        max_bytes=graphs * 2 * GRAPH_BYTES,
        queue_limits=lambda model: (model.max_batch_rows or 8, model.max_queue_rows or 8),
    )
    in_turn = Changes(repository, AuditLog(tmp_path / "state"))
    manager, uploads = Manager(repository, in_turn), Uploads(repository, in_turn, max_bytes=1000)
    manager.set_label("double", "stable", 1, "me")
    changes, callers = (
        RandomChanges(repository, manager, uploads, offsets, tmp_path, seed),
        Callers(repository, offsets),
    )
    try:
        for _ in range(STEPS):
            changes.step()
            assert callers.problems == []
    finally:
        callers.close()
    assert callers.problems == []
    assert callers.answers > STEPS
    # At a start, settings that are wrong fail their model.
    (tmp_path / "models" / "double" / "layerserve.toml").write_text("")
    repository.scan()
    # Another process, or this server after a restart, serves the same.
    again = make()
    for name in ("double", "away"):
        here, there = repository.catalogue.serving(name), again.catalogue.serving(name)
        assert {key: here[key] for key in ("default", "labels", "loaded")} == {
            key: there[key] for key in ("default", "labels", "loaded")
        }
    leaked = [entry for entry in repository.catalogue.entries() if entry.loaded and entry.loaded._users]
    assert leaked == []
