"""What tests of devices and servers with keys share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from foredraft_shared.models import Tokenizer


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device's own configuration folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "foredraft"


@pytest.fixture
def audit() -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """The lines of the audit log about something that was refused, or about everything that was."""
    with structlog.testing.capture_logs() as logs:
        yield lambda *what: [line for line in logs if line["event"] == "refused" and (not what or line["what"] in what)]


@pytest.fixture
def tokenizer(smollm2: Any) -> Tokenizer:
    return smollm2.tokenizer  # type: ignore[no-any-return]
