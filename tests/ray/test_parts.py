"""What needs no cluster."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

pytest.importorskip("ray", reason="needs ray: pip install 'electra-qa[ray]'")

from electra_qa.channels import KEEPALIVE_TIME_S
from electra_qa.server.errors import OverloadedError, StartError
from electra_qa.server.front.handlers import error_details
from electra_qa.server.ray.arguments import NOT_OF_A_REPLICA, parse_arguments
from electra_qa.server.ray.autoscaling import BUSY, QUEUED_TOKENS, ByTokens, Load
from electra_qa.server.ray.messages import EndedError, error_reply, message_reply, read_reply
from electra_qa.server.ray.methods import METHODS
from electra_qa.server.settings import ServerSettings


class TestArguments:
    def test_numbers_may_be_texts(self) -> None:
        arguments = parse_arguments(
            {"threads": "3", "max_queue_tokens": "7", "drain_timeout_s": "1.5", "device": "null"}
        )
        assert (arguments.threads, arguments.device) == (3, "null")
        assert arguments.settings == ServerSettings(max_queue_tokens=7, drain_timeout_s=1.5)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            (
                {"max_queue_token": 1},
                "max_queue_token is no argument; there are .*max_windows",
            ),
            ({"address": "0.0.0.0:1"}, "address is no argument"),
            ({"auth_tokens": "file"}, "auth_tokens is no argument"),
            ({"bundle": "a", "model": "b"}, "set one, not both"),
            ({"threads": "many"}, "threads: 'many' is not a valid integer range"),
            ({"threads": 0}, "threads: 0 is not in the range x>=1"),
            ({"max_windows": 0}, "max_windows: 0 is not in the range x>=1"),
            ({"max_windows": 1.5}, "max_windows: '1.5' is not a valid integer range"),
            ({"max_windows": None}, "max_windows: 'None' is not a valid integer range"),
            ({"max_message_bytes": "10"}, "max_message_bytes: 10 is not in the range x>=1024"),
            ({"drain_timeout_s": -1}, "drain_timeout_s: -1.0 is not in the range x>=0"),
            ({"drain_timeout_s": "nan"}, "drain_timeout_s must be at most"),
            ({"device": "tpu"}, "device must be cpu, gpu or null, got tpu"),
        ],
    )
    def test_what_is_wrong_is_named(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(StartError, match=said):
            parse_arguments(given)

    def test_what_is_left_out_is_of_the_settings(self) -> None:
        names = {field.name for field in dataclasses.fields(ServerSettings)}
        assert names >= NOT_OF_A_REPLICA


class TestReplies:
    def test_a_message_comes_as_it_went(self) -> None:
        for message in (b"", b"\0\1"):
            assert read_reply(message_reply(message).SerializeToString()) == message

    def test_an_error_keeps_its_details(self) -> None:
        error = OverloadedError("full", retry_delay_s=2)
        for trailing in (error_details(error), ()):
            reply = error_reply(EndedError(error.code, str(error), trailing))
            with pytest.raises(EndedError, match="full") as ended:
                read_reply(reply.SerializeToString())
            assert ended.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert ended.value.trailing == trailing

    def test_no_two_methods_have_one_name(self) -> None:
        """Ray calls them by it alone."""
        assert len({method.name for method in METHODS}) == len(METHODS)


def wanted(current: int, metrics: dict[str, list[float]]) -> int:
    context: Any = SimpleNamespace(
        aggregated_metrics={
            name: {str(n): value for n, value in enumerate(values)}
            for name, values in metrics.items()
        },
        current_num_replicas=current,
        target_num_replicas=current,
    )
    return ByTokens(target_queued_tokens=1000, target_busy=0.5)(context)[0]


class TestByTokens:
    @pytest.mark.parametrize(
        ("queued", "busy", "replicas"),
        [
            ([0, 0], [0, 0], 1),
            ([0, 0], [0.5, 0.5], 2),  # at the target
            ([0, 0], [0.6, 0.5], 3),  # busy, before anything waits
            ([0, 0], [0.2, 0.2], 1),
            ([4000, 500], [1, 1], 5),  # what waits counts for more
        ],
    )
    def test_both_come_under_their_targets(
        self, queued: list[float], busy: list[float], replicas: int
    ) -> None:
        assert wanted(2, {QUEUED_TOKENS: queued, BUSY: busy}) == replicas

    def test_nothing_changes_before_a_replica_has_told_anything(self) -> None:
        assert wanted(3, {}) == 3

    def test_one_that_has_told_nothing_yet_is_kept(self) -> None:
        assert wanted(3, {QUEUED_TOKENS: [0, 0], BUSY: [0.1, 0.1]}) == 2


def test_the_load_is_of_the_time_since_it_was_asked_for() -> None:
    registry = CollectorRegistry()
    busy_s = Counter("electra_qa_engine_busy_seconds", "", registry=registry)
    tokens = Gauge("electra_qa_queue_tokens", "", registry=registry)
    load = Load(registry)
    busy_s.inc(1e6)
    tokens.set(12)
    assert load.since_last_time() == {QUEUED_TOKENS: 12, BUSY: 1.0}
    assert load.since_last_time()[BUSY] == 0.0


def test_pings_are_allowed_in_the_options_that_rays_server_is_made_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray.serve._private import constants, grpc_util

    from electra_qa.server.ray import pings

    assert grpc_util.DEFAULT_GRPC_SERVER_OPTIONS is constants.DEFAULT_GRPC_SERVER_OPTIONS
    options: list[tuple[str, int]] = []
    monkeypatch.setattr(pings, "DEFAULT_GRPC_SERVER_OPTIONS", options)
    assert pings.allow() == []
    assert dict(options)["grpc.http2.min_ping_interval_without_data_ms"] <= KEEPALIVE_TIME_S * 1e3
    assert dict(options)["grpc.keepalive_permit_without_calls"]
