"""The gRPC server: batcher, services, lifecycle."""
