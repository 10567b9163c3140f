"""Python client of layerserve, a gRPC server of Keras functional models.

    from layerserve import Client

    with Client("localhost:8500") as client:
        probabilities = client.predict("mnist", images)
        shapes = client.node_shapes("mnist")["dense"].output_shape
        run = client.train("mnist", images, labels, epochs=3).wait(progress=True)
        print(run.history["loss"], run.version)

`AsyncClient` is the same client on asyncio. Errors are in `layerserve.errors`, a fake server for tests in
`layerserve.testing`.
"""

import lazy_loader

# The names of __init__.pyi, each imported when it is first used. So a command, or a process of the server that uses one
# module such as `tensors`, doesn't wait for the whole client.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
