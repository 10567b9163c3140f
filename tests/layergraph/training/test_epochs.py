"""Batches over consecutive epochs: each row once per epoch, in an order by seed and epoch, from any batch on."""

from __future__ import annotations

import pytest
import torch
from layergraph.training.epochs import Epochs, epoch_order


class Rows:
    """Seven rows, whose batches are their indices."""

    rows = 7
    groups = None

    def batch(self, rows: slice | torch.Tensor, count: int, workers: object) -> list[int]:
        numbers = torch.arange(self.rows)[rows].tolist()
        assert len(numbers) == count
        return numbers


def epochs(**options: object) -> Epochs:
    return Epochs(Rows(), 3, **{"seed": 5, "shuffle": False, "number": 0, **options})  # type: ignore[arg-type]


def test_an_order_stays_as_it_was() -> None:
    """Runs of earlier releases are resumed in it."""
    assert epoch_order(8, 5, 0).tolist() == [1, 7, 3, 5, 6, 0, 4, 2]
    assert epoch_order(8, 5, 1).tolist() == [4, 6, 7, 3, 1, 5, 2, 0]


@pytest.mark.parametrize("other", [(8, 6, 0), (8, 5, 1), (8, 5, 1_000_003)])
def test_other_seeds_and_epochs_have_other_orders(other: tuple[int, int, int]) -> None:
    assert epoch_order(*other).tolist() != epoch_order(8, 5, 0).tolist()
    assert sorted(epoch_order(*other).tolist()) == list(range(8))


def test_seeds_may_be_any_integer() -> None:
    assert sorted(epoch_order(3, 2**63, 7).tolist()) == [0, 1, 2]
    assert sorted(epoch_order(3, -1, 0).tolist()) == [0, 1, 2]


def test_batches_follow_one_another_and_the_last_has_what_is_left() -> None:
    run = epochs()
    assert run.steps == 3
    assert [run.take() for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert run.finished
    run.start_next_if_finished()
    assert (run.number, run.done, run.finished) == (1, 0, False)


@pytest.mark.parametrize("number", [0, 3])
def test_shuffled_rows_come_once_in_the_order_of_their_epoch(number: int) -> None:
    run = epochs(shuffle=True, number=number)
    taken = [row for _ in range(3) for row in run.take()]
    assert taken == epoch_order(7, 5, number).tolist()


def test_a_run_goes_on_from_any_place() -> None:
    whole, resumed = epochs(shuffle=True), epochs(shuffle=True)
    batches = []
    for _ in range(7):
        whole.start_next_if_finished()
        batches.append(whole.take())
    resumed.start_at(1, 1)
    assert [resumed.take(), resumed.take()] == batches[4:6]
    resumed.start_next_if_finished()
    assert resumed.take() == batches[6]
