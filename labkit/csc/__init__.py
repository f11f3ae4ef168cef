"""Convolutional sparse coding (CSC): an image as a low-pass part and a sparse code over few small filters.

Knows     the low/high `split`, the code of a batch with a duality gap as its certificate (`solve`, `cbpdn`), how a
          dictionary is learned (`learn`, `cdl`), codes as lists of their few coefficients (`codes`), and the
          convolution between the two (`conv`)
Comes in  images x (B, C, H, W) in [0, 1], a dictionary d (K, C, S, S), λ
Goes out  a `Solution` with codes z and gaps, or a dictionary
"""

from labkit.csc import cbpdn, cdl, codes, conv
from labkit.csc.cbpdn import Solution, solve
from labkit.csc.cdl import learn
from labkit.csc.dictionaries import load_dictionary
from labkit.csc.tikhonov import extend, split

__all__ = ["Solution", "cbpdn", "cdl", "codes", "conv", "extend", "learn", "load_dictionary", "solve", "split"]
