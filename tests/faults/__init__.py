"""Faults that are planted on purpose, to show that the tests catch them: `make faults`.

The faults are in the `*.toml` files beside this one, one file for each part of the project. To add one, append

    [[fault]]
    name = "what goes wrong, in a few words"
    file = "cmserverd/core/rules.py"
    old = '''    a piece of that file that occurs in it exactly once'''
    new = '''    what to put in its place'''
    test = "tests/core/test_examples.py::test_that_must_fail"

A good fault is one slip in one spot that ruff, mypy and the first grant do not notice.
"""
