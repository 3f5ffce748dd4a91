"""The core: decides and counts. Pure and synchronous; reads no clock, writes no log, does no I/O.

Read `terms` (what there is), `changes` (what can happen), `table` (applies), `rules` (decides), in this order.
"""
