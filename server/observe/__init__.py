"""What a server says of itself: metrics, logs, traces."""
