"""A call's way: services, streams, tokenizing, windows, merging, and the model in force."""
