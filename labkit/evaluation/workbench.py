"""The workbench: dictionaries, layers and classifiers by their recipes, built once and fetched ever after."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from labkit import defenses
from labkit.attacks import Budget, fgsm
from labkit.core import InputError, checkpoint, distributed, metrics, recipes
from labkit.core.recipes import ClassifierRecipe, DataRecipe, DefenseRecipe, StratifiedRecipe, TransformRecipe
from labkit.core.store import Artifact, Store, key
from labkit.csc import cdl
from labkit.datasets import Images, loaders, settle
from labkit.defenses import Defense
from labkit.evaluation import surrogate
from labkit.models import SparseTransform, autoencoder, classifiers, networks
from labkit.models.strata import Strata, StratifiedTransform

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

AnyTransform = TransformRecipe | StratifiedRecipe
AnyDefense = AnyTransform | DefenseRecipe
_PROJECTED_AT_ONCE = 1000
_COMPARED = 200  # training images whose PSNR another defense is brought to


class Workbench:
    """Builds what a recipe names, or fetches it from the store; holds the images it has loaded.

    Within `distributed.session`, every rank has to ask for the same things in the same order: dictionaries, projections
    and classifiers are built by all ranks together, the rest by one of them, and the store is one that all can read.

    store      folder of artifacts, or None for the default (`Store`)
    data_root  where torchvision's data sets lie, or None for the default
    device     where networks are trained; results do not name it
    progress   whether to show bars for what takes longer than two seconds

    `adopted` holds what no recipe can build, under the name or digest that recipes have for it: other people's images,
    networks, defenses and attacks (`evaluate`).
    """

    def __init__(
        self, store: str | Path | None = None, *,
        data_root: str | Path | None = None, device: str | None = None, progress: bool = True,
    ):  # fmt: skip
        self.store = Store(str(store or "") or None)
        self.data_root = str(data_root or "") or None
        self.device = device or distributed.device() or ("cuda" if torch.cuda.is_available() else "cpu")
        self.progress = progress
        self.adopted: dict[str, Any] = {}
        self._loaded = cache(lambda recipe, split: loaders.load_recipe(recipe, split, data_root=self.data_root))
        self._agreed = cache(loaders.agree)

    def images(self, recipe: DataRecipe, split: str) -> Images:
        """The images of "train" or "test", loaded once, however many of the other split a recipe asks for."""
        if recipe.name in self.adopted:
            return self.adopted[recipe.name][: recipe.test if split == "test" else None]
        one = {"train": replace(recipe, test=None), "test": replace(recipe, train=None)}
        if recipes.folder(recipe.name):
            self._agreed(recipe.name, *(self._loaded(one[half], half) for half in one))
        return self._loaded(one[split], split)

    def sound(self, recipe: DataRecipe) -> Images:
        """The training images; InputError unless a network can tell classes apart, and be tried on some of them."""
        train, test = (self.images(recipe, split) for split in ("train", "test"))
        known, of = train.y.unique(), recipe.label
        if recipe.name in self.adopted:  # nothing is trained on them
            return train
        if len(known) < 2:
            raise InputError(f"all training images of {of} are of one class; a network needs two: add another folder")
        if not torch.isin(test.y, known).any():
            raise InputError(f"no test image of {of} is of a class that it is trained on; give each class two or more")
        return train

    def digest(self, recipe: DataRecipe) -> str:
        """Of the training and the test images: what is measured on some depends on both."""
        return ":".join(self.images(recipe, split).digest for split in ("train", "test"))

    def dictionary(self, recipe: recipes.DictionaryRecipe) -> Tensor:
        """The learned filters (K, C, S, S)."""
        return self.dictionary_run(recipe)[0]

    def dictionary_run(self, recipe: recipes.DictionaryRecipe) -> tuple[Tensor, list[float]]:
        """The learned filters, and the objective per image of every batch on the way there."""
        train = self.images(recipe.data, "train")
        return self._learned(recipe, recipe, train, train.digest, "learning filters")

    def _learned(self, named, recipe: recipes.DictionaryRecipe, train: Images, digest: str, what: str):
        """Filters learned from `train` by `recipe`, kept in the store under `named`; and the objectives."""

        def build(scratch):
            # By batch, beside the state of learning: a run that goes on has only the batches after the last whole pass.
            file = scratch / "objectives.safetensors"
            _, objectives = checkpoint.read(file, {}) or ({}, {})
            with self._bar(what, "batch") as bar:

                def show(progress: cdl.Progress):
                    objectives[str(progress.done)] = progress.objective
                    if distributed.rank() == 0:
                        checkpoint.write(file, {}, {}, objectives)
                    bar.total = progress.total
                    bar.set_postfix(objective=f"{progress.objective:.3f}")
                    bar.update()

                d = cdl.learn(train, recipe, callback=show, checkpoint=scratch)
            return {"d": d}, {"objectives": [objectives[batch] for batch in sorted(objectives, key=int)]}

        found = self._together("dictionary", named, build, digest)
        return found.tensors["d"], found.facts["objectives"]

    def _fitted(self, fetch, kind: str, recipe, model: nn.Module, fit) -> dict:
        """Gives `model` the state that is kept of it or, where none is, that of `fit(scratch)`; returns the facts."""

        def build(scratch):
            facts = fit(scratch)
            return {name: t.cpu() for name, t in model.state_dict().items()}, facts

        found = fetch(kind, recipe, build, digest=self.images(recipe.data, "train").digest)
        model.load_state_dict(found.tensors)
        return found.facts

    def autoencoder(self, recipe: recipes.DaeRecipe) -> tuple[autoencoder.Autoencoder, dict]:
        """The trained denoising autoencoder, and the facts of its training."""
        train = self.images(recipe.data, "train")
        model = autoencoder.build(recipe, train.x.shape[1])
        fit = partial(autoencoder.train, model, train, recipe, progress=self.progress, device=self.device)
        facts = self._fitted(self.store.fetch, "autoencoder", recipe, model, lambda scratch: fit(checkpoint=scratch))
        return networks.frozen(model, self.device), facts

    def strata(self, recipe: recipes.StrataRecipe) -> Strata:
        """The clusters of the training images, fitted on them alone, on the device."""
        train = self.images(recipe.data, "train")
        fresh = Strata(self.autoencoder(recipe.dae)[0], recipe)

        def fit(_scratch):
            return {"sizes": fresh.fit(train, progress=self.progress).sizes()}

        self._fitted(self.store.fetch, "strata", recipe, fresh, fit)
        return fresh.eval().requires_grad_(False).to(self.device)

    def cluster_dictionary(self, recipe: StratifiedRecipe, cluster: int) -> Tensor:
        """The filters of one cluster, learned from its training images alone."""
        if recipe.data != recipe.strata.dae.data:
            raise InputError("strata and dictionaries must come from the same images; use one DataRecipe for both")
        train, strata = self.images(recipe.data, "train"), self.strata(recipe.strata)
        mine = train[torch.nonzero(strata.labels.cpu() == cluster)[:, 0]]
        what = f"learning filters of cluster {cluster + 1}"
        return self._learned(recipe.dictionaries[cluster], recipe.transform.dictionary, mine, train.digest, what)[0]

    def transform(self, recipe: AnyDefense | None) -> Defense | None:
        """The Sparse Transformation Layer with its learned dictionaries, or the baseline, on the device."""
        if recipe is None:
            return None
        if isinstance(recipe, DefenseRecipe):
            return self.defense(recipe)
        if isinstance(recipe, TransformRecipe):
            return SparseTransform.of(recipe, self.dictionary(recipe.dictionary)).to(self.device)
        filters = (self.cluster_dictionary(recipe, m) for m in range(recipe.strata.clusters))
        layers = [SparseTransform.of(recipe.transform, d) for d in filters]
        return StratifiedTransform(self.strata(recipe.strata), layers).eval().to(self.device)

    def defense(self, recipe: DefenseRecipe) -> Defense:
        """A baseline, fitted to the training images, on the device."""
        train, options = self.images(recipe.data, "train"), dict(recipe.options)
        if "source" in options:
            return self._theirs(options["source"])
        if recipe.like:
            options["psnr"] = self.fidelity(recipe.like)
        defense = defenses.build(recipe.name, **options)

        def fit(scratch):
            how = {"progress": self.progress} | ({"checkpoint": scratch} if defense.resumable else {})
            if recipe.victim:
                with distributed.apart():  # the other ranks wait for this one
                    how |= {"classifier": self.classifier(recipe.victim), "attack": _watched_for}
            # A blur of as many dB is one on the same images.
            defense.to(self.device).fit(train[:_COMPARED] if recipe.like else train, **how)
            return {}

        if defense.learns:
            self._fitted(self.store.fetch, "defense", recipe, defense, fit)
        return defense.eval().requires_grad_(False).to(self.device)

    def surrogate(self, recipe: recipes.SurrogateRecipe) -> tuple[surrogate.Surrogate, dict]:
        """The network that has learned what a defense does, and the facts of its training (`surrogate.train`)."""
        train = self.images(recipe.data, "train")
        model = surrogate.Surrogate(train.x.shape[1], recipe.width, recipe.seed).to(self.device)

        def fit(scratch):
            return surrogate.train(model, self.transform(recipe.defense), train, recipe, scratch, self.progress)

        facts = self._fitted(self.store.fetch, "surrogate", recipe, model, fit)
        return networks.frozen(model, self.device), facts

    def fidelity(self, recipe: AnyTransform) -> float:
        """Mean PSNR of T(x) over the first training images, in dB."""
        train, layer = self.images(recipe.data, "train"), self.transform(recipe)
        x = train.x[:_COMPARED].to(self.device)
        with torch.no_grad():
            return float(metrics.psnr(layer(x), x).mean())

    def projected(self, recipe: AnyDefense) -> Images:
        """T(x) of all training images, computed once in chunks that survive a kill, kept in half precision."""
        train = self.images(recipe.data, "train")

        def build(scratch):
            layer, starts = self.transform(recipe), range(0, len(train), _PROJECTED_AT_ONCE)
            files = {start: scratch / f"{start:09d}.safetensors" for start in starts}

            def chunk(start: int) -> Tensor:
                x = train.x[start : start + _PROJECTED_AT_ONCE].to(self.device)
                with torch.no_grad():
                    return layer.seeded(start).sample(x).half()

            with self._bar("projecting training images", "image", total=len(distributed.shard(train.y))) as bar:
                for start in starts[distributed.rank() :: distributed.world()]:
                    checkpoint.kept(files[start], partial(chunk, start))
                    bar.update(min(_PROJECTED_AT_ONCE, len(train) - start))
            distributed.barrier()
            if distributed.rank():
                return {}, {}
            seen = torch.empty(train.x.shape, dtype=torch.half)
            for start, file in files.items():
                seen[start : start + _PROJECTED_AT_ONCE] = checkpoint.kept(file, partial(chunk, start))
            return {"x": seen}, {"images": len(train)}

        found = self._together("projected", recipe, build, train.digest)
        return Images(settle(found.tensors["x"]), train.y, train.classes, f"{train.digest}:{found.key}")

    def classifier(self, recipe: ClassifierRecipe | tuple[ClassifierRecipe, ...]) -> nn.Module:
        """The trained network, in evaluation mode, on the device: images in [0, 1] to logits; of several, the mean."""
        if isinstance(recipe, tuple):
            return networks.Several(map(self.classifier, recipe)).eval()
        if recipe.foreign:
            return self._theirs(recipe.weights)
        train = self.sound(recipe.data)
        model = networks.of(recipe, train)
        if recipe.weights:
            return networks.frozen(networks.load(model, recipe.weights), self.device)

        def fit(scratch):
            through = recipe.adversarial and recipe.adversarial.through
            seen = self.projected(recipe.transform) if recipe.transform and not through else train
            layer = self.transform(recipe.transform).approximate(recipe.transform.gap_tol) if through else None
            how = {"checkpoint": scratch, "progress": self.progress, "device": self.device}
            classifiers.train(model, seen, recipe, layer=layer, **how)
            return {"classes": list(train.classes), "history": model.history}

        model.history = self._fitted(self._together, "classifier", recipe, model, fit).get("history", {})
        return networks.frozen(model, self.device)

    def _theirs(self, named: recipes.Weights) -> nn.Module:
        if named.digest not in self.adopted:
            raise InputError(f"{named.path} is somebody else's and not here; call evaluate with it once more")
        return self.adopted[named.digest]

    def _together(self, kind: str, recipe, build, digest: str) -> Artifact:
        """`Store.fetch` by all ranks at once: all of them build, rank 0 alone looks and writes, all of them read."""
        if distributed.world() == 1:
            return self.store.fetch(kind, recipe, build, digest=digest)
        if distributed.rank() == 0:
            asked = []

            def led(scratch):
                asked.append(distributed.tell(str(scratch)))
                return build(scratch)

            self.store.fetch(kind, recipe, led, digest=digest)
            if not asked:
                distributed.tell("")
        elif scratch := distributed.tell():
            build(Path(scratch))
        distributed.barrier()
        return self.store.fetch(kind, recipe, build, digest=digest)

    def recipe_key(self, recipe, data_recipe: DataRecipe) -> str:
        """The hash under which a recipe's artifact lies, given its training images."""
        return key(recipe, self.images(data_recipe, "train").digest)

    def _bar(self, what: str, unit: str, total: int | None = None):
        return tqdm(desc=what, unit=unit, total=total, disable=not self.progress, delay=2)


