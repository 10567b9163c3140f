"""Scoring: a model applied to more data than one machine or one request can hold.

Way in: `scorer.Scorer`. It turns the columns of a batch into arrays (`columns`), has them computed by a model that each
process opens once (`open_models`), and adds the results to the batch (`batches`). Engines that divide the data and the
work are adapted in a module each: `ray_data`, `spark`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
