"""Models: everything with weights that maps images to images or to logits, and its training.

Knows     the Sparse Transformation Layer T (`SparseTransform`), the autoencoder and clusters behind its stratified form
          (`autoencoder`, `Strata`, `StratifiedTransform`), torchvision's networks at any width (`networks`) and how
          they are trained (`classifiers`, by the one loop of `training`), and what every defense is (`Defense`,
          `defense`)
Comes in  recipes, dictionaries, training `Images`
Goes out  modules; `predict` gives their logits in batches
"""

from labkit.models import autoencoder, classifiers, defense, networks, training
from labkit.models.classifiers import predict
from labkit.models.defense import Defense
from labkit.models.stl import SparseTransform
from labkit.models.strata import Strata, StratifiedTransform

__all__ = [
    "Defense", "SparseTransform", "Strata", "StratifiedTransform", "autoencoder", "classifiers", "defense", "networks",
    "predict", "training",
]  # fmt: skip
