"""Who holds which page of the cache. Pure bookkeeping: no tensors, no clock.

The cache is a fixed number of *pages* of ``page_tokens`` tokens each, shared by all sessions: that number is the hard
limit, and nothing is ever allocated beyond it. A slot is a list of pages, a rewind drops the last of them.

Pages know the tokens they hold and a digest of everything before them, so a text that begins like another one takes over
its pages instead of computing them anew (*adopting*): whole pages are shared and counted, the part of a page up to where
two texts differ is copied. A page that nobody holds any more keeps what it says until it is needed for something else,
longest unused first; a session that was evicted or closed therefore often finds its text again.

A shared page is never written: who has to write into one gets a copy of its own first. The idea of pages is vLLM's
(Kwon et al., 2309.06180), that of finding them by what they hold SGLang's (Zheng et al., 2312.07104).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from foredraft_shared.errors import Overloaded
from foredraft_shared.messages import Position, TokenId

__all__ = ["CacheUse", "PagedTarget", "Pages", "Slot"]

_NOTHING_BEFORE = b""

_FULL = "the cache is full; try again later, or serve with a larger --cache-mib."

CopyRows = Callable[[int, int, int], None]
"""``copy(source, destination, count)``: the first ``count`` tokens of one page to another."""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How full a cache is."""

    page_bytes: int
    pages: int
    """As many as there are."""
    held: int
    """By sessions."""
    kept: int
    """Held by nobody, but still saying what they said: a text that begins so may adopt them."""

    @property
    def limit_bytes(self) -> int:
        return self.pages * self.page_bytes

    @property
    def used_bytes(self) -> int:
        """What is held by sessions; what is kept besides is given up for the asking."""
        return self.held * self.page_bytes


@dataclass(eq=False, slots=True)
class _Page:
    index: int
    before: bytes = _NOTHING_BEFORE
    """Digest of all tokens before this page."""
    tokens: list[TokenId] = field(default_factory=list)
    holders: int = 0
    known_as: tuple[bytes, TokenId] | None = None
    """Where the index has it: the digest before it and its first token."""


@dataclass(eq=False)
class Slot:
    """One session's share of the cache; takes no room until it is fed."""

    length: Position = 0
    open: bool = True
    _pages: list[_Page] = field(default_factory=list)

    @property
    def pages(self) -> list[int]:
        """The pages that hold the text, in order; the last ones may be reserved and still empty."""
        return [page.index for page in self._pages]


