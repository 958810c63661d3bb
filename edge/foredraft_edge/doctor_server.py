"""What ``foredraft doctor`` sees on the way to a server, step by step: the name, the port, who is there, the keys, the
greeting, the round trip, the model, and whether drafting for it would pay. The first step that fails is the last.

All times are this device's own, so that no clocks need to agree.
"""

from __future__ import annotations

import secrets
import socket
import ssl
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress

from foredraft_shared.errors import DeadlineMissed, Diverged, ForedraftError, LinkError, LinkLost, Overloaded
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Close, Failure, Open, SamplingParams, Verdict, Welcome
from foredraft_shared.models import Tokenizer, open_model
from foredraft_shared.transports.address import is_loopback, parse_address, parse_host_port, unix_socket_is_alive
from foredraft_shared.transports.handshake import server_mechanism
from foredraft_shared.transports.zmq import ZmqTransport

from . import doctor, enrolment
from .doctor import Answer, Finding, Trial
from .doctor_device import guarded, open_draft, within
from .drafters.base import Drafter
from .link import Link, error_from
from .loop import RoundLoop
from .options import LoopOptions
from .planner import AdaptivePlanner

__all__ = ["examine_server"]

PINGS = 40
PING_TIMEOUT_S = 1.0
"""At least; over a long way it is…"""
PING_ROUND_TRIPS = 3.0
"""…so many of the greeting's round trip."""
LONGEST_PING_S = 5.0
"""The greeting may have waited for a server that was still loading."""
PING_INTERVAL_S = 0.02
ANSWER_TOKENS = 8
TRIAL_TOKENS = 32
_QUESTION = "Why is the sky blue? Answer in three sentences."


class _Ended(Exception):
    """A step failed: what lies behind it cannot be looked at."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.finding)
        self.finding = finding


class Patience:
    """A time by which all is to be done."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def left_s(self, at_most_s: float = float("inf")) -> float:
        """Seconds left, but no more than this."""
        return max(0.0, min(self._until - time.monotonic(), at_most_s))


def examine_server(address: str, draft: str, timeout_s: float) -> Iterator[Finding]:
    """Look at a server and say what there is, a finding at a time.

    Args:
        address: of its token plane, ``tcp://HOST:PORT`` or ``ipc://PATH``.
        draft: as ``foredraft generate --draft`` takes it; ``none`` leaves drafting out.
        timeout_s: for everything.

    Raises:
        UsageError: that is no address.
    """
    patience = Patience(timeout_s)
    kind, place = parse_address(address)
    try:
        if kind == "tcp":
            yield from _way(address, patience)
        elif not unix_socket_is_alive(place):
            nobody = f"nobody listens at {address}"
            raise _Ended(Finding("server", "fail", nobody, f"start it: foredraft serve --bind {address}"))
        transport = ZmqTransport(address, secure=enrolment.secure_for(address))
        try:
            yield from _talk(Link(transport, where=address, device="doctor"), address, draft, patience)
        finally:
            transport.close()
    except _Ended as ended:
        yield ended.finding
    except ForedraftError as error:
        yield doctor.from_error("server", error)


# --- the way ---------------------------------------------------------------------------------------------------------


