"""What each release said and was told, byte for byte; every later daemon must still say it (decision 27).

`<version>.txt` is the play of that release: both directions of conversations that use each method, and what happened to
the containers meanwhile. `test_transcripts` plays the clients' part of each to the daemon of today, and compares what
it answers. A transcript is never changed once its version is released: clients of that version are out there.

To make a new one, when the version in `cmserverd/__init__.py` has been raised for a release: let `script` use what is
new, run `python -m tests.transcripts`, which writes the file of this version, and commit it with the release.
"""
