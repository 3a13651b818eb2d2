"""Hostile input: every parser of foreign files is fed with bytes that nobody wrote by hand.

python -m tests.fuzz --help     the long form; tests/test_hostile.py is the short one
"""
