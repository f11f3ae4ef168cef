"""An interactive lab for *Adversarial Defense by Stratified Convolutional Sparse Coding*."""

__version__ = "0.1.0"
