"""Other people's networks and defenses: taken from a SPEC or as Python objects, wrapped, and told apart by a digest.

SPEC of a network   `torchvision:NAME` or `timm:NAME`, pretrained; `file.py:FUNCTION`, a function that returns it; each
                    with `@FILE` for weights of its own; `exported.pt2`, what `torch.export.save` wrote
SPEC of a callable  `file.py:FUNCTION`: a function that returns it or, with one parameter without a default, is it
"""

import copy
import functools
import hashlib
import inspect
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import labkit
from labkit.attacks import drawn
from labkit.core import InputError
from labkit.core.wording import reason, typed
from labkit.models import networks
from labkit.models.defense import Defense

import torch
from torch import Tensor, nn

_SPEC = re.compile(r"(?:(torchvision|timm):([\w.-]+)|(.+\.py):(\w+))(?:@(.+))?|(.+\.pt2)", re.DOTALL)
_OURS = os.path.dirname(labkit.__file__), os.path.dirname(os.__file__), "<"  # with all of site-packages
_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass
class Found:
    """What a SPEC or a Python object is.

    thing   a network in evaluation mode, or a callable; a module is a copy of the one that was given
    label   what rows call it: the SPEC without folders, or "given:NAME"
    source  the bytes of the file it comes from
    batch   of an exported network, the only size of batch that it takes
    mean, std  that torchvision's or timm's own weights were trained with; None where nobody says
    """

    thing: Any
    label: str
    source: bytes = b""
    batch: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    trained: bool = False

    @property
    def name(self) -> str:
        """For sentences: without "given:"."""
        return self.label.removeprefix("given:")

    def digest(self, *facts: object) -> str:
        """Of all that it is known to be: its file, structure, weights and closure, and `facts` that tell it apart."""
        sha = hashlib.sha256(self.source)
        _feed(sha, (self.thing, facts), set())
        return sha.hexdigest()


def network(what: str | nn.Module) -> Found:
    """A network by its SPEC, or as it is. Raises InputError where there is none, or weights do not fit it."""
    if isinstance(what, nn.Module):
        return _settled(Found(what, f"given:{type(what).__name__}"))
    parts = _parts(what, "torchvision:NAME, timm:NAME, file.py:FUNCTION or exported.pt2")
    zoo, name, file, function, weights, exported = parts
    if exported:
        return _exported(exported)
    tensors = _weights(weights) if weights else None
    if zoo:
        found = _pretrained(zoo, name, tensors)
    else:
        made, source = _function(file, function)
        with theirs(f"{Path(file).name}:{function}"), drawn(0):
            found = Found(made(), f"{Path(file).name}:{function}", source)
        if not isinstance(found.thing, nn.Module):
            raise InputError(f"{found.label} returns {type(found.thing).__name__}; let it return a torch.nn.Module")
    if tensors is not None:
        networks.fill(found.thing, tensors, weights)
        found.label += f"@{Path(weights).name}"
    return _settled(found)


def function(what: str | Callable) -> Found:
    """A callable by its SPEC, or as it is: for defenses, images to images; for attacks as in `labkit.attacks`."""
    if not isinstance(what, str):
        name = getattr(what, "__qualname__", type(what).__name__).replace("<locals>.", "")
        return _settled(Found(what, f"given:{name}"))
    *_, file, name, weights, _ = _parts(what, "file.py:FUNCTION")
    if not file or weights:
        raise InputError(f"{what} is no file.py:FUNCTION; name a function so")
    made, source = _function(file, name)
    found = Found(made, f"{Path(file).name}:{name}", source)
    asked = inspect.signature(made).parameters.values()
    if not [p for p in asked if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]:
        with theirs(found.label), drawn(0):
            found.thing = made()
        if not callable(found.thing):
            raise InputError(f"{found.label} returns {type(found.thing).__name__}; let it return a function of images")
    return _settled(found)


@contextmanager
def theirs(name: str) -> Iterator[None]:
    """Says where somebody else's code fails, in a sentence, the error itself behind it."""
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            lines.append((error.filename, error.lineno))
        lines = [(file, at) for file, at in lines if not str(file).startswith(_OURS) and os.path.isfile(file)]
        where = f", {Path(lines[-1][0]).name} line {lines[-1][1]}" if lines else ""
        raise InputError(f"{name} fails ({type(error).__name__}: {reason(error)}{where}); mend it there") from error


