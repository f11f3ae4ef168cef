"""The workbench: dictionaries, layers and classifiers by their recipes, built once and fetched ever after."""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from labkit import cdl, classifiers, data
from labkit.data import Images, settle
from labkit.recipes import ClassifierRecipe, DataRecipe, DictionaryRecipe, TransformRecipe
from labkit.stl import SparseTransform
from labkit.store import Store, key

_PROJECTED_AT_ONCE = 1000


class Workbench:
    """Builds what a recipe names, or fetches it from the store; holds the images it has loaded.

    store      folder of artifacts, or None for the default (`Store`)
    data_root  where torchvision's data sets lie, or None for the default
    device     where networks are trained; results do not name it
    progress   whether to show bars for what takes longer than two seconds
    """

    def __init__(
        self,
        store: str | Path | None = None,
        *,
        data_root: str | Path | None = None,
        device: str | None = None,
        progress: bool = True,
    ):
        self.store = Store(store or None)
        self.data_root = data_root or None
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.progress = progress
        self.images = cache(self._images)

    def _images(self, recipe: DataRecipe, split: str) -> Images:
        return data.load_recipe(recipe, split, data_root=self.data_root)

    def dictionary(self, recipe: DictionaryRecipe) -> Tensor:
        """The learned filters (K, C, S, S)."""
        return self.dictionary_run(recipe)[0]

    def dictionary_run(self, recipe: DictionaryRecipe) -> tuple[Tensor, list[float]]:
        """The learned filters, and the objective per image of every batch on the way there."""
        train = self.images(recipe.data, "train")

        def build(scratch):
            objectives = []
            with self._bar("learning filters", "batch") as bar:

                def show(progress: cdl.Progress):
                    objectives.append(progress.objective)
                    bar.total = progress.total
                    bar.set_postfix(objective=f"{progress.objective:.3f}")
                    bar.update()

                d = cdl.learn(train, recipe, callback=show, checkpoint=scratch)
            return {"d": d}, {"objectives": objectives}

        found = self.store.fetch("dictionary", recipe, build, digest=train.digest)
        return found.tensors["d"], found.facts["objectives"]

    def transform(self, recipe: TransformRecipe, *, backward: str = "exact") -> SparseTransform:
        """The Sparse Transformation Layer with its learned dictionary, in evaluation mode, on the device."""
        layer = SparseTransform(
            self.dictionary(recipe.dictionary),
            lam=recipe.lam,
            lowpass=recipe.lowpass,
            pad=recipe.pad,
            boundary=recipe.boundary,
            gap_tol=recipe.gap_tol,
            backward=backward,
        )
        return layer.eval().to(self.device)

    def projected(self, recipe: TransformRecipe) -> Images:
        """T(x) of all training images, computed once in chunks that survive a kill, kept in half precision."""
        train = self.images(recipe.dictionary.data, "train")

        def build(scratch):
            layer = self.transform(recipe)
            seen = torch.empty(train.x.shape, dtype=torch.half)
            with self._bar("projecting training images", "image", total=len(train)) as bar:
                for start in range(0, len(train), _PROJECTED_AT_ONCE):
                    file = scratch / f"{start:09d}.safetensors"
                    if not file.is_file():
                        with torch.no_grad():
                            x = layer(train.x[start : start + _PROJECTED_AT_ONCE].to(self.device)).half().cpu()
                        save_file({"x": x.contiguous()}, file.with_suffix(".new"))
                        file.with_suffix(".new").rename(file)
                    x = load_file(file)["x"]
                    seen[start : start + len(x)] = x
                    bar.update(len(x))
            return {"x": seen}, {"images": len(train)}

        found = self.store.fetch("projected", recipe, build, digest=train.digest)
        return Images(settle(found.tensors["x"]), train.y, train.classes, f"{train.digest}:{found.key}")

    def classifier(self, recipe: ClassifierRecipe) -> nn.Module:
        """The trained network, in evaluation mode, on the device. Maps images in [0, 1] to logits."""
        train = self.images(recipe.data, "train")
        channels, resolution = train.x.shape[1], train.x.shape[-1]
        model = classifiers.build(recipe, len(train.classes), channels, resolution)

        def build(scratch):
            seen = train if recipe.transform is None else self.projected(recipe.transform)
            trained = classifiers.train(
                model, seen, recipe, checkpoint=scratch, progress=self.progress, device=self.device
            )
            return {name: t.cpu() for name, t in trained.state_dict().items()}, {"classes": list(train.classes)}

        found = self.store.fetch("classifier", recipe, build, digest=train.digest)
        model.load_state_dict(found.tensors)
        return model.eval().requires_grad_(False).to(self.device)

    def recipe_key(self, recipe, data_recipe: DataRecipe) -> str:
        """The hash under which a recipe's artifact lies, given its training images."""
        return key(recipe, self.images(data_recipe, "train").digest)

    def _bar(self, what: str, unit: str, total: int | None = None):
        return tqdm(desc=what, unit=unit, total=total, disable=not self.progress, delay=2)
