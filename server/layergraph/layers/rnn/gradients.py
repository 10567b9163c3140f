"""A GRU over entire sequences with explicit gradients, for training on the CPU.

torch's own GRU records twenty operations per timestep there, and runs each one's backward. Here a timestep takes five
operations forward and three backward; what doesn't depend on the previous timestep is computed for all at once.
"""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor


def gru_sequence(x: Tensor, h: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Returns outputs (rows, timesteps, units) for x (rows, timesteps, features) and h (rows, units); `reset_after`.

    Gates are in Keras's order: update z, reset r, candidate c. `bias` is (2, 3 * units), or None. With n, the
    candidate's part from the state before the reset:

        c = tanh(x's part + r * n), h = z * h + (1 - z) * c
    """
    outputs: Tensor = _GruSequence.apply(x, h, kernel, recurrent_kernel, bias)  # type: ignore[no-untyped-call]
    return outputs


class _GruSequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h: Tensor, kernel: Tensor, recurrent_kernel: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Runs all timesteps, and saves what the backward pass needs."""
        (rows, steps, features), units = x.shape, h.shape[1]
        by_time = x.transpose(0, 1).reshape(steps * rows, features)
        flat = by_time @ kernel if bias is None else torch.addmm(bias[0], by_time, kernel)
        gates = flat.view(steps, rows, 3 * units)
        both, candidates = gates[..., : 2 * units], gates[..., 2 * units :]
        candidate_bias = None
        if bias is not None:
            both += bias[1, : 2 * units]
            candidate_bias = bias[1, 2 * units :]
        states = x.new_empty((steps + 1, rows, units))
        states[0] = h
        inner = x.new_empty((steps, rows, units))
        _run_timesteps(both, candidates, states, inner, recurrent_kernel, candidate_bias)
        ctx.save_for_backward(by_time, kernel, recurrent_kernel, gates, states, inner)
        ctx.biased = bias is not None
        return states[1:].transpose(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of all arguments; those of kernels and inputs in one product for all timesteps."""
        by_time, kernel, recurrent_kernel, gates, states, inner = ctx.saved_tensors
        steps, rows, units = inner.shape
        grads, start = _gate_gradients(grad.transpose(0, 1), recurrent_kernel, gates, states, inner)
        flat = grads.view(steps * rows, 4 * units)
        # The candidate's part from x, z and r; then z, r and the candidate's part from the state.
        of_inputs, of_states = flat[:, : 3 * units], flat[:, units:]
        want_x, _, want_kernel, want_recurrent, want_bias = ctx.needs_input_grad
        x_grad = kernel_grad = recurrent_grad = bias_grad = None
        if want_x:
            turned = kernel.t().roll(units, 0)
            x_grad = (of_inputs @ turned).view(steps, rows, -1).transpose(0, 1)
        # In the memory order of the kernels, which the optimizer then doesn't have to change.
        if want_kernel:
            kernel_grad = (of_inputs.t() @ by_time).roll(-units, 0).t()
        if want_recurrent:
            recurrent_grad = (of_states.t() @ states[:-1].reshape(steps * rows, units)).t()
        if ctx.biased and want_bias:
            sums = flat.sum(0)
            bias_grad = torch.stack([sums[: 3 * units].roll(-units, 0), sums[units:]])
        return x_grad, start, kernel_grad, recurrent_grad, bias_grad


def _run_timesteps(
    both: Tensor, candidates: Tensor, states: Tensor, inner: Tensor, kernel: Tensor, candidate_bias: Tensor | None
) -> None:
    """Fills `states` from index 1 on, `inner` with n, and makes x's parts gates in place: (timesteps, rows, ...)."""
    units = inner.shape[2]
    gates_kernel, candidate_kernel = kernel[:, : 2 * units], kernel[:, 2 * units :]
    h, *after = states.unbind(0)
    z, r = (gate.unbind(0) for gate in both.chunk(2, -1))
    for t, (zr, c, n) in enumerate(zip(both.unbind(0), candidates.unbind(0), inner.unbind(0), strict=True)):
        zr.addmm_(h, gates_kernel).sigmoid_()
        if candidate_bias is None:
            torch.mm(h, candidate_kernel, out=n)
        else:
            torch.addmm(candidate_bias, h, candidate_kernel, out=n)
        c.addcmul_(r[t], n).tanh_()
        h = torch.lerp(c, h, z[t], out=after[t])


def _gate_gradients(
    grad: Tensor, kernel: Tensor, gates: Tensor, states: Tensor, inner: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns gradients before the activations, (timesteps, rows, 4, units): of c, z, r and n; and of the first state.

    First those for a gradient of 1 of h, for all timesteps; then multiplied by h's gradient, from the last one back.
    """
    steps, rows, units = inner.shape
    z, r, c = gates.chunk(3, -1)
    grads = inner.new_empty((steps, rows, 4, units))
    of_c, of_z, of_r, of_n = grads.unbind(2)
    of_c.copy_(torch.ops.aten.tanh_backward(1 - z, c))
    of_z.copy_(torch.ops.aten.sigmoid_backward(states[:-1] - c, z))
    of_r.copy_(torch.ops.aten.sigmoid_backward(of_c * inner, r))
    torch.mul(of_c, r, out=of_n)
    backwards = kernel.t()
    of_states = grads.view(steps, rows, 4 * units)[..., units:].unbind(0)
    of_steps, kept, from_outputs = grads.unbind(0), z.unbind(0), grad.unbind(0)
    h = from_outputs[-1]
    for t in range(steps - 1, -1, -1):
        of_steps[t].mul_(h[:, None])
        h = torch.addcmul(from_outputs[t - 1], h, kept[t]) if t else h * kept[t]
        h.addmm_(of_states[t], backwards)
    return grads, h
