"""Fuzzing: bytes that nobody vouches for, thought up by a machine that sees which lines of ours they reach.

    python -m tests.fuzz                          every target for some seconds each, always from the same seed
    python -m tests.fuzz image --seconds 3600     one target, for long

`targets` says what must hold for whatever comes, `sealing` makes checksums and signatures right so that the bytes get
behind them, `seeds` has bytes of our own encoders to begin with. What is in `corpus` reached lines that nothing before
it did, or broke something once; `test_corpus` replays it all, without a fuzzer. A find is written there by itself; what
else a long run came upon is added by `python -m tests.fuzz.loop image -merge=1 tests/fuzz/corpus/image DIRECTORY`.
"""
