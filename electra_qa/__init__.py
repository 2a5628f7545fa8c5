"""Extractive question answering with ELECTRA: the core that client, server and build share."""

__version__ = "0.1.0"
