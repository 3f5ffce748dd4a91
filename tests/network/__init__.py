"""Tests of the daemon and its clients over a network that fails: each host is a network namespace of its own."""
