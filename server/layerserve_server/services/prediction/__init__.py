"""layerserve.v1.PredictionService: decoding of requests, queueing, and encoding of replies."""