def _way(address: str, patience: Patience) -> Iterator[Finding]:
    host, port = parse_host_port(address)
    numbers = _resolve(host, port, patience)
    if numbers != host:
        yield Finding("name", "ok", f"{host} is {numbers}")
    yield _reach(address, numbers, port, patience)
    mechanism = within(patience.left_s(3.0), "asking who listens", lambda: server_mechanism(address))
    if not mechanism:
        raise _Ended(_stranger(address, (numbers, port), patience))
    entry = enrolment.enrolment_for(address)
    if mechanism == "CURVE" and entry is None:
        other = _enrolled_under_another_name(numbers, port)
        if other:
            raise _Ended(
                Finding(
                    "enrolment",
                    "fail",
                    f"this device is enrolled with {other}, which is the same server under another name",
                    f"use that address: --server {other}",
                )
            )
        raise _Ended(
            Finding(
                "enrolment",
                "fail",
                f"{address} takes only enrolled devices, and this one is not enrolled",
                "ask its operator for a token (`foredraft keys token`), then run `foredraft enroll`.",
            )
        )
    if mechanism == "CURVE":
        yield Finding("encryption", "ok", "CURVE, and this device has keys for it")
    elif entry is not None:
        raise _Ended(
            Finding(
                "encryption",
                "fail",
                f"this device is enrolled at {address}, but what answers there does not encrypt",
                f"start the server with --secure; if it is meant to be in the clear: foredraft enroll {entry.control} --forget.",
            )
        )
    elif is_loopback(host):
        yield Finding("encryption", "ok", "none, on this machine alone")
    else:
        yield Finding(
            "encryption", "warn", f"{address} does not encrypt: everybody on the way can read the text",
            "serve with keys (`foredraft serve --secure`), then enrol this device.",
        )  # fmt: skip


def _resolve(host: str, port: int, patience: Patience) -> str:
    """The address in numbers."""
    remedy = "check the spelling; if other names fail, too, it is this device's name service. Numbers always work."
    try:
        found = within(
            patience.left_s(5.0),
            f"asking for the name {host}",
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
        )
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise _Ended(Finding("name", "fail", f"{host} does not resolve ({why})", remedy)) from None
    except DeadlineMissed:
        raise _Ended(Finding("name", "fail", f"{host} does not resolve: no name service answers", remedy)) from None
    # ZeroMQ asks for version 4 unless the address is written in version 6: see its transport.
    wanted = [entry for entry in found if entry[0] == (socket.AF_INET6 if ":" in host else socket.AF_INET)]
    return str((wanted or found)[0][4][0])


def _reach(address: str, numbers: str, port: int, patience: Patience) -> Finding:
    local = "foredraft serve" if is_loopback(numbers) else f"foredraft serve --bind tcp://0.0.0.0:{port}"
    wait_s = patience.left_s(3.0)
    begun = time.perf_counter()
    try:
        with socket.create_connection((numbers, port), max(wait_s, 0.1)):
            took_ms = (time.perf_counter() - begun) * 1000.0
    except ConnectionRefusedError:
        finding, remedy = f"nobody listens at {address}", f"start the server there ({local}), or correct the port."
    except TimeoutError:
        finding = (
            f"{address} does not answer within {wait_s:.0f} s: the machine is off, or a firewall drops what is sent"
        )
        remedy = f"see that the machine is on, and let TCP port {port} pass its firewall."
    except OSError as error:
        finding, remedy = (
            f"there is no way to {address} ({error.strerror})",
            "check this device's network: cable, Wi-Fi, VPN.",
        )
    else:
        return Finding(
            "port", "ok", f"{numbers}:{port} takes connections, in {took_ms:.1f} ms", figures={"ms": took_ms}
        )
    raise _Ended(Finding("port", "fail", finding, remedy))


def _stranger(address: str, where: tuple[str, int], patience: Patience) -> Finding:
    said, hung_up = _first_words(where, patience.left_s(1.0))
    return doctor.stranger(address, said=said, certificate=_certificate(where, patience.left_s(2.0)), hung_up=hung_up)


def _first_words(where: tuple[str, int], wait_s: float) -> tuple[bytes, bool]:
    """What a server says first, if need be to a line of HTTP; and whether it only hangs up."""
    try:
        with socket.create_connection(where, max(wait_s, 0.1)) as connection:
            connection.settimeout(max(wait_s / 2, 0.1))
            with suppress(TimeoutError):
                said = connection.recv(64)
                return said, not said
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.recv(64), False
    except TimeoutError:
        return b"", False
    except OSError:
        return b"", True


