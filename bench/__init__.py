"""Measures the daemon: `python -m bench`, or `make bench`. `docs/performance.md` says what each figure means."""
