"""Measurements; never part of the product.

cases.py            the loads, as data
loads.py            the requests of a load, and what is read off their answers
checkpoints.py      models and adapters the loads need, made when first asked for
random_model.py     a model of random weights        random_adapters.py  adapters of random weights
ours.py             our server as an engine          peers/              other engines
bench_peers.py      every engine in turn, one table  bench_speed.py      our own matrix beside its limits
targets.py          ratios and what they should be   limits.py           the floor of a load on this machine
tables.py, results.py, machine.py, memory.py, plots.py
smoke.py            the quickest look
"""
