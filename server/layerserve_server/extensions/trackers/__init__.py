"""Copies of runs in MLflow and Weights & Biases, written by processes of their own."""
