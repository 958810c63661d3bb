from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Finish(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_NOT_YET: _ClassVar[Finish]
    FINISH_STOP: _ClassVar[Finish]
    FINISH_LENGTH: _ClassVar[Finish]
FINISH_NOT_YET: Finish
FINISH_STOP: Finish
FINISH_LENGTH: Finish

class Envelope(_message.Message):
    __slots__ = ("channel", "epoch_less_one", "draft", "verdict", "hint", "decode", "ping", "pong", "open", "resume", "close", "need_resume", "resync", "failure", "hello", "welcome", "go_away")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    EPOCH_LESS_ONE_FIELD_NUMBER: _ClassVar[int]
    DRAFT_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    PONG_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    NEED_RESUME_FIELD_NUMBER: _ClassVar[int]
    RESYNC_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    GO_AWAY_FIELD_NUMBER: _ClassVar[int]
    channel: int
    epoch_less_one: int
    draft: Draft
    verdict: Verdict
    hint: Hint
    decode: Decode
    ping: Ping
    pong: Pong
    open: Open
    resume: Resume
    close: Close
    need_resume: NeedResume
    resync: Resync
    failure: Failure
    hello: Hello
    welcome: Welcome
    go_away: GoAway
    def __init__(self, channel: _Optional[int] = ..., epoch_less_one: _Optional[int] = ..., draft: _Optional[_Union[Draft, _Mapping[str, object]]] = ..., verdict: _Optional[_Union[Verdict, _Mapping[str, object]]] = ..., hint: _Optional[_Union[Hint, _Mapping[str, object]]] = ..., decode: _Optional[_Union[Decode, _Mapping[str, object]]] = ..., ping: _Optional[_Union[Ping, _Mapping[str, object]]] = ..., pong: _Optional[_Union[Pong, _Mapping[str, object]]] = ..., open: _Optional[_Union[Open, _Mapping[str, object]]] = ..., resume: _Optional[_Union[Resume, _Mapping[str, object]]] = ..., close: _Optional[_Union[Close, _Mapping[str, object]]] = ..., need_resume: _Optional[_Union[NeedResume, _Mapping[str, object]]] = ..., resync: _Optional[_Union[Resync, _Mapping[str, object]]] = ..., failure: _Optional[_Union[Failure, _Mapping[str, object]]] = ..., hello: _Optional[_Union[Hello, _Mapping[str, object]]] = ..., welcome: _Optional[_Union[Welcome, _Mapping[str, object]]] = ..., go_away: _Optional[_Union[GoAway, _Mapping[str, object]]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "fingerprint", "device")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    fingerprint: str
    device: str
    def __init__(self, protocol: _Optional[int] = ..., fingerprint: _Optional[str] = ..., device: _Optional[str] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "seed")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_tokens", "stop_tokens", "without_hints", "lossy_exit")
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_HINTS_FIELD_NUMBER: _ClassVar[int]
    LOSSY_EXIT_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    stop_tokens: _containers.RepeatedScalarFieldContainer[int]
    without_hints: bool
    lossy_exit: int
    def __init__(self, max_tokens: _Optional[int] = ..., stop_tokens: _Optional[_Iterable[int]] = ..., without_hints: _Optional[bool] = ..., lossy_exit: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("session", "prompt", "sampling", "limits", "traceparent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    prompt: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    limits: Limits
    traceparent: str
    def __init__(self, session: _Optional[bytes] = ..., prompt: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping[str, object]]] = ..., limits: _Optional[_Union[Limits, _Mapping[str, object]]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Draft(_message.Message):
    __slots__ = ("round", "base", "digest", "tokens", "forced", "round_trip", "deadline_ms")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    round: int
    base: int
    digest: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    forced: int
    round_trip: int
    deadline_ms: int
    def __init__(self, round: _Optional[int] = ..., base: _Optional[int] = ..., digest: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., forced: _Optional[int] = ..., round_trip: _Optional[int] = ..., deadline_ms: _Optional[int] = ...) -> None: ...

class Decode(_message.Message):
    __slots__ = ("round", "base", "digest", "count", "round_trip", "deadline_ms")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    round: int
    base: int
    digest: int
    count: int
    round_trip: int
    deadline_ms: int
    def __init__(self, round: _Optional[int] = ..., base: _Optional[int] = ..., digest: _Optional[int] = ..., count: _Optional[int] = ..., round_trip: _Optional[int] = ..., deadline_ms: _Optional[int] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("session", "tokens", "prompt_length", "sampling", "limits", "traceparent")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    session: bytes
    tokens: _containers.RepeatedScalarFieldContainer[int]
    prompt_length: int
    sampling: Sampling
    limits: Limits
    traceparent: str
    def __init__(self, session: _Optional[bytes] = ..., tokens: _Optional[_Iterable[int]] = ..., prompt_length: _Optional[int] = ..., sampling: _Optional[_Union[Sampling, _Mapping[str, object]]] = ..., limits: _Optional[_Union[Limits, _Mapping[str, object]]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Close(_message.Message):
    __slots__ = ("session_check",)
    SESSION_CHECK_FIELD_NUMBER: _ClassVar[int]
    session_check: int
    def __init__(self, session_check: _Optional[int] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "server_epoch", "model", "fingerprint", "vocabulary", "context", "exits", "dtype", "max_draft", "lossy_exit", "pass_us", "row_us")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SERVER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    EXITS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_FIELD_NUMBER: _ClassVar[int]
    LOSSY_EXIT_FIELD_NUMBER: _ClassVar[int]
    PASS_US_FIELD_NUMBER: _ClassVar[int]
    ROW_US_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    server_epoch: int
    model: str
    fingerprint: str
    vocabulary: int
    context: int
    exits: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    max_draft: int
    lossy_exit: int
    pass_us: int
    row_us: int
    def __init__(self, protocol: _Optional[int] = ..., server_epoch: _Optional[int] = ..., model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., vocabulary: _Optional[int] = ..., context: _Optional[int] = ..., exits: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., max_draft: _Optional[int] = ..., lossy_exit: _Optional[int] = ..., pass_us: _Optional[int] = ..., row_us: _Optional[int] = ...) -> None: ...

class Hint(_message.Message):
    __slots__ = ("round", "exit_layer", "accepted", "token", "confidence")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    EXIT_LAYER_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    round: int
    exit_layer: int
    accepted: int
    token: int
    confidence: int
    def __init__(self, round: _Optional[int] = ..., exit_layer: _Optional[int] = ..., accepted: _Optional[int] = ..., token: _Optional[int] = ..., confidence: _Optional[int] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("round", "base", "accepted", "token", "finish", "queued", "computed", "session_check")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_FIELD_NUMBER: _ClassVar[int]
    SESSION_CHECK_FIELD_NUMBER: _ClassVar[int]
    round: int
    base: int
    accepted: int
    token: int
    finish: Finish
    queued: int
    computed: int
    session_check: int
    def __init__(self, round: _Optional[int] = ..., base: _Optional[int] = ..., accepted: _Optional[int] = ..., token: _Optional[int] = ..., finish: _Optional[_Union[Finish, str]] = ..., queued: _Optional[int] = ..., computed: _Optional[int] = ..., session_check: _Optional[int] = ...) -> None: ...

class Resync(_message.Message):
    __slots__ = ("length", "digest", "tail")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    length: int
    digest: int
    tail: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, length: _Optional[int] = ..., digest: _Optional[int] = ..., tail: _Optional[_Iterable[int]] = ...) -> None: ...

class NeedResume(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("retry_after_ms", "endpoints")
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    retry_after_ms: int
    endpoints: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, retry_after_ms: _Optional[int] = ..., endpoints: _Optional[_Iterable[str]] = ...) -> None: ...

class Pong(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "retryable", "concerns_session", "retry_after_ms", "session_check")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    CONCERNS_SESSION_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    SESSION_CHECK_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    retryable: bool
    concerns_session: bool
    retry_after_ms: int
    session_check: int
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., retryable: _Optional[bool] = ..., concerns_session: _Optional[bool] = ..., retry_after_ms: _Optional[int] = ..., session_check: _Optional[int] = ...) -> None: ...
