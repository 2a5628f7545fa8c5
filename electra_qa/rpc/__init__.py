"""Stubs that `make proto` generates from `proto/`."""

# Trailing metadata of a call that was refused for want of room: when to try again, in milliseconds.
RETRY_AFTER = "retry-after-ms"
