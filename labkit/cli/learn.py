"""The commands `labkit learn` and `project`: what several ranks do together."""

import argparse
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from labkit.cli import common
from labkit.core import InputError, recipes, wording

WHAT = ("dictionary", "clusters", "classifier", "retrained")
_FIELDS = ("network", "width", "epochs", "batch", "lr", "weight_decay", "augment", "erase", "levels", "mirrored")


def add(commands: common.Commands) -> None:
    """Adds `learn` and `project` to the command line."""
    text = """Learn from training images what the lab rests on, and keep it: filters, clusters and the filters of each,
    the network, or the networks retrained on T(x). Under torchrun, all ranks do it together."""
    options = ("profile", "dataset", "resolution", "seed", "data-root", "store")
    parser = common.command(commands, "learn", _learn, "filters and networks, by all ranks together", text, *options)
    parser.add_argument("--what", default="dictionary", metavar="A,B", help=f"{', '.join(WHAT)} (default: %(default)s)")
    how = f"the network's fields that are not the profile's, as in width=0.5,epochs=30: {', '.join(_FIELDS)}"
    parser.add_argument("--classifier", default="", metavar="A=X,B=Y", help=how)

    text = """Write T(x) of every image of a data set into a folder, in chunks of half precision with labels and names,
    and a manifest. The data set may also be tar:SHARDS, such as tar:train-{0000..0127}.tar. Under torchrun, the ranks
    share the work. A run that was stopped goes on where it was."""
    parser = common.command(commands, "project", _project, "T(x) of a whole data set, in chunks", text, *options)
    splits = ("train", "test", "all")
    parser.add_argument("--split", default="train", choices=splits, help="of tar shards, all (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the chunks")
    parser.add_argument("--images", type=int, metavar="N", help="only the first so many (default: all)")
    parser.add_argument("--learned-on", default="", metavar="DATASET", help="whose filters T has (default: --dataset)")
    parser.add_argument("--clusters", action="store_true", help="T of the stratified space, with filters per cluster")


def _learn(options: argparse.Namespace) -> int:
    wanted = options.what.split(",")
    if unknown := sorted(set(wanted) - set(WHAT)):
        raise InputError(f"nothing called {', '.join(unknown)} can be learned; choose from {', '.join(WHAT)}")
    lab = common.lab(options)
    lab = replace(lab, classifier=_changed(lab.classifier, options.classifier))
    from labkit.core import distributed, metrics
    from labkit.models import predict

    with distributed.session():
        bench = common.workbench(options)
        if {"classifier", "retrained"} & {*wanted}:
            bench.sound(lab.data)
        builds = {
            "dictionary": (lambda: bench.dictionary(lab.transform.dictionary), lab.transform.dictionary),
            "clusters": (lambda: bench.transform(lab.stratified), lab.stratified.strata),
            "classifier": (lambda: bench.classifier(lab.classifier), lab.classifier),
            "retrained": (lambda: [bench.classifier(lab.retrained(T)) for T in lab.defenses], lab.retrained()),
        }
        for what in wanted:
            build, recipe = builds[what]
            started, built = time.perf_counter(), build()
            if distributed.rank() == 0:
                took = wording.duration(time.perf_counter() - started)
                print(f"{what}: {bench.recipe_key(recipe, lab.data)} in {bench.store.root} ({took})")
                if what == "classifier":
                    test = bench.images(replace(lab.data, test=None), "test")
                    right = metrics.accuracy(predict(built, test.x).argmax(1) == test.y)
                    print(f"classifier: {right} test images, which nobody attacked")
    return 0


def _changed(recipe: recipes.ClassifierRecipe, told: str) -> recipes.ClassifierRecipe:
    """The recipe with the fields of "name=value,name=value" in place of its own."""
    changed = {}
    for part in common.listed(told):
        name, _, value = part.partition("=")
        if name not in _FIELDS:
            raise InputError(f"--classifier takes {', '.join(_FIELDS)}, each as name=value; got {part!r}")
        kind = type(getattr(recipe, name))
        try:
            changed[name] = {"yes": True, "no": False}[value] if kind is bool else kind(value)
        except (KeyError, ValueError):
            what = "yes or no" if kind is bool else "a number"
            raise InputError(f"--classifier takes {what} for {name}; got {value!r}") from None
    return replace(recipe, **changed)


def _project(options: argparse.Namespace) -> int:
    source = options.learned_on or options.dataset
    if source.startswith("tar:"):
        raise InputError("filters are not learned from tar shards; name with --learned-on a data set to learn them on")
    if options.images is not None and options.images < 1:
        raise InputError(f"--images is a number above 0; got {options.images}")
    lab = common.lab(options, source)
    recipe = lab.stratified if options.clusters else lab.transform
    from labkit.core import distributed, hardware
    from labkit.datasets import open_stream, project

    hardware.steady()
    with distributed.session():
        layer, digest = _learned(options, recipe)
        channels = next(d for name, d in layer.named_buffers() if name.split(".")[-1] == "d").shape[1]
        how = {"channels": channels, "resolution": lab.data.resolution, "images": options.images}
        stream = open_stream(options.dataset, options.split, data_root=options.data_root or None, **how)
        device, about = next(layer.buffers()).device, {"transform": recipes.plain(recipe, digest)}
        started = time.perf_counter()
        manifest = project(layer, stream, options.out, about, device=device)
        took, most = time.perf_counter() - started, max(distributed.gather(hardware.peak()))
        if distributed.rank() == 0:
            print(f"projected {manifest['images']:,} images in {len(manifest['chunks']):,} chunks -> {options.out}")
            print(f"{distributed.world()} ranks, {took:.1f} s, {most:.3f} GiB at most in one rank")
    return 0


def _learned(options: argparse.Namespace, recipe) -> tuple:
    """T on this rank's device, and the digest of its training images; learned first, by all ranks, if need be.

    Where the filters are kept, rank 0 looks for them and tells the others: to know a million training images by their
    digest, every file is read, and once is enough. Nor need a rank wait for all that the workbench brings.
    """
    from labkit.core import distributed, store
    from labkit.datasets import loaders
    from labkit.models import SparseTransform

    import torch

    def kept():
        digest = loaders.load_recipe(recipe.data, "train", data_root=options.data_root or None).digest
        folder = store.Store(options.store or None).root / "dictionary" / store.key(recipe.dictionary, digest)
        with suppress(store.Damaged):  # or not there
            return {"d": store.read(folder).tensors["d"]}, digest

    found = distributed.first(kept) if isinstance(recipe, recipes.TransformRecipe) else None
    if found:
        device = distributed.device() or ("cuda" if torch.cuda.is_available() else "cpu")
        return SparseTransform.of(recipe, found[0]["d"]).to(device), found[1]
    bench = common.workbench(options)
    return bench.transform(recipe), bench.images(recipe.data, "train").digest
