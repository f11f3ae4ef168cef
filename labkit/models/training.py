"""Training: epochs of batches by an optimizer, and a checkpoint from which a killed run goes on."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from labkit.core import InputError, distributed
from labkit.core import checkpoint as checkpoint_file

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

Prepare = Callable[[Tensor, torch.Generator], Any]
Loss = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]

_FILE = "training.safetensors"


def schedule(done: float, warmup: float) -> float:
    """The step size, as a share of the largest, when the share `done` in (0, 1] of all steps is done.

    It rises linearly during the share `warmup` of all steps and falls to 0 along a cosine.
    """
    if done < warmup:
        return done / warmup
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


class Training:
    """A model, its optimizer, and the history of the epochs that they have behind them.

    run         what is trained on which images, in values that JSON can hold
    checkpoint  folder that holds the state after the last whole epoch. A killed run, begun again with the model as it
                was at its start, goes on from there and ends bit for bit as if never interrupted (on the same
                machine). A state that is damaged, or of another run, is discarded with a warning.
    shared      whether each rank of `distributed.session` takes its share of every batch; DistributedDataParallel in
                the `loss` given to `run` then averages the gradients

    history     of each figure that is reported, its value in every epoch
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, run: dict, checkpoint=None, *, shared: bool = False
    ):
        self.model, self.optimizer = model, optimizer
        self._whose = {**run, "optimizer": type(optimizer).__name__}
        self._file = Path(checkpoint) / _FILE if checkpoint is not None else None
        self._ranks = distributed.world() if shared else 1
        self.history: dict[str, list[float]] = self._resumed() if self._file else {}

    @property
    def done(self) -> int:
        """How many epochs are behind it."""
        return len(next(iter(self.history.values()), ()))

    def run(
        self, epochs: int, positions: Tensor, batch: int, prepare: Prepare, loss: Loss, *,
        draw: Callable[[int], torch.Generator], even: bool = True, warmup: float | None = None,
        measure: Callable[[], dict[str, float]] = dict,
        name: str = "training", progress: bool = True,
    ) -> dict[str, list[float]]:  # fmt: skip
        """Trains up to `epochs` epochs, leaves the model in evaluation mode and returns the history.

        positions  of the images to train on, which each epoch takes in random order
        batch      most images in a step
        prepare    what a step needs of the images at some positions, such as augmented ones. It alone draws from the
                   generator, one batch ahead and beside the step that is under way
        loss       what a step minimises, given what was prepared, and figures to report: means over these images
        draw       the generator of an epoch; where ranks share the batches, all but the first go on with seeds of
                   their own
        even       nearly equal batches: a last one of one image would leave batch normalisation without a variance
        warmup     as for `schedule`, which then multiplies the optimizer's step size; None leaves that as it is
        measure    more figures, taken after each epoch

        Raises InputError when a figure is no longer finite.
        """
        lr, steps = self.optimizer.defaults["lr"], math.ceil(len(positions) / batch)
        total = steps * epochs
        bar = tqdm(total=total, initial=self.done * steps, desc=name, unit="batch", disable=not progress, delay=2)
        with bar, torch.enable_grad():
            for epoch in range(self.done, epochs):
                generator = draw(epoch)
                order = positions[torch.randperm(len(positions), generator=generator)]
                if self._ranks > 1 and distributed.rank():
                    generator.manual_seed(generator.initial_seed() + 1_000_000_007 * distributed.rank())
                parts = order.tensor_split(steps) if even else order.split(batch)
                sums: dict[str, float] = {}
                mine = parts if self._ranks == 1 else [distributed.shard(part) for part in parts]
                for step, ready in enumerate(_ahead(prepare, mine, generator)):
                    if warmup is not None:
                        for group in self.optimizer.param_groups:
                            group["lr"] = lr * schedule((epoch * steps + step + 1) / total, warmup)
                    for figure, value in self._step(ready, len(mine[step]), len(parts[step]), loss).items():
                        sums[figure] = sums.get(figure, 0.0) + value
                    bar.update()
                if self._ranks > 1:
                    sums = self._everyones(sums)
                if not all(map(math.isfinite, sums.values())):
                    raise InputError(f"training diverged in epoch {epoch + 1}; choose a learning rate below {lr:g}")
                figures = {figure: value / len(order) for figure, value in sums.items()} | measure()
                for figure, value in figures.items():
                    self.history.setdefault(figure, []).append(value)
                bar.set_postfix(epoch=f"{epoch + 1}/{epochs}", **{k: f"{value:.4g}" for k, value in figures.items()})
                if self._file and (self._ranks == 1 or distributed.rank() == 0):
                    checkpoint_file.write(self._file, self._whose, self._state(), self.history)
        self.model.to(memory_format=torch.contiguous_format).eval()
        return self.history

    def _step(self, ready: Any, mine: int, batch: int, loss: Loss) -> dict[str, float]:
        """One step of the optimizer; returns the figures, summed over this rank's images, `mine` of the batch."""
        objective, figures = loss(ready)
        self.optimizer.zero_grad()
        # Gradients will be averaged over ranks, whose shares may differ by one image.
        (objective if self._ranks == 1 else objective * (self._ranks * mine / batch)).backward()
        self.optimizer.step()
        return {name: value.item() * mine for name, value in figures.items()}

    def _everyones(self, sums: dict[str, float]) -> dict[str, float]:
        """Sums over all ranks; the model's buffers, such as what batch normalisation keeps, become their means."""
        buffers = list(self.model.buffers())
        mine = torch.tensor([*sums.values()], dtype=torch.float64, device=buffers[0].device)
        everyones, *totals = distributed.all_reduce(mine, *buffers)
        for buffer, total in zip(buffers, totals, strict=True):
            buffer.copy_(total / self._ranks)
        return dict(zip(sums, everyones.tolist(), strict=True))

    def _state(self) -> dict[str, Tensor]:
        """The tensors that training changes: the model's own, and what the optimizer remembers of each parameter."""
        state = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        for name, p in self.model.named_parameters():
            state |= {f"{what}.{name}": tensor for what, tensor in self.optimizer.state[p].items()}
        return state

    def _resumed(self) -> dict[str, list[float]]:
        """Restores the state in the file; returns the history, an empty one when the file cannot be used."""
        read = lambda: checkpoint_file.read(self._file, self._whose)  # noqa: E731
        found = read() if self._ranks == 1 else distributed.first(read)
        if found is None:
            return {}
        tensors, history = found
        self.model.load_state_dict({name: tensors.pop(f"model.{name}") for name in self.model.state_dict()})
        parameters = dict(self.model.named_parameters())
        for label, kept in tensors.items():
            what, _, name = label.partition(".")
            p = parameters[name]
            # In the memory layout of its parameter, as the optimizer would have made it; steps are counted on the CPU.
            self.optimizer.state[p][what] = torch.empty_like(p).copy_(kept) if kept.ndim else kept
        return history


def _ahead(prepare: Prepare, parts: Sequence[Tensor], generator: torch.Generator) -> Iterator[Any]:
    """What `prepare` makes of each part in turn, the next one while the last is used."""
    with ThreadPoolExecutor(1) as pool:
        ready = [pool.submit(prepare, parts[0], generator)]
        for part in parts[1:]:
            found = ready.pop().result()
            ready.append(pool.submit(prepare, part, generator))
            yield found
        yield ready.pop().result()
