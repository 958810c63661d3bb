"""A table with an entry for each peer, which cannot grow for ever: connections are cheap to make, and nobody says goodbye."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from .base import Peer

__all__ = ["PeerTable"]

Entry = TypeVar("Entry")

MAX_ANONYMOUS_PEERS = 2048
MAX_PEERS_OF_ONE_IDENTITY = 16
"""A device has a connection for each of its programs, and those of earlier runs, until they are forgotten."""


class PeerTable(Generic[Entry]):
    """Beyond its bounds the peer of that identity that was silent longest is forgotten.

    Args:
        make: what a new peer's entry is.
        most_anonymous: how many peers that do not prove who they are.
        most_of_one: how many peers of each identity.
    """

    def __init__(
        self,
        make: Callable[[], Entry],
        most_anonymous: int = MAX_ANONYMOUS_PEERS,
        most_of_one: int = MAX_PEERS_OF_ONE_IDENTITY,
    ) -> None:
        self._make = make
        self._most_anonymous = most_anonymous
        self._most_of_one = most_of_one
        self._of: dict[str, OrderedDict[Peer, Entry]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def __iter__(self) -> Iterator[Peer]:
        for peers in list(self._of.values()):
            yield from list(peers)

    def __contains__(self, peer: Peer) -> bool:
        return peer in self._of.get(peer.identity, ())

    def entry(self, peer: Peer) -> Entry:
        """The peer's entry, made if need be; from now on it is the one that spoke last."""
        peers = self._of.get(peer.identity)
        if peers is None:
            peers = self._of[peer.identity] = OrderedDict()
        found = peers.get(peer)
        if found is None:
            most = self._most_of_one if peer.identity else self._most_anonymous
            while len(peers) >= most:
                peers.popitem(last=False)
            found = peers[peer] = self._make()
        else:
            peers.move_to_end(peer)
        return found

    def of(self, identity: str) -> list[Peer]:
        """The peers of an identity."""
        return list(self._of.get(identity, ()))

    def forget(self, peer: Peer) -> None:
        """Drop a peer's entry, if there is one."""
        peers = self._of.get(peer.identity)
        if peers is not None:
            peers.pop(peer, None)
            if not peers:
                del self._of[peer.identity]
