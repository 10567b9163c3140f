from .estimate import EstimatedPublication, EstimatedSeconds, RunEstimate

__all__ = ["EstimatedPublication", "EstimatedSeconds", "RunEstimate"]
