"""A trace as data: a row for every step, and the totals."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from ..config import ViTConfig
from ..parameters import place

PARTS = ("embed", "attention", "mlp", "norms and sums", "head", "merger")  # the last where there is one


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Something a step reads or writes: its name and shape."""

    name: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One step of the forward pass."""

    name: str  # "blocks.0.attention.query"
    operation: str  # "linear"
    inputs: tuple[Tensor, ...]  # earlier steps
    weights: tuple[Tensor, ...]
    dims: str  # "B H N K"
    shape: tuple[int, ...]  # (1, 12, 197, 64)
    dtype: str
    parameters: int
    macs: int
    read: int  # bytes
    written: int  # bytes
    formula: str
    paper: str
    why: str
    why_zh: str
    values: dict[str, float] | None = None  # min, max, mean, std, nan, inf of a real run

    @property
    def block(self) -> int | None:
        """The number of the encoder block, or None."""
        return place(self.name)[0]

    @property
    def local_name(self) -> str:
        """The step's name within its block; its whole name outside the blocks."""
        return place(self.name)[1]

    @property
    def part(self) -> str:
        """Which part of the model's cost this is: one of PARTS."""
        if self.name.startswith(("merger.", "deepstack.")):
            return "merger"
        for part in ("embed", "attention", "mlp"):
            if part in self.name.split("."):
                return part
        return "norms and sums" if self.block is not None or self.name == "norm" else "head"


@dataclasses.dataclass(eq=False, repr=False)
class Rows(Sequence[Row]):
    """The rows of a traced run, and their totals."""

    rows: Sequence[Row]
    config: ViTConfig
    sizes: dict[str, int]  # letter -> size
    dtype: str
    peak_memory: int  # bytes of activations
    products: Sequence[tuple[tuple[int, ...], tuple[int, ...]]] = ()
    """The shapes of both operands of every matrix product, in order; of a whole run only."""

    def having(self, rows: Sequence[Row]) -> Self:
        """The same run, of which some rows are left out, or say more."""
        return dataclasses.replace(self, rows=rows, products=())

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def parameters(self) -> int:
        return total(self, "parameters")

    @property
    def macs(self) -> int:
        return total(self, "macs")

    @property
    def flops(self) -> int:
        """Two for each MAC: a multiplication and an addition."""
        return 2 * self.macs

    @property
    def read(self) -> int:
        return total(self, "read")

    @property
    def written(self) -> int:
        return total(self, "written")

    def shares(self) -> dict[str, tuple[int, int]]:
        """Part of the model -> (parameters, MACs)."""
        parts = {part: [row for row in self if row.part == part] for part in PARTS}
        if not parts["merger"]:
            del parts["merger"]
        return {part: (total(rows, "parameters"), total(rows, "macs")) for part, rows in parts.items()}


def total(rows: Iterable[Row], what: str) -> int:
    """The sum of one of the numbers of rows: "parameters", "macs", "read" or "written"."""
    return sum(getattr(row, what) for row in rows)
