from .api import AsyncOnlineSession
from .blocking import OnlineSession

__all__ = ["AsyncOnlineSession", "OnlineSession"]
