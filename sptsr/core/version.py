"""The version of sptsr, written into every store and adapter, and that of the rules of its units."""

__version__ = '0.2.0'

# Which rules units follow; an adapter and a training state say which theirs are.
# 1: sptsr 0.1. `RepeatedStem` in place of `PlainStem`, and S loses its detail for good at a coarser site.
# 2: `PlainStem`, and `CarriedPrior` keeps the detail.
# 3: where nothing names a stem, it is `GeometryStem` or `GreyStem` in place of `MaskStem` or `PlainStem`.
RULES = 3
