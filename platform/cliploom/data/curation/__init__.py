"""Curation: of the pairs at hand those worth training on, by filters, duplicates and queries.

It is the construction of the paper's data set (Radford et al. 2021, 2.2). `scan` looks once at each pair and keeps what
it found as facts on storage; what comes after decides on facts: `duplicates`, then `balance`. `writing` copies the
pairs that stay.
"""
