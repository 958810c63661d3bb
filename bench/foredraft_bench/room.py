"""Whether a model's context has room for what a benchmark wants to have cached."""

from __future__ import annotations

from foredraft_shared.errors import UsageError

__all__ = ["check_room"]


def check_room(cached: int, written: int, context: int) -> None:
    """Complain now rather than in the middle of the work.

    Args:
        cached: tokens before the passes, as ``--cached`` says.
        written: most tokens that the passes add to them.
        context: most tokens there may be.

    Raises:
        UsageError: there would be more.
    """
    if cached + written > context:
        most = context - written
        cure = f"give at most {most}" if most > 0 else "ask for less"
        raise UsageError(
            f"--cached {cached} and the {written} tokens that the passes add do not fit into a context of {context}; {cure}."
        )
