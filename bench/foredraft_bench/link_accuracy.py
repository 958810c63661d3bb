"""How true the link emulator is, and what it costs: ``python -m foredraft_bench.link_accuracy``.

Forty bytes go through the emulator (a process of its own) to an echo server and back. The error is what the round trip
takes beyond the emulated one and beyond the way without emulator, halved: the error of one direction.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from foredraft_shared.transports.address import parse_host_port
from foredraft_shared.transports.link_process import LinkProcess

__all__ = ["main"]

_MESSAGE = bytes(40)
_ROUNDS = 200


def main() -> None:
    """Print a table."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    direct = _percentiles(_round_trips_ms(address))
    print(f"without emulator: p50 {direct[0]:.3f} ms, p95 {direct[1]:.3f} ms")
    print("rtt ms   p50 ms   p95 ms   error each way p50 ms   CPU us a round trip   share of a core")
    for rtt_ms in (0, 5, 20, 50):
        with LinkProcess(address, rtt_ms=rtt_ms) as link:
            _round_trips_ms(link.address, 5)
            before, began = _cpu_s(link.pid), time.perf_counter()
            p50, p95 = _percentiles(_round_trips_ms(link.address))
            cpu, took = _cpu_s(link.pid) - before, time.perf_counter() - began
        error = (p50 - direct[0] - rtt_ms) / 2
        print(f"{rtt_ms:6}{p50:9.3f}{p95:9.3f}{error:24.3f}{cpu / _ROUNDS * 1e6:22.0f}{cpu / took:18.2%}")


def _serve(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(4096):
                connection.sendall(data)


def _round_trips_ms(address: str, count: int = _ROUNDS) -> list[float]:
    times = []
    with socket.create_connection(parse_host_port(address)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            time.sleep(0.005)
            began = time.perf_counter()
            connection.sendall(_MESSAGE)
            received = 0
            while received < len(_MESSAGE):
                received += len(connection.recv(4096))
            times.append((time.perf_counter() - began) * 1000)
    return times


def _percentiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return ordered[len(ordered) // 2], ordered[len(ordered) * 95 // 100]


def _cpu_s(pid: int) -> float:
    """Seconds of processor time a process has used."""
    # The scheduler's own count, in nanoseconds: /proc/PID/stat counts in hundredths of a second.
    total = 0
    with contextlib.suppress(OSError), open(f"/proc/{pid}/schedstat") as file:
        total = int(file.read().split()[0])
    return total / 1e9


if __name__ == "__main__":
    main()
