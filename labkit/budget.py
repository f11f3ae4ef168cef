"""How far an attack may go: a norm, a size, and whether the size is relative to the image."""

from dataclasses import dataclass

from torch import Tensor

from labkit.errors import InputError


@dataclass(frozen=True)
class Budget:
    """A bound on x_adv − x for each image, besides pixels staying in [0, 1].

    Made by `Budget.dissimilarity(0.08)`, `Budget.l2(0.5)` or `Budget.linf(8 / 255)`.
    """

    norm: str
    size: float
    relative: bool = False

    def __post_init__(self):
        if self.norm not in ("l2", "linf"):
            raise InputError(f"unknown norm {self.norm!r}; use 'l2' or 'linf'")
        if not 0 <= self.size < float("inf"):
            raise InputError(f"a budget must be a finite number of at least 0, got {self.size}")

    @classmethod
    def dissimilarity(cls, size: float) -> "Budget":
        """‖x_adv − x‖₂ ≤ size · ‖x‖₂, the paper's measure (Section 5.1)."""
        return cls("l2", size, relative=True)

    @classmethod
    def l2(cls, size: float) -> "Budget":
        """‖x_adv − x‖₂ ≤ size, pixels in [0, 1]."""
        return cls("l2", size)

    @classmethod
    def linf(cls, size: float) -> "Budget":
        """|x_adv − x| ≤ size in every pixel, pixels in [0, 1]."""
        return cls("linf", size)

    def radius(self, x: Tensor) -> Tensor:
        """The bound for each image of x (B, C, H, W), in pixel units: (B,)."""
        if self.relative:
            return self.size * x.flatten(1).norm(dim=1)
        return x.new_full((len(x),), self.size)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The images x_adv brought within the bound around x, and into [0, 1]."""
        radius = self.radius(x)[:, None, None, None]
        change = x_adv - x
        if self.norm == "linf":
            change = change.clamp(-radius, radius)
        else:
            length = change.flatten(1).norm(dim=1)[:, None, None, None]
            # Clipping to [0, 1] moves every pixel towards x, so it cannot leave the ball again.
            change = change * (radius / length.clamp_min(1e-30)).clamp_max(1)
        return (x + change).clamp(0, 1)
