"""The asyncio client."""

from __future__ import annotations

from layerserve.async_slices import AsyncSlices
from layerserve.calls.connection import DEFAULT_ADDRESS, DEFAULT_TIMEOUT, TLS, ChannelOptions, connection
from layerserve.calls.service_config import MAX_RETRIES, LoadBalancing
from layerserve.calls.tokens import Token
from layerserve.explanations.api import AsyncExplanationMethods
from layerserve.prediction.api import AsyncPredictionMethods
from layerserve.scoring.api import AsyncScoringMethods
from layerserve.sequences.api import AsyncSequenceMethods


class AsyncClient(
    AsyncPredictionMethods, AsyncExplanationMethods, AsyncSequenceMethods, AsyncScoringMethods, AsyncSlices
):
    """A connection to a layerserve server, shared by any number of tasks of one event loop.

    Example:
        async with AsyncClient("localhost:8500") as client:
            probabilities = await client.predict("mnist", images)
            run = await client.train("mnist", images, labels, epochs=3)
            await run.wait(progress=True)
            print(run.history["loss"], run.version)

    Args:
        address: host:port, several IP addresses separated by commas ("10.0.0.1:8500,10.0.0.2:8500"), or any target that
            gRPC resolves ("dns:///name:8500").
        timeout: Default timeout of a call in seconds; `math.inf` for none. Streams (training, download) have none
            unless the call names one.
        tls: True, or a `TLS` with files.
        token: Bearer token sent with each call, as text, as the `Path` of a file, which is read again when it changes,
            or as a function that returns it, called for each call; AsyncClient also takes an asyncio function. Warns
            with `PlaintextTokenWarning` if the token is sent to another machine without TLS.
        retries: Maximum number of times, up to 4, that a call which changes nothing (`predict`, `models`, `runs`, ...)
            is repeated: if no server is available for about two seconds, and if the server is overloaded after the time
            that it names, never after the call's timeout. 0 for none.
        load_balancing: "round_robin" sends calls in turns to all servers of the address that are ready; "pick_first"
            sends them to the first that can be reached.
        route_by_model: Number of servers that are asked for a model, out of those of the address, so that each has only
            some of the models in memory. All clients with this number ask the same ones. If one of them is gone, the
            next is asked. 0 asks all servers. Calls that predict nothing go to any server.
        options: gRPC channel options, which override the client's own. The client sets no maximum message size.

    The client connects on the first call. Errors of the server are raised as `LayerserveError`; see
    `layerserve.errors`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: bool | TLS = False,
        token: Token | None = None,
        retries: int = MAX_RETRIES,
        load_balancing: LoadBalancing = "round_robin",
        route_by_model: int = 0,
        options: ChannelOptions = (),
    ) -> None:
        opened = connection(
            address,
            tls=tls,
            token=token,
            retries=retries,
            load_balancing=load_balancing,
            route_by_model=route_by_model,
            options=options,
            stacklevel=3,
        )
        super().__init__(address, timeout, opened)

    async def __aenter__(self) -> AsyncClient:
        return self
