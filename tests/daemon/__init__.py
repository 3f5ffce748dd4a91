"""Tests of the daemon's shell: configuration, logs, notifications, unit file."""
