"""Tests of the protocol: words, messages, codec, addresses, stations and the two clients."""