class Network(nn.Module):
    """Somebody else's network as ours are: images (B, C, H, W) in [0, 1] -> logits (B, classes), where images lie.

    mean, std  a number per channel that the network wants subtracted and divided by
    order      positions in its outputs of the classes that count, in their order; None for all
    batch      the only size of batch that it takes
    odds       whether it answers with probabilities, whose logarithms are the logits then; `meet` finds out
    """

    def __init__(self, network: nn.Module, name: str, *, mean=None, std=None, order=None, batch=None):
        super().__init__()
        self.network, self.name, self.batch, self.odds = network, name, batch, False
        for part, given, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            value = torch.as_tensor(default if given is None else given, dtype=torch.float32)
            self.register_buffer(part, value.reshape(-1, 1, 1))
        self.register_buffer("order", None if order is None else torch.as_tensor(order, dtype=torch.long))
        self.training = False

    def train(self, mode: bool = True) -> "Network":
        """Itself: it stays at rest. Exported networks refuse to be asked."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        if len(self.mean) not in (1, x.shape[1]) or len(self.std) not in (1, x.shape[1]):
            raise InputError(f"mean and std have other channels than images of {x.shape[1]}; give one number for each")
        seen = (x - self.mean.to(x)) / self.std.to(x)
        size = self.batch or len(x)
        with theirs(self.name):
            parts = [self._asked(part, size) for part in seen.split(size)]
        out = torch.cat(parts).to(x) if all(p.ndim == 2 for p in parts) else parts[0]
        if out.ndim != 2 or len(out) != len(x):
            shape = tuple(out.shape)
            raise InputError(f"{self.name} answers {shape} for {len(x)} images; it has to answer ({len(x)}, classes)")
        out = out.clamp_min(torch.finfo(out.dtype).tiny).log() if self.odds else out
        return out if self.order is None else out[:, self.order]

    def _asked(self, x: Tensor, size: int) -> Tensor:
        short = size - len(x)
        out = self.network(_as_for(self.network, torch.cat([x, x[-1:].expand(short, *x.shape[1:])]) if short else x))
        out = getattr(out, "logits", out)
        if not isinstance(out, Tensor):
            raise InputError(f"{self.name} answers with {type(out).__name__}; let it answer with a tensor of logits")
        return out[: len(x)] if short else out

    @torch.no_grad()
    def meet(self, x: Tensor, classes: int, named: bool) -> list[str]:
        """Finds out, on images x, whether its answers are probabilities; returns sentences on what it is.

        classes  of the images; the answers must be as many, or more where they are not `named`

        Raises InputError where it answers NaN, or tells other classes apart.
        """
        if self.order is None:
            out = self(x)
        elif not (len(self.order) == classes and len(self.order.unique()) == classes and self.order.min() >= 0):
            raise InputError(f"classes has to name {classes} different outputs, one for each class of the images")
        else:
            order, self.order = self.order, None
            out, self.order = self(x), order
            if int(order.max()) >= out.shape[1]:
                raise InputError(f"classes names output {int(order.max())} of a network that has {out.shape[1]}")
        if out.isnan().any():
            raise InputError(f"{self.name} answers NaN to {int(out.isnan().any(1).sum())} of {len(x)} images; mend it")
        if self.order is None and (out.shape[1] < classes or (named and out.shape[1] > classes)):
            how = "give classes=, the position of each of them in the outputs, or other images"
            raise InputError(f"{self.name} tells {out.shape[1]} classes apart, and the images have {classes}; {how}")
        self.odds = out.shape[1] > 1 and bool((out >= 0).all() and ((out.sum(1) - 1).abs() < 5e-3).all())
        told = "answers with probabilities, not logits; their logarithms are used"
        return [f"{self.name} {told}. Where they round to 0 or 1, they hide its gradient."] if self.odds else []


class Cleaner(Defense):
    """Somebody else's callable as a `Defense`: what it answers is clipped to [0, 1].

    clean   the callable, images (B, C, H, W) to the same shape; None for a defense that is only described
    source  as recipes name it (`Workbench.adopted`)

    A random one draws from the global random states, which begin, at each call, at a seed of its own.
    """

    def __init__(self, source=None, *, clean=None, name="", differentiable=True, stochastic=False):
        super().__init__()
        self.clean, self.name = clean, name
        self.differentiable, self.stochastic = differentiable, stochastic

    def forward(self, x: Tensor) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=self.generator)) if self.stochastic else 0
        with drawn(seed):
            return self.raw(x if self.differentiable else x.detach()).clamp(0, 1)

    def raw(self, x: Tensor) -> Tensor:
        """What the callable itself answers, drawn from the random states as they are. Raises InputError as `theirs`."""
        with theirs(self.name):
            out = self.clean(_as_for(self.clean, x))
        if not isinstance(out, Tensor) or out.shape != x.shape:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            need = "a defense has to answer with images of the same size"
            raise InputError(f"{self.name} answers {got} for images {tuple(x.shape)}; {need}")
        return out.to(x)


def _as_for(module: object, x: Tensor) -> Tensor:
    """x in the precision, and on the device, of a module's weights."""
    held = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
    first = next((tensor for tensor in held if tensor.is_floating_point()), x)
    return x.to(first.device, first.dtype)


def _settled(found: Found) -> Found:
    """The same with, where it is a module, a copy of it that is at rest and needs no gradient."""
    if isinstance(found.thing, nn.Module):
        found.trained = any(module.training for module in found.thing.modules())
        try:
            found.thing = copy.deepcopy(found.thing)
        except Exception:  # some hold what cannot be copied: they are used as they are
            pass
        with theirs(found.label):
            found.thing = found.thing.eval().requires_grad_(False)
    return found


