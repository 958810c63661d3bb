"""How true the link emulator is, and what it costs: ``python -m foredraft_bench.link_accuracy``.

Forty bytes go through the emulator (a process of its own) to an echo server and back. The error is what the round trip
takes beyond the emulated one and beyond the way without emulator, halved: the error of one direction. With a recording,
``python -m foredraft_bench.link_accuracy tests/data/link_recording.csv``, it is played once, and each round trip is held
against what the recording says of its moment.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import threading
import time
from pathlib import Path

from foredraft_shared.transports.address import parse_host_port
from foredraft_shared.transports.link_process import LinkProcess
from foredraft_shared.transports.recording import read_recording

__all__ = ["main"]

_MESSAGE = bytes(40)
_ROUNDS = 200


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="How true the link emulator is.")
    parser.add_argument("recording", nargs="?", type=Path, help="a CSV file to play")
    recording = parser.parse_args().recording
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    direct = _percentiles(_round_trips_ms(address))
    print(f"without emulator: p50 {direct[0]:.3f} ms, p95 {direct[1]:.3f} ms")
    if recording is not None:
        _play(address, recording, direct[0])
        return
    print("rtt ms   p50 ms   p95 ms   error each way p50 ms   CPU us a round trip   share of a core")
    for rtt_ms in (0, 5, 20, 50):
        with LinkProcess(address, rtt_ms=rtt_ms) as link:
            _round_trips_ms(link.address, 5)
            before, began = _cpu_s(link.pid), time.perf_counter()
            p50, p95 = _percentiles(_round_trips_ms(link.address))
            cpu, took = _cpu_s(link.pid) - before, time.perf_counter() - began
        error = (p50 - direct[0] - rtt_ms) / 2
        print(f"{rtt_ms:6}{p50:9.3f}{p95:9.3f}{error:24.3f}{cpu / _ROUNDS * 1e6:22.0f}{cpu / took:18.2%}")


def _play(address: str, path: Path, direct_ms: float) -> None:
    """The round trips of a recording, measured and as they should be; those that a new row began in are left out."""
    recording = read_recording(path)
    errors: list[float] = []
    rows: set[float] = set()
    with LinkProcess(address, recording=path) as link, socket.create_connection(parse_host_port(link.address)) as end:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        while (sent_s := time.perf_counter() - began) < recording.length_s:
            end.sendall(_MESSAGE)
            received = 0
            while received < len(_MESSAGE):
                received += len(end.recv(4096))
            came_s = time.perf_counter() - began
            if recording.at(sent_s) is recording.at(came_s):
                errors.append((came_s - sent_s) * 1e3 - recording.at(sent_s).rtt_ms - direct_ms)
                rows.add(recording.at(sent_s).rtt_ms)
    low, high = min(rows), max(rows)
    p50, p95 = _percentiles([error / 2 for error in errors])
    print(
        f"{path}: {len(errors)} round trips in {recording.length_s:.1f} s, {low:.0f} to {high:.0f} ms; "
        f"error each way p50 {p50:.3f} ms, p95 {p95:.3f} ms"
    )


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
