"""Models, on top of graph, execution, training and saving (keras.models).

Way in: `load_model`, or `Model` and `Sequential`. `reading` turns an open file into a model: `from_config` repeats
the calls of the config, with classes by `kinds`, and loads the weights. `hub/` has KerasHub's models as tables of
calls. Way out: a `Model`, with its `plan`, `fit`, `save` and `export`.
"""

from layergraph.models.cloning import clone_model, model_from_json
from layergraph.models.hub.hub_model import HubModel
from layergraph.models.hub.table import HUB_MODELS
from layergraph.models.kinds import ARCHITECTURES, MODELS
from layergraph.models.loading import load_model
from layergraph.models.model import Model, save_model
from layergraph.models.sequential import Sequential

__all__ = ["Model", "Sequential", "clone_model", "load_model", "model_from_json", "save_model"]

MODELS.update({"Functional": Model, "Sequential": Sequential, "HubModel": HubModel})
ARCHITECTURES.update(HUB_MODELS)
