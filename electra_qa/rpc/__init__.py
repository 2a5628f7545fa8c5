"""Stubs that `make proto` generates from `proto/`."""
