"""Mutants of a module, and how many of them its own tests catch. Run by hand; pytest does not collect it.

    python tests/mutate.py --module labkit.csc.tikhonov

A mutant is the module with one operator, comparison, constant or truth value changed. None is ever written to disk: a
process that has imported torch, which is what takes the time, forks; the child is given the mutant in place of the
module, and runs the module's test file until a test fails. That is why this is none of the known tools: mutmut and
cosmic-ray start Python anew for each mutant, ten seconds a time with torch, and edit the working tree meanwhile.

What only words an error, and what is no computation (annotations, decorators), is left as it is.
"""

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "labkit.core.torchvision_shim",
    "numba",
    "pandas",
    "pytest",
    "scipy.signal",
    "skimage",
    "sklearn.linear_model",
    "torch.testing",
)

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
TURNED: dict[type, type] = {ast.Lt: ast.Gt, ast.LtE: ast.Gt, ast.Gt: ast.Lt, ast.GtE: ast.Lt}


def sites(tree: ast.AST) -> list[tuple[ast.AST, Callable[[ast.AST], ast.AST]]]:
    """Every node that can be changed, with each change: a function from a copy of the node to the mutant of it."""
    return [(node, change) for node in _computing(tree) for change in _changes(node)]


def mutant(tree: ast.Module, at: ast.AST, change: Callable[[ast.AST], ast.AST]) -> ast.Module:
    """The module with the node `at` changed."""

    class Replace(ast.NodeTransformer):
        def visit(self, node):
            return ast.copy_location(change(copy.deepcopy(node)), node) if node is at else self.generic_visit(node)

    # The visitor edits lists in place, so it works on a copy in which the node is found again by its number.
    number = next(i for i, node in enumerate(ast.walk(tree)) if node is at)
    fresh = copy.deepcopy(tree)
    at = next(node for i, node in enumerate(ast.walk(fresh)) if i == number)
    return ast.fix_missing_locations(Replace().visit(fresh))


def _computing(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Raise):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _computing(child)


def _changes(node: ast.AST) -> list[Callable[[ast.AST], ast.AST]]:
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            return [_set("op", SWAPS[type(op)]())]
        case ast.Compare(ops=[op]):
            return [_set("ops", [table[type(op)]()]) for table in (SWAPS, TURNED) if type(op) in table]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return [lambda one: one.operand]
        case ast.Constant(value=bool(value)):
            return [_set("value", not value)]
        case ast.Constant(value=int(value) | float(value)):
            return [_set("value", value + 1)]
    return []


def _set(name: str, value) -> Callable[[ast.AST], ast.AST]:
    def change(node: ast.AST) -> ast.AST:
        setattr(node, name, value)
        return node

    return change


class Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a tree that is not in its file."""

    def __init__(self, name: str, tree: ast.Module):
        self.name, self.tree = name, tree

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        file = ROOT / (name.replace(".", "/") + ".py")
        return importlib.util.spec_from_file_location(name, file, loader=self)

    def exec_module(self, module):
        exec(compile(self.tree, module.__file__, "exec"), module.__dict__)


def survives(module: str, tree: ast.Module, tests: list[str], limit: float) -> str:
    """What became of a mutant: "survived", "caught", or "timed out", which is caught, too."""
    child = os.fork()
    if not child:
        status = 2
        try:
            import pytest

            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1), os.dup2(quiet, 2)
            sys.meta_path.insert(0, Instead(module, tree))
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        finally:
            os._exit(status)
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "caught" if os.waitstatus_to_exitcode(status) else "survived"
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timed out"


def main() -> int:
    """Prints every survivor and the share that was caught; exit status 1 below `--least`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--module", required=True, help="such as labkit.csc.tikhonov")
    parser.add_argument("--count", type=int, default=40, help="how many of all mutants, drawn (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=0, help="seconds a mutant (default: 3 times the module, + 20)")
    parser.add_argument("--least", type=float, default=0.85, help="share to be caught (default: %(default)s)")
    parser.add_argument("tests", nargs="*", help="test files (default: the module's own)")
    options = parser.parse_args()

    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    for name in HEAVY:
        importlib.import_module(name)
    file = ROOT / (options.module.replace(".", "/") + ".py")
    tests = options.tests or [f"tests/{file.parent.name}/test_{file.stem}.py"]
    source = file.read_text()
    tree = ast.parse(source)

    begun = time.monotonic()
    if survives(options.module, tree, tests, options.limit or 600) != "survived":
        print(f"{options.module}: its tests fail without any mutant", file=sys.stderr)
        return 2
    limit = options.limit or 3 * (time.monotonic() - begun) + 20
    every = sites(tree)
    chosen = random.Random(options.seed).sample(range(len(every)), min(options.count, len(every)))
    found: Counter[str] = Counter()
    for i in sorted(chosen):
        at, change = every[i]
        changed = mutant(tree, at, change)
        found[fate := survives(options.module, changed, tests, limit)] += 1
        if fate == "survived":
            after = ast.unparse(change(copy.deepcopy(at)))
            print(f"{file.name}:{at.lineno}: {ast.unparse(at)}  ->  {after}", flush=True)
    caught = found.total() - found["survived"]
    print(
        f"{options.module}: {caught} of {found.total()} caught ({caught / found.total():.0%}; "
        f"{found['timed out']} by the time limit), of {len(every)} there are"
    )
    return int(caught < options.least * found.total())


if __name__ == "__main__":
    sys.exit(main())
