"""Pages of the cache: shared, copied and given away, a slot's text is always its own."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foredraft_cloud.pages import Pages, Slot
from foredraft_cloud.target import Run
from foredraft_cloud.toy import ToyTarget
from foredraft_shared.errors import Overloaded


def feed(target: ToyTarget, slot: Slot, tokens: list[int]) -> None:
    target.verify([Run(slot, tuple(tokens), 0)], exits=False).step()


def whole(target: ToyTarget, text: list[int]) -> Slot:
    """A slot with the text, adopted as far as possible."""
    slot = target.open()
    target.pages.adopt(slot, text)
    feed(target, slot, text[slot.length :])
    return slot


TEXT = [number % 60 for number in range(1, 101)]


def test_a_text_that_begins_like_another_takes_over_all_of_what_they_share():
    target = ToyTarget(page_tokens=16)
    first = whole(target, [*TEXT[:70], 5, 5, 5])
    second = target.open()
    assert target.pages.adopt(second, [*TEXT[:70], 6, 6]) == 70  # four whole pages, and six tokens of the fifth
    assert second.pages[:4] == first.pages[:4]
    assert second.pages[4] not in first.pages
    assert target.read(second) == TEXT[:70]
    assert target.pages.use.held == 6


def test_the_last_token_of_a_text_is_never_adopted():
    target = ToyTarget(page_tokens=16)
    whole(target, TEXT[:64])
    second = target.open()
    assert target.pages.adopt(second, TEXT[:64]) == 63
    assert target.read(second) == TEXT[:63]


def test_what_nobody_holds_any_more_is_found_again_until_it_is_needed():
    target = ToyTarget(pages=8, page_tokens=16)
    target.release(whole(target, TEXT[:50]))
    use = target.pages.use
    assert (use.held, use.kept, target.pages.free) == (0, 4, 8)
    again = target.open()
    assert target.pages.adopt(again, TEXT[:60]) == 50
    assert target.pages.use.held == 4
    target.release(again)
    target.release(whole(target, [7] * 8 * 16))
    last = target.open()
    assert target.pages.adopt(last, TEXT[:60]) == 0


def test_the_beginning_of_a_text_is_kept_longer_than_its_end():
    target = ToyTarget(pages=4, page_tokens=16)
    target.release(whole(target, TEXT[:64]))
    target.release(whole(target, [9] * 40))  # takes three pages
    last = target.open()
    assert target.pages.adopt(last, TEXT[:64]) == 16


def test_who_rewinds_into_a_shared_page_writes_into_a_copy():
    target = ToyTarget(page_tokens=16)
    first, second = whole(target, TEXT[:40]), whole(target, TEXT[:40])
    target.keep(second, 20)
    feed(target, second, [3, 3, 3])
    assert target.read(first) == TEXT[:40]
    assert target.read(second) == [*TEXT[:20], 3, 3, 3]


def test_a_pass_given_up_leaves_the_text_alone():
    target = ToyTarget(page_tokens=16)
    slot = whole(target, TEXT[:20])
    target.verify([Run(slot, (1,) * 30, 0)])
    assert target.read(slot) == TEXT[:20]
    target.keep(slot, 20)
    assert target.pages.use.held == 2


def test_reserving_what_is_not_there_changes_nothing():
    target = ToyTarget(pages=3, page_tokens=16)
    first = whole(target, TEXT[:32])
    second = target.open()
    assert not target.pages.reserve(second, 17)
    assert second.pages == []
    with pytest.raises(Overloaded):
        target.verify([Run(second, (1,) * 17, 0)])
    assert target.pages.reserve(second, 16)
    assert target.read(first) == TEXT[:32]


def test_two_about_to_read_the_same_page_say_so():
    target = ToyTarget(page_tokens=16)
    first, second = target.open(), target.open()
    pages = target.pages
    assert pages.next_page(first, TEXT[:16]) is None  # the last token comes with a round
    assert pages.next_page(first, TEXT[:17]) == pages.next_page(second, TEXT[:40]) is not None
    feed(target, first, TEXT[:16])
    assert pages.next_page(first, TEXT) != pages.next_page(second, TEXT)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**9), st.sampled_from([1, 3, 16]), st.integers(6, 40))
def test_whatever_is_done_every_slot_holds_its_own_text_within_the_limit(seed: int, page_tokens: int, count: int):
    dice = random.Random(seed)
    target = ToyTarget(vocabulary=3, pages=count, page_tokens=page_tokens)
    texts: dict[int, list[int]] = {}
    slots: dict[int, Slot] = {}
    for step in range(120):
        deed = dice.choice(["open", "feed", "feed", "rewind", "close", "adopt"])
        if deed == "open" or not slots:
            slots[step], texts[step] = target.open(), []
            continue
        name = dice.choice(list(slots))
        slot, text = slots[name], texts[name]
        if deed == "feed":
            tokens = [dice.randrange(2) for _ in range(dice.randint(1, 7))]
            if slot.length + len(tokens) > target.context:
                continue
            try:
                feed(target, slot, tokens)
                text += tokens
            except Overloaded:
                assert target.pages.free < 2 + 7 // page_tokens + 1
        elif deed == "rewind":
            del text[dice.randint(0, len(text)) :]
            target.keep(slot, len(text))
        elif deed == "close":
            target.release(slots.pop(name))
            del texts[name]
        else:
            wanted = [*text, *dice.choice(list(texts.values()))[len(text) :], 2]
            gained = target.pages.adopt(slot, wanted)
            text += wanted[len(text) : len(text) + gained]
        for each, held in slots.items():
            assert target.read(held) == texts[each]
        use = target.pages.use
        assert use.used_bytes + use.kept * use.page_bytes <= use.limit_bytes
        assert use.held == len({page for held in slots.values() for page in held.pages})
        assert use.held == target.pages.held(slots.values())
        assert max([page for held in slots.values() for page in held.pages], default=0) < count


def test_pages_are_made_when_they_are_first_needed():
    pages = Pages(10**9, 16, 1, lambda source, destination, count: None)
    slot = Slot()
    assert pages.reserve(slot, 17)
    assert slot.pages == [0, 1]
    assert pages.free == 10**9 - 2
