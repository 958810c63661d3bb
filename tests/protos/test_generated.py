"""The committed Python is what the .proto files generate."""

from pathlib import Path

import pytest

from foredraft_protos.generate import HERE, generate

pytest.importorskip("grpc_tools", reason="needs grpcio-tools: pip install foredraft[dev]")


def test_generated_code_is_fresh(tmp_path: Path) -> None:
    written = generate(tmp_path)
    assert written
    for path in written:
        committed = HERE / path.name
        assert committed.read_text() == path.read_text(), (
            f"{path.name} is not what its .proto says; run python -m foredraft_protos.generate"
        )


def test_nothing_is_left_over_from_a_removed_proto() -> None:
    generated = {path.name.split("_pb2")[0] for path in HERE.glob("*_pb2.py*")}
    assert generated == {path.stem for path in HERE.glob("*.proto")}
