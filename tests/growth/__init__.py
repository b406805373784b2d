"""How costs grow with numbers, in counts that do not wobble: ten times as many cost ten times.

`steps` does each thing for so many, `child` runs them in a process of its own under callgrind,
and `test_growth` compares few with ten times as many. What is timed is in `bench/rows/scale.py`.
"""
