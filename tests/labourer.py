"""Real work against a store, done by children of one process, so that it can be killed often.

`python labourer.py DATA` has imported everything, which takes most of the time, when it answers its first line:
"start STORE" begins the work in a child and answers its number; "wait NUMBER" answers how it ended.
"""

import os
import sys
import traceback
from dataclasses import replace


def cases(data: str) -> list:
    """A few rows over a folder of small pictures: a dictionary, networks, T of all images, and attacks."""
    from labkit.core import recipes
    from labkit.evaluation.measurement import Case

    where = recipes.DataRecipe(f"folder:{data}")
    T = recipes.TransformRecipe(
        recipes.DictionaryRecipe(where, K=4, S=5, lam=0.1, images=24, passes=3, batch=6, held=4, stop=-1.0)
    )
    plain = recipes.ClassifierRecipe(where, network="vgg11", width=0.02, epochs=3, batch=8)
    retrained, bim = replace(plain, transform=T), recipes.AttackRecipe("bim", 0.08, steps=3)
    return [
        Case(plain, None, recipes.AttackRecipe("fgsm", 0.08)),
        Case(plain, T, bim, "exact"),
        Case(retrained, T, bim, "classifier"),
    ]


def work(store: str, data: str) -> None:
    """Builds everything the rows need, and the rows, in a store."""
    from labkit.evaluation import adversarial_examples, measurement, workbench

    workbench._PROJECTED_AT_ONCE, adversarial_examples._BATCH = 8, 4  # many parts, for a kill to fall between
    measurement.run(cases(data), workbench.Workbench(store, progress=False))


def main() -> None:
    from labkit.csc import cbpdn
    from labkit.evaluation import adversarial_examples, measurement, workbench  # noqa: F401

    import torch

    torch.set_num_threads(1)
    cbpdn.prepare()
    for line in sys.stdin:
        order, _, what = line.rstrip("\n").partition(" ")
        if order == "start":
            child = os.fork()
            if not child:
                status = 1
                try:
                    work(what, sys.argv[1])
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            print(child, flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(int(what), 0)[1]), flush=True)


if __name__ == "__main__":
    main()
