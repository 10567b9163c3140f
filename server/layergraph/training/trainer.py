"""Placeholder until the training room lands."""


class Trainer:
    """compile, fit, evaluate, predict."""

    def __init__(self) -> None:
        self.compile_config = None
