"""The same faults on Bouquet, stock Flower and NVIDIA FLARE: what each of them costs a run.

`contract.py` says what a federation can be told; `bouquet.py`, `stock_flower.py` and `flare.py` are the three. `case.py` runs
one with one fault, `verdict.py` decides what was lost, `table.py` writes it down. `work.py` is what their clients share.
"""
