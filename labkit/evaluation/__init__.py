"""Evaluation: one case becomes one row, and every row says who attacked.

Knows     who knows what (`ThreatModel`, `threat_models`), how what a recipe names is built or fetched (`Workbench`),
          how adversarial examples are made and kept (`adversarial_examples`), how a case is judged (`measurement`),
          whether an attack can be trusted (`sanity_checks`), and how anybody's classifier is judged (`evaluate`)
Comes in  a `Case`: network, defense, attack and threat model; or a network, images and a defense of one's own
Goes out  a data frame with a row a case (`measurement.run`), and the worst case over them (`measurement.worst_case`);
          or an `Evaluation`
"""

from labkit.evaluation import adversarial_examples, measurement, own, sanity_checks, threat_models, workbench
from labkit.evaluation.measurement import Case
from labkit.evaluation.own import Evaluation, evaluate  # noqa: F401 (the first for others)
from labkit.evaluation.threat_models import ThreatModel
from labkit.evaluation.workbench import Workbench

__all__ = [
    "Case", "ThreatModel", "Workbench", "adversarial_examples", "evaluate", "measurement", "own", "sanity_checks",
    "threat_models", "workbench",
]  # fmt: skip
