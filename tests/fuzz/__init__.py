"""Wrong input at every door, made by Hypothesis and schemathesis: `python -m tests.fuzz`, and in short in `test_fuzz.py`."""
