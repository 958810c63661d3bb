"""``/metrics`` and ``/health`` over real sockets: open on loopback, with TLS and a token beyond it."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import real_world

from foredraft_cloud.identity import metrics_secret
from foredraft_cloud.metrics import ServerCollector, registry_of
from foredraft_cloud.metrics_server import MetricsServer
from foredraft_cloud.options import EngineStatistics
from foredraft_cloud.tally import Tally
from foredraft_cloud.toy import ToyTarget
from foredraft_cloud.watch import Watch
from foredraft_edge.link import Link
from foredraft_shared.errors import AddressInUse, UsageError
from foredraft_shared.ledger import Ledger
from foredraft_shared.messages import Open, Verdict
from foredraft_shared.private_files import write_private
from foredraft_shared.transports.base import Counters

pytestmark = pytest.mark.timeout(60)


def get(url: str, token: str = "", context: ssl.SSLContext | None = None) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - of our own server
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def shown(server: MetricsServer, status: list[str]) -> MetricsServer:
    collector = ServerCollector(
        Tally(),
        model="toy",
        dtype="none",
        health=lambda: status[0],
        cache_usage=lambda: 0.0,
        statistics=EngineStatistics(),
        wire=Counters(),
    )
    server.show(registry_of(collector), lambda: {"status": status[0], "model": "toy"})
    return server


@pytest.fixture
def status() -> list[str]:
    return ["ready"]


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[MetricsServer]:
    with MetricsServer("127.0.0.1:0", tmp_path) as server:
        yield server


def test_health_says_what_the_server_is_up_to(plain: MetricsServer, status: list[str]):
    assert get(f"{plain.url}/health") == (503, '{"status": "starting"}\n')
    assert get(f"{plain.url}/metrics")[0] == 503
    shown(plain, status)
    for word, code in (("ready", 200), ("draining", 503), ("failed", 503)):
        status[0] = word
        answered, body = get(f"{plain.url}/health")
        assert (answered, json.loads(body)["status"]) == (code, word)
    assert get(f"{plain.url}/")[0] == 404


def test_beyond_this_machine_metrics_want_tls_and_the_token(tmp_path: Path, status: list[str]):
    with shown(MetricsServer("0.0.0.0:0", tmp_path), status) as server:
        url = f"https://127.0.0.1:{server.address.rpartition(':')[2]}"
        context = ssl.create_default_context(cafile=str(tmp_path / "control.crt"))
        context.check_hostname = False
        assert get(f"{url}/metrics", context=context)[0] == 401
        assert get(f"{url}/metrics", "guess", context)[0] == 401
        answered, body = get(f"{url}/metrics", metrics_secret(tmp_path), context)
        assert (answered, "foredraft:server_info" in body) == (200, True)
        assert get(f"{url}/health", context=context) == (200, '{"status": "ready"}\n')
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            get(url.replace("https", "http") + "/health")
        assert (tmp_path / "metrics.secret").stat().st_mode & 0o077 == 0


def test_without_a_secret_nobody_is_let_in_and_a_damaged_one_is_said_at_once(tmp_path: Path, status: list[str]):
    with shown(MetricsServer("0.0.0.0:0", tmp_path), status) as server:
        pages = server._pages
        pages._token = ""
        for shows in ("", "Bearer ", "Bearer"):
            assert pages.page("/metrics", shows, "")[0] == 401
        assert json.loads(pages.page("/health", "", "")[2]) == {"status": "ready"}
    for name in ("metrics.secret", "control.key"):
        write_private(tmp_path / name, b"")
        with pytest.raises(UsageError, match=f"{name} is damaged"):
            MetricsServer("0.0.0.0:0", tmp_path)
        (tmp_path / name).unlink()


def test_who_says_nothing_does_not_keep_others_from_asking(plain: MetricsServer, status: list[str]):
    shown(plain, status)
    host, _, port = plain.address.rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(4)]
    try:
        assert get(f"{plain.url}/health")[0] == 200
        silent[0].settimeout(10.0)
        assert silent[0].recv(1) == b""  # the server hangs up
    finally:
        for each in silent:
            each.close()


def test_a_port_in_use_and_an_address_that_is_none_are_said_at_once(plain: MetricsServer, tmp_path: Path):
    with pytest.raises(AddressInUse, match="--metrics"):
        MetricsServer(plain.address, tmp_path)
    with pytest.raises(UsageError, match="HOST:PORT"):
        MetricsServer("9100", tmp_path)


def test_a_server_that_works_is_seen_at_work_and_one_that_drains_is_not_ready(tmp_path: Path):
    watch = Watch("127.0.0.1:0", tmp_path)
    assert watch.http is not None
    try:
        with real_world.serving(ToyTarget(), "zmq", model="toy", observer=watch.observer) as service:
            watch.show(service.server)
            link = Link(service.connect(), where="the server")
            link.greet()
            ledger = Ledger(bytes(16), (1, 2))
            link.send(Open(ledger.session, (1, 2)))
            link.send(ledger.request(1))
            assert isinstance(link.receive(10.0), Verdict)
            assert 'foredraft:generation_tokens_total{model_name="toy"} 1.0' in get(f"{watch.http.url}/metrics")[1]
            assert json.loads(get(f"{watch.http.url}/health")[1]) == {"status": "ready", "model": "toy", "sessions": 1}
            service.server.drain(5.0)
            answered, body = get(f"{watch.http.url}/health")
            assert (answered, json.loads(body)["status"]) == (503, "draining")
            link.close()
    finally:
        watch.close()
