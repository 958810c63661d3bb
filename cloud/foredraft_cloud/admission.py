"""What an engine refuses because it cannot be, whatever else goes on."""

from __future__ import annotations

from foredraft_shared.errors import PromptTooLong, UsageError
from foredraft_shared.messages import Draft, Open, Resume

__all__ = ["check_draft", "check_opening"]


def check_opening(message: Open | Resume, vocabulary: int, context: int, lossy_exit: int = 0) -> None:
    """Refuse a text that could not be written.

    Args:
        lossy_exit: the layer that is taken as final here; 0: full depth.

    Raises:
        UsageError: a token is none of the target's, the text is longer than its limits, or it was asked for at another
            depth.
        PromptTooLong: the context has no room for it.
    """
    if message.lossy_exit != lossy_exit:
        here, there = (
            f"layer {layer} as final" if layer else "full depth" for layer in (lossy_exit, message.lossy_exit)
        )
        raise UsageError(
            f"the text was asked for with {there}, but this server computes with {here}"
            + (
                " (lossy): allow that with --lossy (lossy=True), or ask another server."
                if lossy_exit
                else "; ask without it."
            )
        )
    tokens = message.prompt if isinstance(message, Open) else message.tokens
    if any(token >= vocabulary for token in tokens):
        raise UsageError(
            f"a prompt token is outside the target's vocabulary of {vocabulary}; "
            "encode the prompt with the target's tokenizer."
        )
    prompt_length = len(tokens) if isinstance(message, Open) else message.prompt_length
    if len(tokens) > prompt_length + message.max_tokens:
        raise UsageError(
            f"the resumed text has {len(tokens)} tokens, more than its prompt of {prompt_length} and max_tokens "
            f"{message.max_tokens}; resume a session with the limits it was opened with."
        )
    if prompt_length + message.max_tokens > context:
        raise PromptTooLong(
            f"the prompt has {prompt_length} tokens and {message.max_tokens} more were asked for, but the model's "
            f"context is {context}; shorten the prompt or lower max_tokens."
        )


def check_draft(message: Draft, vocabulary: int, max_draft: int) -> None:
    """Refuse a draft that could not be verified.

    Raises:
        UsageError: it is too long, or a token is none of the target's.
    """
    if len(message.tokens) > max_draft:
        raise UsageError(f"a draft of {len(message.tokens)} tokens; the server takes {max_draft}.")
    if any(token >= vocabulary for token in message.tokens):
        raise UsageError(f"a drafted token is outside the target's vocabulary of {vocabulary}.")
