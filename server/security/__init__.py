"""Who may reach a server, and how often."""
