"""cmserverd: the license server daemon. Start reading in `ARCHITECTURE.md`, then `core/terms.py`."""

__version__ = "0.1.0"
