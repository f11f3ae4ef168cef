"""How much of the accuracy is certain? Smoothed networks, a linear head behind T, and how firmly T's codes stand."""

from dataclasses import dataclass, replace

from labkit.attacks import Budget, pgd
from labkit.core import metrics
from labkit.core.profiles import Profile
from labkit.core.recipes import ClassifierRecipe, TransformRecipe
from labkit.evaluation import Workbench, threat_models
from labkit.experiments import certificates, smoothing

import pandas as pd
import torch
from torch import Tensor, nn

SIZES = (0.0, 0.05, 0.1, 0.25, 0.5)  # L2, for pixels in [0, 1]
KIND = "certificate"
_ALPHA = 0.001
_FITTED, _JUDGED = 2000, 500  # training and test images of a linear head
_CODED = 20  # images whose codes' supports are asked
_STEPS, _DRAWS = 20, 8  # of the attack on a smoothed network
COLUMNS = ["system", "size", "n", "certified", "low", "high", "attacked", "abstained"]


@dataclass(frozen=True)
class CertificateRecipe:
    """What is certified: a smoothed network behind T, or a linear head (no classifier), on the first `n` test images.

    Whatever else there is to choose is constant in `certified`; another `version` has others.
    """

    transform: TransformRecipe | None
    classifier: ClassifierRecipe | None
    n: int
    draws: int
    fitted: int = _FITTED
    sizes: tuple[float, ...] = SIZES
    version: int = 1


class Noisy(nn.Module):
    """The mean probabilities of a network over noisy copies of an image, for attackers of its vote to differentiate."""

    def __init__(self, model: nn.Module, sigma: float, seed: int = 0):
        super().__init__()
        self.model, self.sigma, self.generator = model, sigma, torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        noise = (self.sigma * torch.randn(x.shape, generator=self.generator).to(x) for _ in range(_DRAWS))
        return torch.stack([self.model(x + part).softmax(1) for part in noise]).mean(0).log()


def asked(lab: Profile) -> dict[str, CertificateRecipe]:
    """The systems, by name: the network trained with noise, the same behind T, and a linear head behind T."""
    how, noisy = lab.holding, lab.trained(noise=lab.holding.noise, erase=0.0)
    smooth = CertificateRecipe(None, noisy, how.certified, how.draws)
    head = CertificateRecipe(lab.transform, None, _JUDGED if how.n and how.n >= 100 else how.n or _JUDGED, 0)
    return {"smoothed": smooth, "STL + smoothed": replace(smooth, transform=lab.transform), "STL + linear head": head}


def rows(lab: Profile, bench: Workbench, *, kept: bool = False) -> pd.DataFrame:
    """What is certain in each system, for each size of a change in L2; `kept`, only of those that are measured.

    Columns: system, size, n, certified (share that is right and certain at least so far) with its interval, attacked
    (share that is right under an attack of that size; missing where none was made), abstained (share without a class).
    A smoothed system is certain with a probability of 1 − α = 0.999 for each image, the linear head surely.
    """
    there = {name: recipe for name, recipe in asked(lab).items() if not kept or _known(recipe, lab, bench)}
    return pd.DataFrame(
        [line for name, recipe in there.items() for line in _lines(name, recipe, lab, bench)], columns=COLUMNS
    )


def _known(recipe: CertificateRecipe, lab: Profile, bench: Workbench) -> bool:
    return bench.store.has(KIND, recipe, digest=bench.digest(lab.data))


def supports(lab: Profile, bench: Workbench, *, kept: bool = False) -> pd.DataFrame:
    """How far an image may move before its code's support does (`certificates.support`): one line for T.

    Columns: n, active atoms, smallest eigenvalue (medians), radius (median), largest radius, share of radius 0. The
    bound of Sulam et al. needs a smallest eigenvalue well above 0.
    """
    if kept and not bench.store.has(
        "dictionary", lab.transform.dictionary, digest=bench.images(lab.data, "train").digest
    ):
        return pd.DataFrame()
    layer, x = bench.transform(lab.transform).cpu(), bench.images(lab.data, "test").x[:_CODED]
    found = certificates.support(layer, x)
    told = {"n": len(x), "active atoms": float(found.active.double().median())}
    told |= {"smallest eigenvalue": float(found.smallest.median()), "radius": float(found.radius.median())}
    told |= {
        "largest radius": float(found.radius.max()),
        "share of radius 0": float((found.radius == 0).double().mean()),
    }
    return pd.DataFrame([told])


def _lines(name: str, recipe: CertificateRecipe, lab: Profile, bench: Workbench) -> list[tuple]:
    test = bench.images(lab.data, "test")[: recipe.n]

    def build(_scratch) -> tuple[dict[str, Tensor], dict]:
        found, radii, attacked = (_smoothed if recipe.classifier else _headed)(recipe, lab, bench, test)
        return {"found": found, "radii": radii, "attacked": torch.stack(attacked)}, {}

    kept = bench.store.fetch(KIND, recipe, build, digest=bench.digest(lab.data)).tensors
    right, lines = kept["found"] == test.y, []
    for size, attacked in zip(SIZES, kept["attacked"], strict=True):
        certain = right & (kept["radii"] >= size if size else kept["radii"] > 0)
        abstained = float((kept["found"] == smoothing.ABSTAINED).float().mean())
        under = float((attacked == test.y).float().mean())
        lines.append((name, size, len(test), *metrics.accuracy(certain)[:3], under, abstained))
    return lines


def _smoothed(recipe: CertificateRecipe, lab: Profile, bench: Workbench, test):
    sigma, network = recipe.classifier.noise, bench.classifier(recipe.classifier)
    model = nn.Sequential(nn.Hardtanh(0, 1), threat_models.judged(network, bench.transform(recipe.transform)))
    how = {"sigma": sigma, "draws": recipe.draws, "alpha": _ALPHA, "progress": bench.progress}
    found, radii = smoothing.certify(model, test.x, **how)
    attacked, view = [], Noisy(model, sigma)
    for size in SIZES:
        x = test.x.to(bench.device)
        if size:
            x = pgd(view, x, test.y.to(x.device), budget=Budget.l2(size), steps=_STEPS, loss="margin")
        attacked.append(_votes(model, x.cpu(), sigma))
    return found, radii, attacked


def _votes(model: nn.Module, x: Tensor, sigma: float) -> Tensor:
    """The vote as `certify` chooses its candidate, of fresh draws."""
    generator = torch.Generator().manual_seed(7)
    return torch.stack([smoothing.answers(model, image, sigma, 100, generator).argmax() for image in x])


def _headed(recipe: CertificateRecipe, lab: Profile, bench: Workbench, test):
    layer = bench.transform(recipe.transform).cpu().approximate(1e-5)
    train = bench.images(lab.data, "train")[: recipe.fitted]
    head = certificates.fit(layer, train.x[:], train.y, len(train.classes))
    found, radii = certificates.radii(layer, head, test.x[:])
    attacked = []
    for size in SIZES:
        x = test.x[:]
        if size:
            x = pgd(certificates.Headed(layer, head), x, test.y, budget=Budget.l2(size), steps=_STEPS, loss="margin")
        attacked.append(head.logits(layer, x).argmax(1))
    return found, radii, attacked
