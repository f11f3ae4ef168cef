"""An interactive lab for *Adversarial Defense by Stratified Convolutional Sparse Coding*.

Import it before torch: it decides how many threads torch, numba and BLAS start, and how they wait (`THREADS`).
"""

import importlib.abc
import sys

from labkit.core import threads

__version__ = "0.2.0"

# Where the modules of version 0.1, which lay side by side, have gone: "old=new", or one word where the name has stayed.
_MOVED = """
labkit.core: apart=metrics checkpoint errors memory=hardware metrics parallel=distributed paths=wording
labkit.core: precision=hardware profiles provenance=hardware recipes store vision=torchvision_shim
labkit.csc: atoms cbpdn cdl conv descent encode=batch_solver sparse=codes split=tikhonov
labkit.datasets: data=loaders decoding imagefiles=image_files photos project=projections streams=shards
labkit.attacks: attacks.adapters=pyautoattack_runs attacks.ensemble=auto_attack attacks.frequency=low_frequency budget
labkit.attacks: attacks.gradient=gradient_based attacks.minimal=minimum_norm attacks.search=auto_attack
labkit.attacks: attacks.patterns=universal_perturbation
labkit.models: classifiers dae=autoencoder defenses.base=defense networks stl strata thermometer
labkit.defenses: defenses.simple=filters
labkit.evaluation: artifacts=workbench attempts=adversarial_examples checks=sanity_checks experiment=measurement
labkit.evaluation: threat=threat_models
labkit.experiments: clusters=cluster_stability defense_speed=throughput paper=published_numbers peers=reference
labkit.experiments: plan=cost_estimate probes=attack_curves quality=paper_tables replicate=paper_tables
labkit.experiments: rivals=baselines shrinkage=attenuation solvers tradeoff=ablations
labkit.reporting: charts=interactive figures findings html published=table_page repeats=questions report_folder
labkit.reporting: reports=report resolutions=questions runner show=pictures tables
labkit.dashboards: arena live widgets=page
labkit.cli: artifacts_cli=artifacts doctor inventory=artifacts ranks_cli=learn table_cli=table
benchmarks: bench forecast scaling
"""
_NEW = {}
for _line in _MOVED.split("\n")[1:-1]:
    _room, *_words = _line.replace(":", "").split()
    _NEW |= {old: f"{_room}.{new or old}" for old, _, new in (word.partition("=") for word in _words)}


class _Moved(importlib.abc.MetaPathFinder):
    """Asked for a name that nobody else finds: answers an old one with the new one."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        if package == "labkit" and name in _NEW:
            room = _NEW[name].rpartition(".")[0]
            raise ModuleNotFoundError(f"{fullname} is now {_NEW[name]}; what others may use of it stands in {room}")


sys.meta_path.append(_Moved())
THREADS = threads.decide()
