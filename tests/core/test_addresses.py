from __future__ import annotations

import pytest

from electra_qa.addresses import is_local


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1:50051", True),
        ("127.1.2.3:0", True),
        ("localhost:50051", True),
        ("[::1]:50051", True),
        ("unix:/run/electra-qa.sock", True),
        ("unix-abstract:electra-qa", True),
        ("0.0.0.0:50051", False),
        ("[::]:50051", False),
        (":50051", False),
        ("10.0.0.1:50051", False),
        ("qa.example.com:50051", False),
        ("localhost.example.com:50051", False),
        ("127.0.0.1", False),
        ("127.0.0.1:80@example.com:50051", False),
        ("dns://8.8.8.8/localhost:50051", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", False),
        ("", False),
    ],
)
def test_what_stays_on_the_machine(address: str, local: bool) -> None:
    assert is_local(address) is local
