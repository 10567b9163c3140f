"""The method of the asyncio client for explanations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerserve.explanations.explanation import Explanation, Target, explain
from layerserve.models.api import AsyncModelMethods


class AsyncExplanationMethods(AsyncModelMethods):
    """The method of `AsyncClient` for explanations."""

    async def explain(
        self,
        model: str,
        inputs: Any,
        target: Target | None = None,
        *,
        output: str | None = None,
        to: str | Sequence[str] | None = None,
        baselines: Any = None,
        n_steps: int = 50,
        version: int | None = None,
        label: str | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> Explanation:
        """Compute how much each element of the inputs adds to an output, by integrated gradients.

        The attributions are those of captum's `IntegratedGradients`, and of its `LayerIntegratedGradients` for tensors
        inside of the graph (Sundararajan et al. 2017). `inputs` are those of `predict`.

        `target` is the element of each row of the output, such as a class: an index, a tuple with an index for each
        axis after the rows, or a list or array with one of these for each row. It may be left out if a row has one
        element.
        `output` is the name of the output, or of any tensor of the model's graph. Default: the only output.

        `to` is what the output is attributed to: names of inputs, or of tensors of the graph such as "embedding" or
        "embedding:0:0". Integers have no gradients: for an input of ids, name the output of its embedding. Default: all
        inputs that the output depends on. Whatever doesn't depend on these tensors keeps its value for the inputs.

        `baselines` are inputs that stand for nothing, such as a black image: by name, or as `inputs` are given, with as
        many rows or one. Default: zeros, empty text. `n_steps` is the number of points between baseline and input.

        `key` is as in `predict`. `timeout` is in seconds; default: the client's. The server reads the model for each
        call, and computes each row and step on one core: send several rows in a call.

        Example:
            explanation = await client.explain("mnist", images, target=3)
            explanation.attributions                                  -> array (rows, 28, 28, 1)
            explanation.convergence_delta                             -> array (rows,)
            await client.explain("reviews", ids, to="embedding")      -> attributions (rows, words, features)

        Raises Forbidden (without the right `read`, for tensors inside of the graph), Overloaded (other explanations are
        computed), TooLarge (it takes too much time or memory: send fewer rows), and otherwise as `predict` does.
        """
        flow = explain(self._signatures, model, inputs, target, output, to, baselines, n_steps, version, label, key)
        return await self._run(flow, timeout)
