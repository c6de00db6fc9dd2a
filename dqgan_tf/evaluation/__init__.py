"""Distances between real and generated samples, and scores of generated ones.

`report` takes all figures of one set and names them; `frechet`, `kernel`, `classifier_score` and `modes` compute one
each; `features` holds the networks that image figures are taken with.
"""
