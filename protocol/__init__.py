"""The client handle protocol: words, messages, codec and two clients. Knows nothing of the daemon or of dongles."""
