"""Drafts and exit heads that come with foredraft, a folder for each target; see :mod:`foredraft_shared.models.artifacts`."""
