"""Buffers whose sizes are known only once a module is fitted."""

from torch import Tensor, nn


class FittedBuffers(nn.Module):
    """A module that `load_state_dict` fills although it is not fitted yet.

    sized_by_fit  names of the buffers that take their sizes from what is loaded
    """

    sized_by_fit: tuple[str, ...] = ()

    def _prepare(self, stored: dict[str, Tensor]) -> None:
        """Builds what `stored`, this module's part of a state dict, is to fill; nothing by default."""

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        stored = {name.removeprefix(prefix): t for name, t in state_dict.items() if name.startswith(prefix)}
        for name in self.sized_by_fit:
            if name in stored:
                setattr(self, name, getattr(self, name).new_empty(stored[name].shape))
        self._prepare(stored)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
