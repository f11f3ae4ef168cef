"""Measurements of speed and size, outside the package: `make bench` and `make scaling` run them."""
