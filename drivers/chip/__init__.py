"""What a dongle does, as a model: its flash, its contents, its commands. Written from `docs/drivers.md` alone.

It shares no code with the host's side, as firmware in C would not: a mistake in one of the two shows.
"""
