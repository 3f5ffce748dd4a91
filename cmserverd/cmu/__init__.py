"""The command-line tool `cmu`: an outsider like any client, so it imports `protocol` only."""
