"""Every error foredraft raises on purpose, named for the condition.

::

    ForedraftError
    ├── UsageError                 the caller asked for something that cannot be
    │   ├── PromptTooLong
    │   └── InvalidSampling
    ├── ModelError                 a model could not be found, read or used
    │   ├── ModelNotFound
    │   ├── ModelDamaged
    │   ├── ModelUnsupported
    │   └── VocabularyMismatch     draft and target do not speak the same token ids
    ├── BackendMissing             an optional package is not installed
    ├── KeyStoreError              the server's list of devices cannot be read or written
    │   └── KeyStoreBusy           another program holds it
    ├── LinkError                  the network, or the peer behind it
    │   ├── LinkLost               no answer, or nobody there
    │   ├── AddressInUse
    │   ├── DeadlineMissed
    │   ├── ProtocolMismatch
    │   ├── InsecureBind           an address beyond loopback without authentication
    │   ├── NotEnrolled            the server does not know this device's key, or no longer
    │   ├── ServerKeyMismatch      who answers is not the server this device enrolled with
    │   └── ModelChanged           the server came back with another model
    ├── ProtocolViolation          bytes or messages that break the rules
    │   ├── Malformed              bytes that are not a message
    │   ├── StaleVerdict           a verdict for text that is already committed
    │   └── Diverged               the two sides do not hold the same text
    └── ServerRefused              the server answered with an error
        ├── EnrolmentRefused       the enrolment token is unknown, used or expired
        ├── SessionUnknown
        ├── TakenOver              another process has gone on with the text since
        └── Overloaded

Each message says what happened and what to do next, in one line.
"""

from __future__ import annotations

__all__ = [
    "AddressInUse",
    "BackendMissing",
    "DeadlineMissed",
    "Diverged",
    "EnrolmentRefused",
    "ForedraftError",
    "InsecureBind",
    "InvalidSampling",
    "KeyStoreBusy",
    "KeyStoreError",
    "LinkError",
    "LinkLost",
    "Malformed",
    "ModelChanged",
    "ModelDamaged",
    "ModelError",
    "ModelNotFound",
    "ModelUnsupported",
    "NotEnrolled",
    "Overloaded",
    "PromptTooLong",
    "ProtocolMismatch",
    "ProtocolViolation",
    "ServerKeyMismatch",
    "ServerRefused",
    "SessionUnknown",
    "StaleVerdict",
    "TakenOver",
    "UsageError",
    "VocabularyMismatch",
]


class ForedraftError(Exception):
    """The root of everything foredraft raises on purpose; catch this to catch it all."""

    code = "internal"
    """A stable word for this condition: it travels on the wire and stands in logs."""
    retryable = False
    """Whether the same call may succeed later without the caller changing anything."""


class UsageError(ForedraftError):
    """The caller asked for something that cannot be done as asked."""

    code = "usage"


class PromptTooLong(UsageError):
    """Prompt and requested tokens do not fit the model's context."""

    code = "prompt_too_long"


class InvalidSampling(UsageError):
    """A sampling parameter is outside its range."""

    code = "invalid_sampling"


class ModelError(ForedraftError):
    """A model could not be found, read or used."""

    code = "model"


class ModelNotFound(ModelError):
    """No model of that name, path or hub id."""

    code = "model_not_found"


class ModelDamaged(ModelError):
    """The files of a model are incomplete or not what they claim to be."""

    code = "model_damaged"


class ModelUnsupported(ModelError):
    """The model is whole, but of a kind this version does not run."""

    code = "model_unsupported"


class VocabularyMismatch(ModelError):
    """Draft and target would give different texts for the same token ids."""

    code = "vocabulary_mismatch"


class BackendMissing(ForedraftError):
    """An optional package is needed for what was asked and is not installed."""

    code = "backend_missing"


class KeyStoreError(ForedraftError):
    """The server's list of devices cannot be read, or not be written; nothing in it was changed."""

    code = "key_store"


class KeyStoreBusy(KeyStoreError):
    """Another program holds the server's list of devices; whoever waits may have it."""

    code = "key_store_busy"
    retryable = True


class LinkError(ForedraftError):
    """Something is wrong between edge and cloud."""

    code = "link"
    retryable = True


class LinkLost(LinkError):
    """The peer does not answer, or nobody is there."""

    code = "link_lost"


class AddressInUse(LinkError):
    """Another process listens on this address."""

    code = "address_in_use"
    retryable = False


class DeadlineMissed(LinkError):
    """The deadline passed before the text was complete."""

    code = "deadline_missed"


class ProtocolMismatch(LinkError):
    """The peer speaks another version of the protocol."""

    code = "protocol_mismatch"
    retryable = False


class InsecureBind(LinkError):
    """Binding beyond loopback without authentication is refused."""

    code = "insecure_bind"
    retryable = False


class NotEnrolled(LinkError):
    """The server lets in only devices whose keys it knows, and this one's is not, or no longer, among them."""

    code = "not_enrolled"
    retryable = False


class ServerKeyMismatch(LinkError):
    """Whoever answers does not prove to be the server this device enrolled with."""

    code = "server_key_mismatch"
    retryable = False


class ModelChanged(LinkError):
    """The server came back with another model than the one a text was begun with."""

    code = "model_changed"
    retryable = False


class ProtocolViolation(ForedraftError):
    """A peer sent something that breaks the protocol's rules."""

    code = "protocol_violation"


class Malformed(ProtocolViolation):
    """Bytes that are not a message of this protocol."""

    code = "malformed"


class StaleVerdict(ProtocolViolation):
    """A verdict for text that is already committed: late or doubled, and harmless."""

    code = "stale_verdict"


class Diverged(ProtocolViolation):
    """The two sides do not hold the same committed text."""

    code = "diverged"


class ServerRefused(ForedraftError):
    """The server answered with an error of its own; the message is the server's."""

    code = "refused"


class EnrolmentRefused(ServerRefused):
    """The enrolment token is unknown, used or expired."""

    code = "enrolment_refused"


class SessionUnknown(ServerRefused):
    """The server does not know this session (any more)."""

    code = "session_unknown"
    retryable = True


class TakenOver(ServerRefused):
    """Another process, with the same key, has gone on with this text since."""

    code = "taken_over"


class Overloaded(ServerRefused):
    """The server is at one of its limits; try again later."""

    code = "overloaded"
    retryable = True

    def __init__(self, message: str = "", retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        """How long to wait before trying again; 0 if the server did not say."""
