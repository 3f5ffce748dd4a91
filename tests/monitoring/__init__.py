"""The alerts for Prometheus, as its own tool sees them."""
