"""The pages as a browser shows them: a real daemon, a real WebAdmin, Chromium."""
