"""Two further paths of HTTP, as SageMaker and Vertex AI call a container: whether it is ready, and predictions."""
