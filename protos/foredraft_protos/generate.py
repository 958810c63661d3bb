"""Generate the Python beside each ``.proto`` file: ``python -m foredraft_protos.generate`` (needs ``foredraft[dev]``).

The generated files are committed, so that nobody needs a compiler to install foredraft; ``tests/protos`` proves them
fresh.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["generate"]

HERE = Path(__file__).resolve().parent


def generate(into: Path) -> list[Path]:
    """Write ``*_pb2.py`` and ``*_pb2.pyi`` of every ``.proto`` file here below ``into``; return what was written.

    A file with a service gets its ``*_pb2_grpc.py`` too.

    Args:
        into: the folder that holds (or will hold) ``foredraft_protos/``.

    Raises:
        RuntimeError: the compiler refused; it has said why on standard error.
    """
    try:
        from grpc_tools import protoc
    except ImportError:
        raise RuntimeError("grpcio-tools is missing; install foredraft[dev].") from None
    sources = sorted(HERE.glob("*.proto"))
    # The path as seen from the import root, so that the generated modules import each other as foredraft_protos.x_pb2.
    names = [source.relative_to(HERE.parent).as_posix() for source in sources]
    status = protoc.main(["protoc", f"-I{HERE.parent}", f"--python_out={into}", f"--pyi_out={into}", *names])
    services = [name for source, name in zip(sources, names, strict=True) if "\nservice " in source.read_text()]
    for name in services if status == 0 else ():
        status = status or protoc.main(["protoc", f"-I{HERE.parent}", f"--grpc_python_out={into}", name])
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status}; its complaint stands above.")
    written = [into / HERE.name / f"{source.stem}_pb2{suffix}" for source in sources for suffix in (".py", ".pyi")]
    for path in written:
        if path.suffix == ".pyi":  # protoc writes a bare Mapping, which mypy --strict refuses
            path.write_text(re.sub(r"\b_Mapping\]", "_Mapping[str, object]]", path.read_text()))
    return written + [into / name.replace(".proto", "_pb2_grpc.py") for name in services]


if __name__ == "__main__":
    try:
        for path in generate(HERE.parent):
            print(path.relative_to(HERE.parent))
    except RuntimeError as error:
        sys.exit(str(error))
