"""The server as an application of Ray Serve: `serve run electra_qa.server.ray:app`."""

from .application import app, build

__all__ = ["app", "build"]
