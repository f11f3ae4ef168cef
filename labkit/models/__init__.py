"""Models: everything with weights that maps images to images or to logits, and its training.

Knows     the Sparse Transformation Layer T (`SparseTransform`), the autoencoder and clusters behind its stratified form
          (`autoencoder`, `strata`), torchvision's networks at any width (`networks`) and how they are trained
          (`classifiers`, by the one loop of `training`), what every defense is (`Defense`, `defense`), and how other
          people's networks and defenses are taken in (`foreign`)
Comes in  recipes, dictionaries, training `Images`
Goes out  modules; `predict` gives their logits in batches
"""

from labkit.models import autoencoder, classifiers, defense, foreign, networks, strata, training
from labkit.models.classifiers import predict
from labkit.models.defense import Defense
from labkit.models.stl import SparseTransform

__all__ = [
    "Defense", "SparseTransform", "autoencoder", "classifiers", "defense", "foreign", "networks", "predict", "strata",
    "training",
]  # fmt: skip
