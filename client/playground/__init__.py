"""A page to try a server with, by Gradio: the extra `[playground]`."""