class Pages:
    """All pages of a cache.

    Args:
        count: the limit.
        page_tokens: tokens a page holds.
        page_bytes: memory it takes.
        copy: moves what pages hold.
    """

    def __init__(self, count: int, page_tokens: int, page_bytes: int, copy: CopyRows) -> None:
        self.page_tokens = page_tokens
        self.page_bytes = page_bytes
        self.count = count
        self._copy = copy
        self._made = 0
        self._blank: list[_Page] = []
        self._kept: OrderedDict[int, _Page] = OrderedDict()
        self._index: dict[tuple[bytes, TokenId], set[_Page]] = {}

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return self.count - self._made + len(self._blank) + len(self._kept)

    @property
    def use(self) -> CacheUse:
        return CacheUse(self.page_bytes, self.count, self.count - self.free, len(self._kept))

    def held(self, slots: Iterable[Slot]) -> int:
        """Pages that ``slots`` hold between them."""
        return len({page.index for slot in slots for page in slot._pages})

    def needed(self, slot: Slot, length: Position) -> int:
        """Pages that :meth:`reserve` would take."""
        pages = -(-length // self.page_tokens) - len(slot._pages)
        last = slot.length // self.page_tokens
        copied = slot.length % self.page_tokens and length > slot.length and slot._pages[last].holders > 1
        return max(0, pages) + bool(copied)

    def reserve(self, slot: Slot, length: Position) -> bool:
        """Make room for ``length`` tokens, of which what follows the present ones may be written; ``False``: no room.

        Nothing is changed if there is no room.
        """
        if self.needed(slot, length) > self.free:
            return False
        offset = slot.length % self.page_tokens
        if offset and length > slot.length:
            at = slot.length // self.page_tokens
            page = slot._pages[at]
            if page.holders > 1:
                own = self._take(page.before)
                self._copy(page.index, own.index, offset)
                self._hold(own, page.tokens[:offset])
                self._let_go(page)
                slot._pages[at] = own
            else:
                self._shorten(page, offset)
        while len(slot._pages) * self.page_tokens < length:
            slot._pages.append(self._take(_NOTHING_BEFORE))
        return True

    def extend(self, slot: Slot, tokens: Sequence[TokenId]) -> None:
        """Note that ``tokens`` have been written after what the slot held, where room was reserved."""
        at = 0
        while at < len(tokens):
            number, offset = divmod(slot.length, self.page_tokens)
            page = slot._pages[number]
            if not offset:
                page.before = self._digest(slot._pages[number - 1]) if number else _NOTHING_BEFORE
            some = tokens[at : at + self.page_tokens - offset]
            assert page.holders == 1
            assert len(page.tokens) == offset
            self._hold(page, some)
            slot.length += len(some)
            at += len(some)

    def keep(self, slot: Slot, length: Position) -> None:
        """Rewind to the first ``length`` tokens and let go of the pages beyond them."""
        assert 0 <= length <= slot.length
        slot.length = length
        keep = -(-length // self.page_tokens)
        for page in reversed(slot._pages[keep:]):  # the last first: what many texts begin with is kept longest
            self._let_go(page)
        del slot._pages[keep:]

    def adopt(self, slot: Slot, text: Sequence[TokenId]) -> int:
        """Take over what other pages hold of ``text``, which begins with what the slot holds; at most all but its last.

        Returns:
            How many tokens the slot has grown by.
        """
        began = slot.length
        if began % self.page_tokens or len(slot._pages) * self.page_tokens > began:
            return 0
        before = self._digest(slot._pages[-1]) if slot._pages else _NOTHING_BEFORE
        while slot.length < len(text) - 1:
            wanted = text[slot.length : min(slot.length + self.page_tokens, len(text) - 1)]
            page, common = self._find(before, wanted)
            if page is None:
                break
            if common == self.page_tokens or (common == len(page.tokens) and not page.holders):
                page.holders += 1
                self._kept.pop(page.index, None)
            else:
                page = self._copied(page, common)
                if page is None:
                    break
            slot._pages.append(page)
            slot.length += common
            if common < self.page_tokens:
                break
            before = self._digest(page)
        return slot.length - began

    def next_page(self, slot: Slot, text: Sequence[TokenId]) -> bytes | None:
        """What the page would be known by that the slot is about to fill; ``None`` if ``text`` does not fill it.

        Two slots with the same answer are about to compute the same.
        """
        number, offset = divmod(slot.length, self.page_tokens)
        end = (number + 1) * self.page_tokens
        if end >= len(text):
            return None
        before = slot._pages[number].before if offset else self._digest(slot._pages[number - 1]) if number else b""
        return _digest(before, text[number * self.page_tokens : end])

    # --- inside

    def _find(self, before: bytes, wanted: Sequence[TokenId]) -> tuple[_Page | None, int]:
        """The page that agrees longest with ``wanted``, and how many tokens of it."""
        best: _Page | None = None
        most = 0
        for page in self._index.get((before, wanted[0]), ()) if wanted else ():
            common = _common(page.tokens, wanted)
            if common > most:
                best, most = page, common
        return best, most

    def _copied(self, page: _Page, count: int) -> _Page | None:
        """A page of one's own with the first ``count`` tokens of ``page``, if there is room for it."""
        kept = self._kept.pop(page.index, None)  # it must not be taken to hold its own copy
        own = self._take(page.before) if self.free else None
        if kept is not None:
            self._kept[page.index] = page
        if own is not None:
            self._copy(page.index, own.index, count)
            self._hold(own, page.tokens[:count])
        return own

    def _take(self, before: bytes) -> _Page:
        if self._blank:
            page = self._blank.pop()
        elif self._made < self.count:
            page = _Page(self._made)
            self._made += 1
        elif self._kept:
            _, page = self._kept.popitem(last=False)
            self._shorten(page, 0)
        else:
            raise Overloaded(_FULL, 1000)
        page.before = before
        page.holders = 1
        return page

    def _hold(self, page: _Page, tokens: Iterable[TokenId]) -> None:
        page.tokens.extend(tokens)
        if page.known_as is None and page.tokens:
            page.known_as = (page.before, page.tokens[0])
            self._index.setdefault(page.known_as, set()).add(page)

    def _shorten(self, page: _Page, count: int) -> None:
        del page.tokens[count:]
        if not page.tokens and page.known_as is not None:
            pages = self._index[page.known_as]
            pages.discard(page)
            if not pages:
                del self._index[page.known_as]
            page.known_as = None

    def _let_go(self, page: _Page) -> None:
        assert page.holders > 0
        page.holders -= 1
        if not page.holders:
            if page.tokens:
                self._kept[page.index] = page
            else:
                self._blank.append(page)

    def _digest(self, page: _Page) -> bytes:
        assert len(page.tokens) == self.page_tokens
        return _digest(page.before, page.tokens)


class PagedTarget:
    """What every target with pages does alike (see :class:`foredraft_cloud.target.Target`)."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages

    def open(self) -> Slot:
        return Slot()

    def release(self, slot: Slot) -> None:
        assert slot.open, "the slot was released before"
        self.pages.keep(slot, 0)
        slot.open = False

    def keep(self, slot: Slot, length: Position) -> None:
        self.pages.keep(slot, length)

    def make_room(self, slot: Slot, length: Position) -> None:
        """Reserve what a pass is about to write.

        Raises:
            Overloaded: there is no room.
        """
        assert slot.open, "the slot was released"
        if not self.pages.reserve(slot, length):
            raise Overloaded(_FULL, 1000)


def _digest(before: bytes, tokens: Sequence[TokenId]) -> bytes:
    """Of everything up to here. Cryptographic: nobody must be able to make a text that is taken for another's."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


def _common(first: Sequence[TokenId], second: Sequence[TokenId]) -> int:
    """How many tokens two texts have in common at their beginning."""
    for count, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return count
    return min(len(first), len(second))
