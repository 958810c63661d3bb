"""What a device and its server have to agree on before they write a text together: tokens, model, depth."""

from __future__ import annotations

from foredraft_shared.errors import ModelChanged, UsageError, VocabularyMismatch
from foredraft_shared.messages import Welcome
from foredraft_shared.models import Tokenizer

from .drafters.base import Drafter
from .link import Served, described, same

__all__ = ["agreed_exit", "check_model", "check_tokens"]


def check_tokens(welcome: Welcome, drafter: Drafter | None, tokenizer: Tokenizer | None) -> None:
    """Refuse to write a text whose token ids mean one thing here and another there.

    Raises:
        VocabularyMismatch: they would.
    """
    from .drafters.loading import check_vocabulary

    if drafter is not None:
        check_vocabulary(drafter, welcome.fingerprint)
    if tokenizer is not None and tokenizer.fingerprint != welcome.fingerprint:
        raise VocabularyMismatch(
            f"the tokenizer here ({tokenizer.fingerprint[:8]}) is not that of {welcome.model} on the server "
            f"({welcome.fingerprint[:8]}); name the target's own with tokenizer=…."
        )


def check_model(welcome: Welcome, text: Served, what: object) -> None:
    """Refuse to let another model go on with a text.

    Args:
        what: the text, as the error names it.

    Raises:
        ModelChanged: the server runs another one than that which began it.
    """
    if not same(welcome, text):
        raise ModelChanged(
            f"{what} was begun with {described(text)}, but the server runs {described(welcome)}; "
            "ask a server like the first, or begin anew."
        )


def agreed_exit(welcome: Welcome | None, lossy: bool) -> int:
    """The layer that the server takes as final and the caller allows; 0: none, and none is.

    Raises:
        UsageError: only one of them wants one.
    """
    if welcome is None:
        if lossy:
            raise UsageError(
                "which exit lossy is to allow says the server, and none has answered yet; ask when it does."
            )
        return 0
    if lossy and not welcome.lossy_exit:
        raise UsageError(
            f"lossy was asked for, but the server computes {welcome.model} at full depth; start it with "
            "`foredraft serve --lossy-exit LAYER`, or ask without."
        )
    if welcome.lossy_exit and not lossy:
        raise UsageError(
            f"the server takes layer {welcome.lossy_exit} of {welcome.model} as final, so its texts are not that model's "
            "own; allow that with --lossy (lossy=True), or ask another server."
        )
    return welcome.lossy_exit
