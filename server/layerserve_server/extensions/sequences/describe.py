"""What the Open Inference Protocol tells of a model with sequences."""

from __future__ import annotations

from layerserve_server.extensions.sequences.settings import SequenceSettings
from layerserve_server.extensions.sequences.step_model import StepModel
from layerserve_server.extensions.sequences.steps import NAME
from layerserve_server.protocols.inference.inference_pb2 import ModelConfig, ModelSequenceBatching
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.open_inference.datatypes import config_type


class SequenceBatching:
    """Adds `sequence_batching` to the configuration of versions that have sequences."""

    def __init__(self, settings: SequenceSettings) -> None:
        self._settings = settings

    def configure(self, version: LoadedVersion, config: ModelConfig) -> None:
        """Adds it to a version's configuration, instead of `dynamic_batching`."""
        model = version.parts.get(NAME)
        if not isinstance(model, StepModel):
            return
        own, settings = model.settings, self._settings
        state = ModelSequenceBatching.State
        made = ModelSequenceBatching(
            max_sequence_idle_microseconds=round((own.idle_seconds or settings.sequence_idle_seconds) * 1e6),
            oldest=ModelSequenceBatching.StrategyOldest(
                max_candidate_sequences=min(own.max_sequences or settings.max_sequences, settings.max_sequences)
            ),
            state=[
                state(
                    input_name=spec.name,
                    output_name=spec.next_name,
                    data_type=config_type(spec.dtype, spec.name),
                    dims=spec.shape,
                )
                for spec in model.stepper.state_specs
            ],
        )
        config.sequence_batching.CopyFrom(made)
