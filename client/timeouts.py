"""What a timeout means, in every call of both clients."""

from __future__ import annotations

import math
from typing import Any

import click
import grpc

from .errors import DeadlineExceededError, InvalidArgumentError

# How long a call may take where the caller does not say, in seconds.
DEFAULT_TIMEOUT_S = 60.0

# gRPC counts a deadline in nanoseconds of 64 bits; one after this is none.
LONGEST_S = 100 * 365 * 86_400.0


class Seconds(click.FloatRange):
    """An option's value: of the range, and no "nan", which is in none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail("it must be a number of seconds.", param, ctx)
        return seconds


def seconds_of(timeout: float | None, default: float | None = None) -> float:
    """A call's timeout in seconds, `math.inf` for none.

    timeout: None for the default. 0 and less is a deadline that is past: what was left of a longer
        one may come out so.
    default: None for no timeout.

    Raises InvalidArgumentError for what is no number.
    """
    chosen = default if timeout is None else timeout
    if chosen is None:
        return math.inf
    if not isinstance(chosen, (int, float)) or math.isnan(chosen):
        raise InvalidArgumentError(f"timeout must be a number of seconds or None, got {chosen!r}")
    return math.inf if chosen > LONGEST_S else max(0.0, float(chosen))


def grpc_timeout(seconds: float) -> float | None:
    """As gRPC takes it. Raises DeadlineExceededError where none is left."""
    if seconds <= 0:
        raise DeadlineExceededError(
            "the timeout was over before the call", grpc.StatusCode.DEADLINE_EXCEEDED
        )
    return None if math.isinf(seconds) else seconds
