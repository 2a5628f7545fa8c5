"""A server of several processes: front ends that share a port, and engines behind sockets."""
