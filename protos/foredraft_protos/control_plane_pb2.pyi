from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrollRequest(_message.Message):
    __slots__ = ("token", "public_key", "device")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    public_key: str
    device: str
    def __init__(self, token: _Optional[bytes] = ..., public_key: _Optional[str] = ..., device: _Optional[str] = ...) -> None: ...

class EnrollReply(_message.Message):
    __slots__ = ("server_key", "endpoints", "facts")
    SERVER_KEY_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    server_key: str
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    facts: ServerFacts
    def __init__(self, server_key: _Optional[str] = ..., endpoints: _Optional[_Iterable[str]] = ..., facts: _Optional[_Union[ServerFacts, _Mapping[str, object]]] = ...) -> None: ...

class FactsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerFacts(_message.Message):
    __slots__ = ("version", "protocol", "server_epoch", "model", "fingerprint", "vocabulary", "context", "exits", "dtype", "max_draft")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SERVER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    EXITS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_FIELD_NUMBER: _ClassVar[int]
    version: str
    protocol: int
    server_epoch: int
    model: str
    fingerprint: str
    vocabulary: int
    context: int
    exits: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    max_draft: int
    def __init__(self, version: _Optional[str] = ..., protocol: _Optional[int] = ..., server_epoch: _Optional[int] = ..., model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., vocabulary: _Optional[int] = ..., context: _Optional[int] = ..., exits: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., max_draft: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("grace_ms",)
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    grace_ms: int
    def __init__(self, grace_ms: _Optional[int] = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("sessions",)
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    sessions: int
    def __init__(self, sessions: _Optional[int] = ...) -> None: ...
