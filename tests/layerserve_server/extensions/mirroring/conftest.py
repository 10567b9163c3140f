"""Waiting for the samples of requests."""

import pytest
from layerserve_server.extensions.mirroring.sample_files import SampleFiles


@pytest.fixture
def finish(monkeypatch, wait_until):
    """Waits until so many samples have come, which is after the answers, and has them written."""
    added, add = [], SampleFiles.add
    monkeypatch.setattr(SampleFiles, "add", lambda files, sample: (add(files, sample), added.append(sample)))

    def wait(app, count):
        wait_until(lambda: len(added) >= count)
        (mirror,) = app._inference.predictor.observers
        _, samples = mirror._watchers
        samples.close()
        assert len(added) == count

    return wait
