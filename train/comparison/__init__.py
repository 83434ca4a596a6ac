"""A fair comparison of algorithms.

protocol.py   what is fixed before the first run: tasks, algorithms, budgets, spaces (TOML)
   |          compare.py plans a job per seed; tuning.py says which trials come first
jobs.py       run the jobs side by side, here or on Slurm, each a process that waits (job.py)
   |          next to its program
harvest.py    read what a program left in its run folder
   |
results.py    keep it: a line of JSON per seed and per trial, two files per task
summary.py    read them again: a row per algorithm, its statistics.py
   |
report.py     report.md, of the sections in tables.py, and the PNGs of figures.py

sweep.py is the tuning of one algorithm.
"""
