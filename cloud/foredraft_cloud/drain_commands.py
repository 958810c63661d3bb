"""``foredraft drain``: have a server finish what it is at, and stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["drain"]


def drain(
    control: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Of the server's control plane.")],
    grace: Annotated[float, typer.Option(min=0.0, help="Seconds that open sessions have to finish.")] = 30.0,
    data: Annotated[Path | None, typer.Option(envvar="FOREDRAFT_DATA", help="Folder of that server's keys.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for its answer.")] = 10.0,
) -> None:
    """Have a server take no new sessions, finish those that are open, and stop; run where its keys are."""
    import grpc

    from foredraft_protos import control_plane_pb2 as plane
    from foredraft_protos import control_plane_pb2_grpc as plane_grpc
    from foredraft_shared.control_channel import control_channel, raise_for

    from .identity import certificate, operator_secret
    from .keys import data_folder

    folder = data or data_folder()
    bearer = (("authorization", f"Bearer {operator_secret(folder)}"),)
    with control_channel(control, certificate(folder).fingerprint, timeout) as channel:
        request = plane.DrainRequest(grace_ms=round(grace * 1000))
        try:
            reply = plane_grpc.ControlPlaneStub(channel).Drain(request, timeout=timeout, metadata=bearer)
        except grpc.RpcError as error:
            raise_for(error, control)
    typer.echo(f"draining; open sessions: {reply.sessions}, which have {grace:g} s to finish.")
