"""Container drivers: what a CmContainer holds and how it is read. Knows nothing of the daemon or of the wire protocol."""
