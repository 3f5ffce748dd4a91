"""`cmboxpgm`, the licensor's tool: keys, containers, what is in them, and answers to requests.

An outsider to the daemon: it imports `drivers` only.
"""
