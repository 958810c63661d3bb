"""Damaged files are told of in one line, whatever the damage: settings, enrolments, traces, saved texts, trained weights.

Each kind is mutated 300 times here, and 20,000 times by ``make fuzz``.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_figures import frames_wanted, report
from fuzz_frames import mutated

from foredraft_cloud.identity import server_key_pair
from foredraft_edge.enrolment import enrolments
from foredraft_edge.saved import SavedText, SessionFile, load_text
from foredraft_shared.errors import ForedraftError
from foredraft_shared.messages import SamplingParams
from foredraft_shared.models.artifacts import load_artifact
from foredraft_shared.private_files import write_private
from foredraft_shared.settings import load_settings
from foredraft_shared.traces.reader import read_trace
from foredraft_shared.traces.records import HintRecord, RoundRecord
from foredraft_shared.traces.writer import TraceWriter
from foredraft_shared.transports.curve import new_key_pair
from foredraft_shared.transports.recording import read_recording

TIMES = 300 if frames_wanted(0) == 0 else 20_000
_JSON_LIES = (b"null", b"[]", b"{}", b"1e999", b"-1", b'""', b"true", b"[" * 3000, b"NaN", b'"\\ud800"', b"9" * 5000)


def settings(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "config.toml"
    path.write_text('[generate]\nserver = "tcp://cloud.example:5555"\nmax-tokens = 512\n[serve]\nthreads = 2\n')
    return path, lambda: load_settings(path, ("generate", "serve"))


def enrolment(folder: Path) -> tuple[Path, Callable[[], Any]]:
    keys, path = new_key_pair(), folder / "foredraft" / "enrolments" / "one.json"
    fields = {
        "control": "cloud.example:5556",
        "endpoints": ["tcp://192.0.2.7:5555"],
        "server_key": keys.public,
        "fingerprint": "ab" * 32,
        "device": "robot",
        "public_key": keys.public,
        "secret_key": keys.secret,
        "model": "toy",
    }
    path.parent.mkdir(parents=True, mode=0o700)
    write_private(path, json.dumps(fields).encode())
    return path, enrolments


def server_key(folder: Path) -> tuple[Path, Callable[[], Any]]:
    server_key_pair(folder)
    return folder / "server.key", lambda: server_key_pair(folder)


def saved_text(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "saved.jsonl"
    text = SavedText(bytes(16), (1, 2, 3), SamplingParams(0.5), 100, (0,), "toy", "f00d", "float32")
    file = SessionFile(path, text, begin=True)
    for number in range(5):
        file.committed((number, 7), "")
    file.epoch(2)
    file.close()
    return path, lambda: load_text(path)


def recording(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "walk.csv"
    path.write_text("time_s,delay_ms,rate_mbps\n0,10,4\n0.5,40,1\n1.5,20,9\n")
    return path, lambda: read_recording(path)


def artifact(folder: Path) -> tuple[Path, Callable[[], Any]]:
    from safetensors.numpy import save_file

    from foredraft_shared.models import artifacts

    path = folder / "draft.safetensors"
    metadata = {
        "format": artifacts._FORMAT,
        "kind": "draft",
        "target": "toy",
        "target_fingerprint": "f00d",
        "facts": {"layers": 2},
    }
    tensors = {
        "w": np.ones((4, 8), np.int8),
        "w" + artifacts._SCALE: np.ones(4, np.float16),
        "b": np.ones(4, np.float16),
    }
    save_file(tensors, path, metadata={artifacts._KEY: json.dumps(metadata)})
    return path, lambda: load_artifact(path, "draft")


def trace(folder: Path) -> tuple[Path, Callable[[], Any]]:
    path = folder / "run.jsonl"
    with TraceWriter(path, labels={"model": "toy"}) as writer:
        for number in range(1, 4):
            writer.write(RoundRecord("ab" * 16, number, base=10, drafted=4, hints=[HintRecord(1, 10, 4, 7, 0.9)]))
    return path, lambda: read_trace(path)


KINDS = (trace, settings, enrolment, server_key, saved_text, recording, artifact)


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[Path], tuple[Path, Callable[[], Any]]]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path, read = kind(tmp_path)
    read()  # it is right as it is
    right, dice, refusals = path.read_bytes(), random.Random(3), list[str]()
    for _ in range(TIMES):
        data = mutated(dice, right, right)
        if dice.random() < 0.3:
            where = dice.randrange(len(data) + 1)
            data = data[:where] + dice.choice(_JSON_LIES) + data[where + dice.randrange(20) :]
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # numbers beyond what a float holds
                read()
        except ForedraftError as error:
            refusals.append(str(error))
        except Exception as error:
            raise AssertionError(f"{data[:2000]!r} is refused with {error!r}") from error
    refused = len(refusals)
    assert [sentence for sentence in refusals if not sentence or "\n" in sentence] == []
    report(f"files-{kind.__name__}", {"files": TIMES, "refused": refused, "read": TIMES - refused})
    assert refused > 0
