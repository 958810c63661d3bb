"""The device: drafters, the round loop, the planner, the SDK."""

from .client import AsyncClient, Client, Generation, TokenEvent

__all__ = ["AsyncClient", "Client", "Generation", "TokenEvent"]
