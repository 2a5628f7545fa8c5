"""What a build says when it can't go on."""

from __future__ import annotations


class BuildError(Exception):
    """The checkpoint or a setting does not allow a bundle; the message says what and why."""
