"""The chip of a dongle, by the bytes that go in and out, and through power cuts."""
