"""The ledger: whatever the network does to the messages, both sides hold the same text, and it is the target's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule

from foredraft_shared.errors import Diverged, StaleVerdict
from foredraft_shared.ledger import EMPTY_DIGEST, Ledger, Relation, extend_digest
from foredraft_shared.messages import Decode, Draft, Verdict

SESSION = bytes(range(16))
PROMPT = (1, 2, 0)
VOCABULARY = 3  # small, so that drafts are often right by chance

token = st.integers(0, VOCABULARY - 1)
draft_tokens = st.lists(token, max_size=5).map(tuple)


def truth(text: Sequence[int]) -> int:
    """The target: a pure function of the text."""
    return extend_digest(EMPTY_DIGEST, text) % VOCABULARY


def continuation(text: Sequence[int], count: int) -> tuple[int, ...]:
    written = list(text)
    for _ in range(count):
        written.append(truth(written))
    return tuple(written[len(text) :])


def verify(ledger: Ledger, draft: Draft) -> Verdict:
    """What the cloud says to a draft that continues its text."""
    text = list(ledger.tokens)
    accepted = 0
    for each in draft.tokens:
        if accepted >= draft.forced and truth(text) != each:
            break
        text.append(each)
        accepted += 1
    return Verdict(draft.session, draft.epoch, draft.round, draft.base, accepted, truth(text))


def state(ledger: Ledger) -> object:
    return ledger.epoch, tuple(ledger.tokens), ledger.digest, tuple(ledger.in_flight)


def ledger_with(*written: int) -> Ledger:
    return Ledger(SESSION, (*PROMPT, *written))


# --- one ledger


@given(st.lists(token, max_size=9), st.lists(token, max_size=9))
def test_the_digest_of_a_text_does_not_depend_on_how_it_came_about(left: list[int], right: list[int]) -> None:
    at_once = extend_digest(EMPTY_DIGEST, left + right)
    assert extend_digest(extend_digest(EMPTY_DIGEST, left), right) == at_once
    assert 0 <= at_once < 2**64


@given(st.lists(st.integers(0, 2**31 - 1), max_size=6), st.lists(st.integers(0, 2**31 - 1), max_size=6))
def test_different_texts_have_different_digests(left: list[int], right: list[int]) -> None:
    assert (extend_digest(EMPTY_DIGEST, left) == extend_digest(EMPTY_DIGEST, right)) == (left == right)


def test_a_digest_that_both_sides_of_a_version_must_share() -> None:
    assert extend_digest(EMPTY_DIGEST, (0, 1, 49_151)) == KNOWN_DIGEST


KNOWN_DIGEST = 0xD9995C6EE0BF66E0


@given(draft_tokens, st.data())
def test_a_verdict_commits_the_accepted_tokens_and_the_targets_own(
    drafted: tuple[int, ...], data: st.DataObject
) -> None:
    ledger = ledger_with()
    draft = ledger.propose(drafted)
    accepted = data.draw(st.integers(0, len(drafted)))
    own = 3  # never drafted: it would have been accepted
    new = ledger.commit(Verdict(SESSION, 1, draft.round, draft.base, accepted, own))
    assert new == (*drafted[:accepted], own)
    assert tuple(ledger.tokens) == PROMPT + new
    assert tuple(ledger.written) == new
    assert ledger.in_flight == ()
    assert ledger.digest == extend_digest(EMPTY_DIGEST, ledger.tokens)


def test_a_stream_commits_one_token_a_verdict_and_ends_with_its_count() -> None:
    ledger = ledger_with()
    decode = ledger.request(3)
    for each in range(3):
        assert ledger.in_flight == (decode,)
        assert ledger.commit(Verdict(SESSION, 1, decode.round, decode.base + each, 0, each)) == (each,)
    assert ledger.in_flight == ()
    with pytest.raises(StaleVerdict):
        ledger.commit(Verdict(SESSION, 1, decode.round, ledger.length, 0, 1))


def test_a_finished_stream_is_no_longer_in_flight() -> None:
    ledger = ledger_with()
    decode = ledger.request(10)
    ledger.commit(Verdict(SESSION, 1, decode.round, decode.base, 0, 1, "stop"))
    assert ledger.in_flight == ()


def test_a_stream_is_asked_for_anew_from_where_it_broke_off() -> None:
    ledger = Ledger(SESSION, PROMPT)
    first = ledger.request(5)
    tokens = continuation(PROMPT, 5)
    ledger.commit(Verdict(SESSION, 1, first.round, 3, 0, tokens[0]))
    again = ledger.renew(first)
    assert (again.base, again.count, again.digest) == (4, 4, ledger.digest)
    with pytest.raises(StaleVerdict):
        ledger.commit(Verdict(SESSION, 1, first.round, 4, 0, tokens[1]))
    ledger.commit(Verdict(SESSION, 1, again.round, 4, 0, tokens[1]))
    assert ledger.in_flight == (again,)


def test_a_chained_round_lives_or_dies_with_its_assumption() -> None:
    ledger = ledger_with()
    first = ledger.propose((0, 1))
    right = ledger.propose((2,), assuming=(0, 1, 2))
    wrong = ledger.propose((2,), assuming=(0, 1, 0))
    later = ledger.propose((), assuming=(0, 1, 2, 2, 1))
    assert [ledger.relation(each) for each in (first, right, wrong)] == [
        Relation.CURRENT,
        Relation.AHEAD,
        Relation.AHEAD,
    ]
    ledger.commit(Verdict(SESSION, 1, first.round, first.base, 2, 2))
    assert ledger.in_flight == (right, later)
    ledger.commit(Verdict(SESSION, 1, right.round, right.base, 1, 0))
    assert ledger.in_flight == ()


BASE = len(PROMPT)
NOT_TO_BE_COMMITTED = {
    "of an older epoch": (StaleVerdict, Verdict(SESSION, 1, 1, BASE, 0, 1)),
    "of a later epoch": (StaleVerdict, Verdict(SESSION, 3, 1, BASE, 0, 1)),
    "of an unknown round": (StaleVerdict, Verdict(SESSION, 2, 7, BASE, 0, 1)),
    "about committed text": (StaleVerdict, Verdict(SESSION, 2, 1, BASE - 1, 0, 1)),
    "about text to come": (Diverged, Verdict(SESSION, 2, 1, BASE + 1, 0, 1)),
    "accepting more than was drafted": (Diverged, Verdict(SESSION, 2, 1, BASE, 3, 1)),
    "refusing a forced token": (Diverged, Verdict(SESSION, 2, 1, BASE, 0, 1)),
    "refusing what it agrees with": (Diverged, Verdict(SESSION, 2, 1, BASE, 1, 1)),
    "accepting drafts in a stream": (Diverged, Verdict(SESSION, 2, 2, BASE, 1, 1)),
}


@pytest.mark.parametrize("what", NOT_TO_BE_COMMITTED)
def test_a_verdict_that_does_not_fit_changes_nothing(what: str) -> None:
    error, verdict = NOT_TO_BE_COMMITTED[what]
    ledger = Ledger(SESSION, PROMPT, epoch=2)
    ledger.propose((0, 1), forced=1)
    ledger.request(2)
    before = state(ledger)
    with pytest.raises(error):
        ledger.commit(verdict)
    assert state(ledger) == before


def test_what_cannot_be_proposed() -> None:
    ledger = ledger_with()
    with pytest.raises(ValueError, match="forced"):
        ledger.propose((1,), forced=2)
    with pytest.raises(ValueError, match="decode"):
        ledger.request(0)
    with pytest.raises(ValueError, match="prompt"):
        Ledger(SESSION, ())


def test_a_new_epoch_voids_the_rounds_of_the_old() -> None:
    ledger = ledger_with()
    draft = ledger.propose((0,))
    assert ledger.raise_epoch() == 2
    with pytest.raises(StaleVerdict):
        ledger.commit(Verdict(SESSION, 1, draft.round, draft.base, 0, 1))
    assert ledger.propose((0,)).round > draft.round
    assert ledger.tokens == list(PROMPT)


# --- two ledgers and everything a network can do


class TwoSides(RuleBasedStateMachine):
    """Messages are kept for ever and delivered in any order, as often as the adversary likes, or never."""

    rounds = Bundle("rounds")
    verdicts = Bundle("verdicts")

    def __init__(self) -> None:
        super().__init__()
        self.edge = Ledger(SESSION, PROMPT)
        self.cloud = Ledger(SESSION, PROMPT)

    @rule(target=rounds, drafted=draft_tokens)
    def edge_drafts(self, drafted: tuple[int, ...]) -> Draft:
        return self.edge.propose(drafted)

    @rule(target=rounds, wrong=token, length=st.integers(0, 5), right=st.integers(0, 5))
    def edge_drafts_well(self, wrong: int, length: int, right: int) -> Draft:
        drafted = continuation(self.edge.tokens, length)
        return self.edge.propose((*drafted[:right], wrong))

    @rule(target=rounds, length=st.integers(1, 4), drafted=draft_tokens, right=st.booleans(), wrong=token)
    def edge_chains(self, length: int, drafted: tuple[int, ...], right: bool, wrong: int) -> Draft:
        assuming = continuation(self.edge.tokens, length)
        return self.edge.propose(drafted, assuming=assuming if right else (*assuming[:-1], wrong))

    @rule(target=rounds, count=st.integers(1, 4))
    def edge_asks_for_a_stream(self, count: int) -> Decode:
        return self.edge.request(count)

    @rule(target=verdicts, round_=rounds)
    def cloud_hears(self, round_: Draft | Decode) -> object:
        relation = self.cloud.relation(round_)
        before = state(self.cloud)
        if round_.epoch != self.cloud.epoch or self.cloud.receive(round_) is not Relation.CURRENT:
            assert state(self.cloud) == before
            return multiple()
        assert relation is Relation.CURRENT
        said = []
        for each in range(round_.count if isinstance(round_, Decode) else 1):
            if isinstance(round_, Draft):
                verdict = verify(self.cloud, round_)
            else:
                verdict = Verdict(SESSION, round_.epoch, round_.round, round_.base + each, 0, truth(self.cloud.tokens))
            self.cloud.commit(verdict)
            said.append(verdict)
        assert self.cloud.in_flight == ()
        return multiple(*said)

    @rule(verdict=verdicts)
    def edge_hears(self, verdict: Verdict) -> None:
        before = state(self.edge)
        try:
            new = self.edge.commit(verdict)
        except (StaleVerdict, Diverged):
            assert state(self.edge) == before
        else:
            assert len(new) == verdict.accepted + 1

    @rule(verdict=verdicts, change=st.sampled_from(["token", "accepted", "base", "round"]))
    def a_damaged_verdict_never_doubles_text(self, verdict: Verdict, change: str) -> None:
        damaged = dataclasses.replace(verdict, **{change: getattr(verdict, change) + 1})
        edge = Ledger(SESSION, tuple(self.edge.tokens), self.edge.epoch)  # the same text, nothing in flight
        with pytest.raises(StaleVerdict):
            edge.commit(damaged)

    @rule()
    def edge_gives_up_its_rounds(self) -> None:
        self.edge.abandon()

    @rule()
    def edge_resumes(self) -> None:
        """The whole text in a new epoch; the cloud takes up the edge's text, which may be shorter than its own."""
        epoch = self.edge.raise_epoch()
        self.cloud = Ledger(SESSION, tuple(self.edge.tokens), epoch)

    @precondition(lambda self: self.edge.length == self.cloud.length)
    @rule(drafted=draft_tokens)
    def a_round_without_faults_makes_progress(self, drafted: tuple[int, ...]) -> None:
        draft = self.edge.propose(drafted)
        assert self.cloud.receive(draft) is Relation.CURRENT
        verdict = verify(self.cloud, draft)
        assert self.cloud.commit(verdict) == self.edge.commit(verdict)

    @invariant()
    def the_edge_holds_a_prefix_of_the_clouds_text(self) -> None:
        assert self.cloud.tokens[: self.edge.length] == self.edge.tokens

    @invariant()
    def the_text_is_the_targets(self) -> None:
        assert tuple(self.cloud.tokens) == PROMPT + continuation(PROMPT, self.cloud.length - len(PROMPT))

    @invariant()
    def nothing_impossible_is_in_flight(self) -> None:
        for round_ in self.edge.in_flight:
            if isinstance(round_, Draft):
                assert self.edge.relation(round_) in (Relation.CURRENT, Relation.AHEAD)


TestTwoSides = TwoSides.TestCase
TestTwoSides.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
