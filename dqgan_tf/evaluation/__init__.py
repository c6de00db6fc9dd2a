"""Figures of a generator's quality, by modules that know nothing of GANs and their training.

`distances` and `scores` hold the figures, `features` and `small_classifier` the networks that image figures are
computed with, and `report` computes and names all figures of one evaluation.
"""
