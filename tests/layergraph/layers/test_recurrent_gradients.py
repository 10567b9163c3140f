"""The GRU with explicit gradients compared with torch's GRU, in float64."""

import itertools

import pytest
import torch
from layergraph.layers.rnn import kernels as recurrent_kernels
from layergraph.layers.rnn.gradients import gru_sequence


def _arguments(
    rows: int, steps: int, features: int, units: int, *, biased: bool
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    generator = torch.Generator().manual_seed(rows + steps)
    shapes = [(rows, steps, features), (rows, units), (features, 3 * units), (units, 3 * units), (2, 3 * units)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return drawn[:4], drawn[4] if biased else None


def _gradients(outputs: torch.Tensor, arguments: list[torch.Tensor], *, last: bool) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).reshape(outputs.shape)
    loss = (outputs[:, -1] * weights[:, -1]).sum() if last else (outputs * weights).sum()
    return list(torch.autograd.grad(loss, [a for a in arguments if a.requires_grad]))


@pytest.mark.parametrize(("steps", "biased", "last"), list(itertools.product((1, 2, 9), (True, False), (True, False))))
def test_gru_gives_outputs_and_gradients_of_torchs_own(steps: int, biased: bool, last: bool) -> None:
    (x, h, kernel, recurrent_kernel), bias = _arguments(3, steps, 5, 4, biased=biased)
    arguments = [x, h, kernel, recurrent_kernel, *([] if bias is None else [bias])]
    for argument in arguments:
        argument.requires_grad_()

    def reordered(gates: torch.Tensor) -> torch.Tensor:
        z, r, c = gates.chunk(3, -1)
        return torch.cat([r, z, c], -1)

    weights = [reordered(kernel).t(), reordered(recurrent_kernel).t()]
    weights += [] if bias is None else list(reordered(bias).unbind(0))
    expected, _ = torch.gru(x, h[None], weights, biased, 1, 0.0, True, False, True)
    found = gru_sequence(x, h, kernel, recurrent_kernel, bias)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    for own, others in zip(
        _gradients(found, arguments, last=last), _gradients(expected, arguments, last=last), strict=True
    ):
        torch.testing.assert_close(own, others, rtol=1e-12, atol=1e-12)


def test_gru_computes_gradients_of_what_is_trained_alone() -> None:
    (x, h, kernel, recurrent_kernel), bias = _arguments(3, 6, 5, 4, biased=True)
    assert bias is not None
    arguments = [x, h, kernel, recurrent_kernel, bias]
    alone = _gradients(gru_sequence(x, h, kernel, recurrent_kernel.requires_grad_(), bias), arguments, last=False)
    for argument in (x, h, kernel, bias):
        argument.requires_grad_()
    together = _gradients(gru_sequence(x, h, kernel, recurrent_kernel, bias), arguments, last=False)
    assert len(alone) == 1
    torch.testing.assert_close(alone[0], together[3], rtol=0, atol=0)


def test_gru_with_masks_and_gradients_gives_what_it_gives_without_gradients() -> None:
    (x, h, kernel, recurrent_kernel), bias = _arguments(4, 7, 5, 3, biased=True)
    mask = torch.rand((4, 7), generator=torch.Generator().manual_seed(1)) > 0.4
    mask[0] = False
    with torch.no_grad():
        loop = recurrent_kernels.gru(kernel, recurrent_kernel, bias)
        expected, expected_ends = recurrent_kernels.masked(loop, x, [h], mask)
    loop = recurrent_kernels.gru(kernel.requires_grad_(), recurrent_kernel, bias)
    found, ends = recurrent_kernels.masked(loop, x, [h], mask)
    torch.testing.assert_close(found.detach(), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(ends[0].detach(), expected_ends[0], rtol=0, atol=1e-13)
