"""What a program may ask for: prompts, token ids and parameters, checked before anything is sent."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

from foredraft_shared.errors import PromptTooLong, UsageError
from foredraft_shared.limits import MAX_SEQUENCE_TOKENS, MAX_TOKEN_ID
from foredraft_shared.messages import SamplingParams, TokenId, Welcome

__all__ = ["Prompt", "check_room", "length", "messages_or_tokens", "sampling", "stop_ids", "whole"]

Prompt: TypeAlias = "str | Sequence[TokenId] | Sequence[Mapping[str, str]]"
"""A user's message, or token ids taken as they are, or a conversation of ``{"role": …, "content": …}``."""

_MOST_STOPS = 256
_U32 = 2**32 - 1


def whole(what: str, value: Any) -> int:
    """A whole number, whatever library it comes from.

    Raises:
        UsageError: it is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{what} is {value!r}; give a whole number.") from None


def messages_or_tokens(prompt: Prompt) -> tuple[list[Mapping[str, str]], tuple[TokenId, ...]]:
    """The conversation that a prompt is, or its token ids; one of them is empty.

    Raises:
        UsageError: it is empty, mixed, or nothing of the kind.
        PromptTooLong: no server would take so many tokens.
    """
    if isinstance(prompt, str):
        if not prompt.strip():
            raise UsageError("the prompt is empty; ask something.")
        return [{"role": "user", "content": prompt}], ()
    if isinstance(prompt, bytes) or not hasattr(prompt, "__iter__"):
        raise UsageError(f"the prompt is of type {type(prompt).__name__}; give text, messages or token ids.")
    entries = list(prompt)
    messages = [entry for entry in entries if isinstance(entry, Mapping)]
    others = [entry for entry in entries if not isinstance(entry, Mapping)]
    if bool(messages) == bool(others):
        raise UsageError("the prompt is empty or mixes messages with token ids; give one or the other.")
    if not all(isinstance(message.get("role"), str) and "content" in message for message in messages):
        raise UsageError('a message of the prompt lacks its "role" or its "content"; give both.')
    if len(others) > MAX_SEQUENCE_TOKENS:
        raise PromptTooLong(f"the prompt has {len(others)} tokens; at most {MAX_SEQUENCE_TOKENS} can be sent.")
    return messages, _ids("the prompt", others)


def stop_ids(tokens: Sequence[TokenId]) -> tuple[TokenId, ...]:
    """Stop tokens, in order.

    Raises:
        UsageError: one of them is no token id, or they are too many.
    """
    if len(tokens) > _MOST_STOPS:
        raise UsageError(f"there are {len(tokens)} stop tokens; give at most {_MOST_STOPS}.")
    return tuple(sorted(_ids("stop_tokens", tokens)))


def sampling(temperature: float, top_k: int, top_p: float, min_p: float, seed: int) -> SamplingParams:
    """Parameters of the right kinds, in their ranges.

    Raises:
        UsageError, InvalidSampling: they are not.
    """
    for what, value in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
        if not isinstance(value, Real):
            raise UsageError(f"{what} is {value!r}; give a number.")
    return SamplingParams(float(temperature), whole("top_k", top_k), float(top_p), float(min_p), whole("seed", seed))


def length(max_tokens: int) -> int:
    """The length asked for.

    Raises:
        UsageError: no text can be so long.
    """
    number = whole("max_tokens", max_tokens)
    if number < 1:
        raise UsageError(f"max_tokens is {number}; ask for at least one.")
    if number > _U32:
        raise UsageError(f"max_tokens is {number}; ask for less than {_U32}.")
    return number


def check_room(welcome: Welcome, tokens: int, more: int) -> None:
    """Refuse a text that does not fit the server's model.

    Raises:
        PromptTooLong: it does not.
    """
    if tokens + more > welcome.context:
        raise PromptTooLong(
            f"the prompt has {tokens} tokens and {more} more were asked for, but the model's context is "
            f"{welcome.context}; shorten the prompt or lower max_tokens."
        )


def _ids(what: str, tokens: Sequence[Any]) -> tuple[TokenId, ...]:
    ids = tuple(whole(f"an entry of {what}", token) for token in tokens)
    for token in (min(ids), max(ids)) if ids else ():
        if not 0 <= token <= MAX_TOKEN_ID:
            raise UsageError(f"{what} holds {token}, which is no token id; encode it with the target's tokenizer.")
    return ids
