"""Fault tests: commands are killed, starved and disturbed, then run again.

    python -m tests.faults [--command flow] [--kills 50] [--seed 0]

`zygote` forks processes that run one command each, in milliseconds; `world` is the tiny world they
work in, with the table of the commands; `kills` kills them and compares what a second run leaves.
"""
