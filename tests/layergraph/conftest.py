"""The oracle of these tests is stock Keras on torch, whose backend must be set before it is imported."""

import os
from collections.abc import Iterator

import pytest

os.environ["KERAS_BACKEND"] = "torch"

#: Set by `make -C lab engines`: the engine that computes plans in all tests, if it can.
ENGINE = os.environ.get("LAYERGRAPH_TEST_ENGINE", "")


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds initial weights: one seed in some hundred has a value so near to the kink of `relu` that results differ."""
    import keras
    import torch

    with monkeypatch.context() as patch:
        if not torch.cuda.is_available():
            # For each kind of device that isn't there, torch would keep the seed with a stack trace.
            patch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session", autouse=bool(ENGINE))
def _engine() -> Iterator[None]:
    """Uses the engine for every plan on which it agrees with eager torch, and reports how many plans those were."""
    from layergraph.execution.plan import Plan

    eagerly, refused, taken = Plan.run, [], []

    def run(self, inputs):
        if not self.engines and not getattr(self, "tried", False):
            self.tried = True
            found = self.tune(engines=(ENGINE,), rows=(1,), pin=True)
            (refused if found.dropped else taken).append(found.dropped.get(ENGINE, ""))
        eagerly(self, inputs)  # Lengths that come for the first time are eager torch's.
        return eagerly(self, inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "run", run)
        yield
    reasons = sorted({reason[:100] for reason in refused})
    print(f"\n{ENGINE} computed {len(taken)} plans and was refused for {len(refused)}:", *reasons, sep="\n  ")
