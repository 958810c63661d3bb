"""The device: drafters, the round loop, the planner, the SDK."""

from .aio import AsyncClient
from .client import Client
from .stream import Generation, TokenEvent, TokenStream, standing

__all__ = ["AsyncClient", "Client", "Generation", "TokenEvent", "TokenStream", "standing"]
