"""Evaluation: one case becomes one row, and every row says who attacked.

Knows     who knows what (`ThreatModel`, `threat_models`), how what a recipe names is built or fetched (`Workbench`),
          how adversarial examples are made and kept (`adversarial_examples`), how a case is judged (`measurement`),
          and whether an attack can be trusted (`sanity_checks`)
Comes in  a `Case`: network, defense, attack and threat model
Goes out  a data frame with a row a case (`run`), and the worst case over them (`worst_case`)
"""

from labkit.evaluation import adversarial_examples, measurement, sanity_checks, threat_models, workbench
from labkit.evaluation.measurement import Case, run, worst_case
from labkit.evaluation.threat_models import ThreatModel
from labkit.evaluation.workbench import Workbench

__all__ = [
    "Case", "ThreatModel", "Workbench", "adversarial_examples", "measurement", "run", "sanity_checks",
    "threat_models", "workbench", "worst_case",
]  # fmt: skip
