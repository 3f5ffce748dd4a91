"""Container drivers: what a CmContainer holds and how it is read. Knows nothing of daemon or wire protocol."""
