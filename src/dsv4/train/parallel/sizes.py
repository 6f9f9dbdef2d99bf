"""A mesh in one line of a recipe: "dp=4 cp=2 ep=8". Needs no torch.

processes = dp · cp:  dp groups have rows of their own, the cp processes of a group divide the
columns of theirs. ep divides dp · cp: ep neighbouring processes hold the experts between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dsv4.config import Config


@dataclass(frozen=True)
class Sizes:
    """How many ways rows (dp), columns (cp) and experts (ep) are divided.

    Raises: ValueError naming the value and what would do.
    """

    dp: int = 1
    ep: int = 1
    cp: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:
                raise ValueError(f"mesh has {name}={value}: must be a whole number from 1 on")
        if self.processes % self.ep:
            raise ValueError(
                f"mesh {self} spreads experts over {self.ep} processes: ep must divide dp × cp = "
                f"{self.processes}"
            )

    @classmethod
    def parse(cls, text: str) -> Sizes:
        """`dp=2 ep=2 cp=1`, in any order; what is left out is 1, and so is all of `1`. Raises
        ValueError."""
        if text.strip() == "1":
            return cls()
        found: dict[str, int] = {}
        for word in re.split(r"[\s,]+", text.strip()):
            match = re.fullmatch(r"(dp|ep|cp)=([0-9]{1,7})", word)
            if match is None or match[1] in found:
                raise ValueError(f"mesh {text!r}: must be words as in 'dp=2 ep=2 cp=1', each once")
            found[match[1]] = int(match[2])
        return cls(**found)

    @property
    def processes(self) -> int:
        """How many it takes."""
        return self.dp * self.cp

    @property
    def replicas(self) -> int:
        """How many processes hold the same experts, divided among them as all weights are."""
        return self.processes // self.ep

    def check(self, config: Config, seq_len: int) -> None:
        """Raises ValueError unless a model and its rows can be divided."""
        for what, total, ways, name in (
            ("seq_len", seq_len, self.cp, "cp"),
            ("n_routed_experts", config.n_routed_experts, self.ep, "ep"),
        ):
            if total % ways:
                raise ValueError(f"{what} = {total}: {name}={ways} of the mesh must divide it")

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in vars(self).items())