def _parts(spec: str, need: str) -> tuple[str | None, ...]:
    if not (parts := _SPEC.fullmatch(spec)):
        raise InputError(f"{spec!r} names nothing; write {need}")
    return parts.groups()


def _weights(path: str) -> dict[str, Tensor]:
    """A state dict, also where training has wrapped it as "state_dict" or "model", and names as "module.NAME"."""
    tensors = networks.read(typed(path))
    for key in ("state_dict", "model"):
        tensors = tensors[key] if isinstance(tensors.get(key), dict) else tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _pretrained(zoo: str, name: str, tensors: dict | None) -> Found:
    """A network of a library: with its own weights, or with as many outputs as the last of these `tensors` has."""
    make = functools.partial(_torchvision if zoo == "torchvision" else _timm, name)
    try:
        if tensors is None:
            module, mean, std = make(True)
            return Found(module, f"{zoo}:{name}", mean=tuple(mean), std=tuple(std))
        last = [key for key, value in make(False)[0].state_dict().items() if value.ndim][-1]
        classes = len(tensors[last]) if last in tensors else 1000
        with drawn(0):
            return Found(make(False, num_classes=classes)[0], f"{zoo}:{name}")
    except InputError:
        raise
    except Exception as error:  # unknown names, and all that can happen to a download
        how = "check the name, or give weights of your own as NAME@FILE.safetensors"
        raise InputError(f"{zoo}:{name} cannot be had ({reason(error)}); {how}") from error


def _torchvision(name: str, trained: bool, **how):
    from labkit.core.torchvision_shim import torchvision

    if not trained:
        return torchvision.models.get_model(name, weights=None, **how), (), ()
    weights = torchvision.models.get_model_weights(name).DEFAULT
    shown = weights.transforms()
    return torchvision.models.get_model(name, weights=weights), shown.mean, shown.std


def _timm(name: str, trained: bool, **how):
    try:
        import timm
    except ImportError:
        raise InputError(f"timm:{name} needs the package timm; run `pip install timm`") from None
    module = timm.create_model(name, pretrained=trained, **how)
    return module, module.pretrained_cfg["mean"], module.pretrained_cfg["std"]


def _exported(path: str) -> Found:
    name, before = Path(path).name, os.environ.get(_SAFE)
    os.environ[_SAFE] = "1"  # torch.export.load would fall back on unpickling whatever is there
    try:
        program = torch.export.load(typed(path))
        given = program.graph_signature.user_inputs[0]
        shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == given)
        module = program.module()
    except Exception as error:  # torch raises a dozen types for damaged files
        raise InputError(f"cannot read {path} ({reason(error)}); export it anew with torch.export.save") from error
    finally:
        os.environ.pop(_SAFE) if before is None else os.environ.update({_SAFE: before})
    for part in module.modules():  # an exported network has no modes: it is what it was exported in
        part.training = False
    module.requires_grad_(False)
    return Found(module, f"exported:{name}", Path(path).read_bytes(), shape[0] if isinstance(shape[0], int) else None)


def _function(path: str, name: str) -> tuple[Callable, bytes]:
    """A function of somebody's file, which is run as a module of its own, its folder on the path; and the file."""
    file = typed(path).absolute()
    try:
        source = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({reason(error)}); give the path of a Python file") from None
    module = types.ModuleType(f"_{file.stem}_{hashlib.sha256(str(file).encode() + source).hexdigest()[:8]}")
    module.__file__, sys.modules[module.__name__] = str(file), module
    sys.path.insert(0, str(file.parent))
    try:
        with theirs(file.name), drawn(0):
            exec(compile(source, str(file), "exec"), vars(module))
    finally:
        sys.path.remove(str(file.parent))
    if not callable(found := getattr(module, name, None)):
        raise InputError(f"{file.name} has no function {name!r}; name one that it has")
    return found, source


def _feed(sha, part: object, seen: set[int]) -> None:
    """Adds to a digest what a Python object is: the file of its code, and all that it holds, also in a closure."""
    if isinstance(part, Tensor):
        flat = part.detach().cpu().contiguous().flatten().view(torch.uint8)
        sha.update(f"{part.dtype}{tuple(part.shape)}".encode() + flat.numpy().tobytes())
    elif part is None or isinstance(part, (str, bytes, int, float)):
        sha.update(f"{part!r};".encode())
    elif id(part) not in seen:
        seen.add(id(part))
        code = part if inspect.isroutine(part) or isinstance(part, type) else type(part)
        sha.update(f"{code.__module__}.{code.__qualname__}".encode())
        try:
            file = inspect.getsourcefile(code)
            sha.update(Path(file).read_bytes() if file and not file.startswith(_OURS) else b"")
        except (OSError, TypeError):  # of what was typed, or is built in
            pass
        held = [*part.items()] if isinstance(part, dict) else [*part] if isinstance(part, (tuple, list)) else []
        if code is not part or inspect.isroutine(part):
            held += [getattr(part, name, None) for name in ("__dict__", "__self__", "__defaults__", "func", "args")]
        held += [cell.cell_contents for cell in getattr(part, "__closure__", None) or ()]
        for value in held:
            _feed(sha, value, seen)
