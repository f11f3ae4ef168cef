"""An interactive lab for *Adversarial Defense by Stratified Convolutional Sparse Coding*."""

import importlib.abc
import sys

__version__ = "0.2.0"

# Where the modules of version 0.1, which lay side by side, have gone: "old=new", or one word where the name has stayed.
_MOVED = {
    "labkit.core": (
        "apart=metrics checkpoint errors memory=hardware metrics parallel=distributed paths=wording precision=hardware "
        "profiles provenance=hardware recipes store vision=torchvision_shim"
    ),
    "labkit.csc": "atoms cbpdn cdl conv descent encode=batch_solver sparse=codes split=tikhonov",
    "labkit.datasets": "data=loaders decoding imagefiles=image_files photos project=projections streams=shards",
    "labkit.attacks": (
        "attacks.adapters=pyautoattack_runs attacks.ensemble=auto_attack attacks.frequency=low_frequency "
        "attacks.gradient=gradient_based attacks.minimal=minimum_norm attacks.patterns=universal_perturbation "
        "attacks.search=auto_attack budget"
    ),
    "labkit.models": "classifiers dae=autoencoder defenses.base=defense networks stl strata thermometer",
    "labkit.defenses": "defenses.simple=filters",
    "labkit.evaluation": (
        "artifacts=workbench attempts=adversarial_examples checks=sanity_checks experiment=measurement "
        "threat=threat_models"
    ),
    "labkit.experiments": (
        "clusters=cluster_stability defense_speed=throughput paper=published_numbers peers=reference "
        "plan=cost_estimate probes=attack_curves quality=psnr_accuracy replicate=paper_tables rivals=baselines "
        "shrinkage=attenuation solvers tradeoff=ablations"
    ),
    "labkit.reporting": (
        "charts=interactive figures findings html published=table_page repeats=questions report_folder "
        "reports=report resolutions=questions runner show=pictures tables"
    ),
    "labkit.dashboards": "arena live widgets=page",
    "labkit.cli": "artifacts_cli=artifacts doctor inventory=artifacts ranks_cli=learn table_cli=table",
    "benchmarks": "bench forecast scaling",
}
_NEW = {
    old: f"{room}.{new or old}"
    for room, words in _MOVED.items()
    for old, _, new in (word.partition("=") for word in words.split())
}


class _Moved(importlib.abc.MetaPathFinder):
    """Asked for a name that nobody else finds: answers an old one with the new one."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        if package == "labkit" and name in _NEW:
            room = _NEW[name].rpartition(".")[0]
            raise ModuleNotFoundError(f"{fullname} is now {_NEW[name]}; what others may use of it stands in {room}")


sys.meta_path.append(_Moved())
