"""The load generator: `electra-qa bench`."""
