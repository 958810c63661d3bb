"""Prompt files, good and bad: each complaint names the line and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foredraft_bench.prompts import read_prompts
from foredraft_shared.errors import UsageError


def test_prompts_and_turns(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(
        b"\xef\xbb\xbf"
        b'{"prompt": "Why?", "turns": ["not this"]}\r\n\r\n'
        + '{"turns": ["Wo ist die Straße?", "And then?"], "id": 7}\n  \n{"prompt": "日本\\n語"}'.encode()
    )
    assert read_prompts(file) == ["Why?", "Wo ist die Straße?", "日本\n語"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"prompt": "a"}\n{"prompt": "stra\xdfe"}\n', r"line 2 of .* is not UTF-8 \(byte 17 of the line\); save"),
        (b'{"prompt": "a"}\n\n{"prompt": "b"\n', r"line 3 of .* is not JSON \(.* at column \d+\); write one object"),
        (b'\xff\xfe{\x00"\x00', r"line 1 of .* is not UTF-8 \(byte 1 of"),
        (b'["a"]\n', r"line 1 of .* has no question; give it"),
        (b'{"prompt": 3}\n', r"line 1 of .* has no question"),
        (b'{"prompt": "  "}\n', r"line 1 of .* has no question"),
        (b'{"turns": []}\n', r"line 1 of .* has no question"),
        (b'{"turns": "Why?"}\n', r"line 1 of .* has no question"),
        (b'{"question": "Why?"}\n', r"line 1 of .* has no question"),
        (b'{"prompt": "\\ud800"}\n', r"line 1 of .* holds half a character"),
        (b"[" * 100_000, r"line 1 of .* is not JSON"),
        (b"\n \n", r"holds no prompts; write one JSON object a line"),
        (b"", r"holds no prompts"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_prompts(file)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="other systems say it differently")
@pytest.mark.parametrize(("name", "reason"), [("missing.jsonl", "No such file or directory"), ("", "Is a directory")])
def test_files_that_cannot_be_read(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=rf"cannot read the prompts .*{reason}; check --prompts"):
        read_prompts(tmp_path / name)
