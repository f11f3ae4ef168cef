"""An interactive lab for *Adversarial Defense by Stratified Convolutional Sparse Coding*.

Import it before torch: it decides how many threads torch, numba and BLAS start, and how they wait (`THREADS`).
"""

from labkit.core import threads

__version__ = "0.2.0"

THREADS = threads.decide()
