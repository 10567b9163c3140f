"""Models in registries of others: MLflow and the hub of Hugging Face."""
