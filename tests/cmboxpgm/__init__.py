"""The licensor's tool: its commands, its files, and its page."""
