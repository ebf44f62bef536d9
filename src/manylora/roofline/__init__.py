"""The limits of a machine for a load, and how much of them is reached. docs/roofline.md has the formula and what it assumes.

machine.py    memory bandwidth and peak rates of products, measured on the spot
cost.py       bytes and operations of one engine step, and the time that no machine of these rates can beat
loads.py      the floors of whole loads: a closed loop, a lone prompt, a single stream
achieved.py   the same loads put on a real server
"""