def _certificate(where: tuple[str, int], wait_s: float) -> bytes:
    """What a server shows of itself in TLS, in DER: to be looked at, not trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        with (
            socket.create_connection(where, max(wait_s, 0.1)) as plain,
            context.wrap_socket(plain) as encrypted,
        ):
            return encrypted.getpeercert(binary_form=True) or b""
    except (OSError, ValueError):
        return b""


def _enrolled_under_another_name(numbers: str, port: int) -> str | None:
    for entry in enrolment.enrolments():
        for endpoint in entry.endpoints:
            host, their_port = parse_host_port(endpoint)
            if their_port != port:
                continue
            with suppress(OSError, DeadlineMissed, UnicodeError):
                if within(1.0, "asking for a name", lambda host=host: socket.gethostbyname(host)) == numbers:  # type: ignore[misc]
                    return endpoint
    return None


# --- the talk --------------------------------------------------------------------------------------------------------


def _talk(link: Link, address: str, draft: str, patience: Patience) -> Iterator[Finding]:
    try:
        welcome = link.greet(patience.left_s(5.0))
    except (LinkError, Overloaded) as error:
        enrolled = enrolment.enrolment_for(address) is not None
        raise _Ended(doctor.greeting_refused(address, error, enrolled=enrolled)) from None
    dtype = f" in {welcome.dtype}" if welcome.dtype else ""
    exits = f", hints from layers {', '.join(map(str, welcome.exits[:-1]))}" if welcome.exits[:-1] else ""
    if welcome.lossy_exit:
        exits = f", lossy: layer {welcome.lossy_exit} taken as final, for those who ask with --lossy"
    yield Finding("server", "ok", f"{welcome.model}{dtype}, context of {welcome.context} tokens{exits}")
    samples_ms, lost = _ping(link, patience)
    finding = doctor.round_trips(samples_ms, lost)
    if finding.status == "fail":
        raise _Ended(finding)
    yield finding
    answer = _ask(link, welcome, patience)
    finding = doctor.model_answers(answer, ANSWER_TOKENS)
    if finding.status == "fail":
        raise _Ended(finding)
    yield finding
    if draft == "none":
        return
    finding, drafter, tokenizer = open_draft(draft, welcome.model, patience.left_s())
    yield finding
    if drafter is None:
        return
    try:
        if drafter.vocabulary and drafter.vocabulary != welcome.fingerprint:
            raise _Ended(
                Finding(
                    "tokenizer",
                    "fail",
                    f"the draft's tokenizer ({drafter.vocabulary[:8]}) is not that of {welcome.model} "
                    f"({welcome.fingerprint[:8]}): the same numbers would be other words",
                    "take a draft of the target's own family, or --draft ngram.",
                )
            )
        yield Finding("tokenizer", "ok", f"draft and target speak the same token ids ({welcome.fingerprint[:8]})")
        if answer.tokens == ANSWER_TOKENS:
            rtt_ms = statistics.median(samples_ms)
            yield guarded("speculation", lambda: _try(link, welcome, drafter, tokenizer, answer, rtt_ms, patience))
    finally:
        drafter.close()


def _ping(link: Link, patience: Patience) -> tuple[list[float], int]:
    """Round trips in milliseconds, and how many pings were not answered in time; not one for which no time was left."""
    samples_ms: list[float] = []
    lost = 0
    wait_s = _ping_wait_s(link)
    until = Patience(patience.left_s(max(3.0, 2.0 * wait_s)))
    for nonce in range(1, PINGS + 1):
        whole = until.left_s() >= wait_s
        try:
            took_ms = link.ping(nonce, until.left_s(wait_s))
        except LinkLost:
            took_ms, whole = None, True
        if took_ms is not None:
            samples_ms.append(took_ms)
        elif whole or (not samples_ms and until.left_s() <= 0.0):
            lost += 1
        if until.left_s() <= 0.0 or lost >= 3:
            break
        time.sleep(min(PING_INTERVAL_S, until.left_s()))
    return samples_ms, lost


def _ping_wait_s(link: Link) -> float:
    """How long an answer may take over this way."""
    return min(max(PING_TIMEOUT_S, PING_ROUND_TRIPS * link.rtt_ms / 1000.0), LONGEST_PING_S)


def _ask(link: Link, welcome: Welcome, patience: Patience) -> Answer:
    """Let the target write a few tokens alone."""
    ledger = Ledger(secrets.token_bytes(16), _prompt(welcome, None))
    link.send(
        Open(
            ledger.session, tuple(ledger.tokens), SamplingParams(), ANSWER_TOKENS, hints=False, lossy_exit=welcome.lossy_exit
        )
    )  # fmt: skip
    request = ledger.request(ANSWER_TOKENS)
    link.send(request)
    begun = time.perf_counter()
    ping_s = _ping_wait_s(link)
    until = Patience(patience.left_s(8.0 + ping_s) - ping_s)  # a ping afterwards has its time, too
    passes_ms: list[float] = []
    queued_ms = 0.0
    repeat_s = ping_s
    try:
        while len(passes_ms) < ANSWER_TOKENS and until.left_s() > 0.0:
            message = link.receive(until.left_s(repeat_s))
            if message is None:  # it may have been lost; a server that has it takes no notice
                link.send(request)
            elif isinstance(message, Failure):
                raise error_from(message)
            elif isinstance(message, Verdict) and message.session == ledger.session:
                try:
                    ledger.commit(message)
                except Diverged:  # one before it was lost, and is asked for again
                    continue
                passes_ms.append(message.timing.computed_us / 1000.0)
                queued_ms = max(queued_ms, message.timing.queued_us / 1000.0)
    except Overloaded as error:
        raise _Ended(
            Finding(
                "target",
                "fail",
                f"the server takes no more texts: {error}".rstrip("."),
                f"try again in {max(1, round(error.retry_after_ms / 1000))} s, or use another server.",
            )
        ) from None
    finally:
        with suppress(LinkError):
            link.send(Close(ledger.session, ledger.epoch))
    waited_ms = (time.perf_counter() - begun) * 1000.0
    alive = len(passes_ms) == ANSWER_TOKENS or _alive(link, patience)
    pass_ms = statistics.median(passes_ms[1:] or passes_ms or [0.0])
    return Answer(len(passes_ms), pass_ms, queued_ms, waited_ms, alive)


def _alive(link: Link, patience: Patience) -> bool:
    with suppress(LinkLost):
        return link.ping(PINGS + 1, patience.left_s(_ping_wait_s(link))) is not None
    return False


def _try(
    link: Link,
    welcome: Welcome,
    drafter: Drafter,
    tokenizer: Tokenizer | None,
    answer: Answer,
    rtt_ms: float,
    patience: Patience,
) -> Finding:
    """Write a short text together, and see what the planner makes of it."""
    planner = AdaptivePlanner(switch=False)
    planner.measured.decode_ms.add(answer.pass_ms)
    planner.measured.rtt_ms.add(rtt_ms)
    if tokenizer is None:
        with suppress(ForedraftError):
            tokenizer = open_model(welcome.model, offline=True).tokenizer
    loop = RoundLoop(
        link,
        Ledger(secrets.token_bytes(16), _prompt(welcome, tokenizer)),
        drafter,
        planner,
        SamplingParams(),
        max_tokens=TRIAL_TOKENS,
        max_draft=welcome.max_draft,
        lossy_exit=welcome.lossy_exit,
        options=LoopOptions(timeout_s=max(1.0, patience.left_s(5.0))),
    )
    run = loop.run()
    tokens = 0
    try:
        for commit in run:
            tokens += len(commit.tokens)
            if patience.left_s() <= 0.0:
                break
    finally:
        run.close()
    statistics_ = loop.statistics
    return doctor.speculation(
        Trial(
            planner, statistics_.drafted, statistics_.accepted, tokens, type(drafter).__name__.removesuffix("Drafter")
        )
    )


def _prompt(welcome: Welcome, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """A question, or where nobody can read, a few numbers that any target takes."""
    if tokenizer is not None and tokenizer.fingerprint == welcome.fingerprint:
        return tokenizer.encode(tokenizer.chat([{"role": "user", "content": _QUESTION}]))
    return tuple(number % welcome.vocabulary for number in (1, 2, 3, 4, 1, 2, 3, 4))
