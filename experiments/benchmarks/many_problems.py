"""Batches to race on, many fits each, and how near to the optimum somebody's lanes are: NumPy only, for everyone."""

from typing import NamedTuple

import numpy as np

from .problems import Problem, Size, draw, optimality


class Kind(NamedTuple):
    """What a batch is at full size: the family, how many lanes, the size of x, and what differs between lanes."""

    family: str
    lanes: int
    size: Size
    differs: str

    @property
    def title(self) -> str:
        """In words."""
        rows, family = f"{self.size.n:,} x {self.size.d}", self.family.replace("poisson", "Poisson")
        return {
            "outcomes": f"{self.lanes:,} {family} outcomes on one {rows} design",
            "problems": f"{self.lanes:,} separate {family} problems of {rows}",
            "weights": f"{self.lanes:,} bootstrap replicates of a {family} {rows}",
        }[self.differs]

    def scaled(self, scale: float) -> "Kind":
        """With so much less, or more, of lanes and rows; the rows stay enough for the columns."""
        n, d = self.size
        rows = max(round(n * scale), min(n, 40 * d))
        return self._replace(lanes=max(4, round(self.lanes * scale)), size=Size(rows, d))


KINDS = {
    "a": Kind("poisson", 500, Size(8192, 10), "outcomes"),
    "b": Kind("poisson", 2000, Size(200, 5), "problems"),
    "c": Kind("poisson", 256, Size(16384, 32), "outcomes"),
    "d": Kind("logistic", 1000, Size(5000, 20), "weights"),
}


class Batch(NamedTuple):
    """What everybody fits, unpenalized and with a bias: parts of a `gj.Data`, float64, that all lanes share, and parts
    that each lane has of its own, lanes first.
    """

    kind: Kind
    shared: dict[str, np.ndarray]
    each: dict[str, np.ndarray]

    def lane(self, i: int) -> Problem:
        """A lane as a problem of its own; a bootstrap replicate as the rows that were drawn, as often as they were.

        (Copies suit the peers better than weights do, which they multiply by at every step.)
        """
        parts = self.shared | {name: part[i] for name, part in self.each.items()}
        x, y = parts["x"], parts["y"]
        if "weight" in parts:
            rows = np.repeat(np.arange(len(y)), parts["weight"].astype(int))
            x, y = x[rows], y[rows]
        return Problem(self.kind.family, "independent", x, y, x.mean(axis=0), x.std(axis=0))

    def first(self, lanes: int) -> "Batch":
        """The first so many lanes."""
        kind = self.kind._replace(lanes=lanes)
        return Batch(kind, self.shared, {name: part[:lanes] for name, part in self.each.items()})

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(part.nbytes for part in (*self.shared.values(), *self.each.values()))


def draw_batch(kind: Kind, seed: int = 0) -> Batch:
    """A batch whose linear predictors have a standard deviation of 0.7, on standard normal columns."""
    rng = np.random.default_rng(seed)
    n, d = kind.size
    if kind.differs == "problems":
        problems = [draw(kind.family, "independent", kind.size, seed + lane) for lane in range(kind.lanes)]
        return Batch(kind, {}, {"x": np.stack([p.x for p in problems]), "y": np.stack([p.y for p in problems])})
    problem = draw(kind.family, "independent", kind.size, seed)
    if kind.differs == "weights":
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=kind.lanes)
        return Batch(kind, {"x": problem.x, "y": problem.y}, {"weight": drawn.astype(float)})
    w = rng.normal(size=(kind.lanes, d))
    w *= 0.7 / np.linalg.norm(w, axis=1, keepdims=True)
    eta = w @ problem.x.T - 0.5
    y = rng.poisson(np.exp(eta)) if kind.family == "poisson" else rng.random(eta.shape) < 1 / (1 + np.exp(-eta))
    return Batch(kind, {"x": problem.x}, {"y": y.astype(float)})


def gradients(batch: Batch, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The largest derivative of each lane's mean loss, (lanes,), for the first lanes of the batch; see `optimality`."""
    return np.array([optimality(batch.lane(i), w[i], b[i])[1] for i in range(len(b))])
