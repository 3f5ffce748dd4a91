"""Licensed applications to learn from, and the demo."""
