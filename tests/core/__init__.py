"""Proof of the core: the rules by example, the laws, and a naive model that counts everything anew."""