def built(recipe) -> list[tuple[str, Any]]:
    """The artifacts, as (kind, recipe), that the workbench keeps of a network or a defense; of None, none."""
    match recipe:
        case ClassifierRecipe(weights=None):
            return [("classifier", recipe)]
        case TransformRecipe():
            return [("dictionary", recipe.dictionary)]
        case StratifiedRecipe():
            return [("strata", recipe.strata), *(("dictionary", learned) for learned in recipe.dictionaries)]
        case recipes.SurrogateRecipe():
            return [("surrogate", recipe)]
        case DefenseRecipe() if defenses.unfitted(recipe).learns:
            return [*built(recipe.like), ("defense", recipe)]  # without T, its blur cannot be used even when it is kept
    return []


def needs(kind: str, recipe) -> list[tuple[str, Any]]:
    """The artifacts that one is made from, as (kind, recipe), in the order in which they are built.

    What those need in turn is not among them. A "row" (a Case) and an "attack" (an Attempt) can be asked about, too.
    """
    match kind:
        case "row":
            attacked = [("attack", recipe.attempt())] if recipe.attack.name != "clean" else []
            return attacked + built(recipe.classifier) + built(recipe.defense)
        case "attack":
            begun = [("attack", recipe.before)] if recipe.attack.after else []
            return sum(map(built, (*recipe.victims, recipe.defense, recipe.surrogate)), begun)
        case "surrogate":
            return built(recipe.defense)
        case "classifier":
            if recipe.adversarial and recipe.adversarial.through:
                return built(recipe.transform)
            return [("projected", recipe.transform)] if recipe.transform else []
        case "projected":
            return built(recipe)
        case "defense":
            return built(recipe.like) + built(recipe.victim)
        case "dictionary" if isinstance(recipe, recipes.ClusterRecipe):
            return [("strata", recipe.strata)]
        case "strata":
            return [("autoencoder", recipe.dae)]
    return []


def _watched_for(model, x: Tensor, y: Tensor) -> Tensor:
    """The attack that a detector is shown while it is fitted: the paper's FGSM-0.08."""
    return fgsm(model, x, y, budget=Budget.dissimilarity(0.08))


def behind(artifacts: Iterable[tuple[str, Any]], bench: Workbench) -> set[tuple[str, str]]:
    """The artifacts, by kind and key, and all that they are made from, whether kept or not."""
    found: set[tuple[str, str]] = set()
    left = list(artifacts)
    while left:
        kind, recipe = left.pop()
        measured = kind in ("row", "attack")
        digest = bench.digest(recipe.data) if measured else bench.images(recipe.data, "train").digest
        if (name := (kind, key(recipe, digest))) not in found:
            found.add(name)
            left += needs(kind, recipe)
    return found
