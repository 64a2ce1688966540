"""Parameters of every family at full size, and how long one case of 1,500 tiles takes: README.md's table.

python benchmarks/families.py
"""

import time

import torch

from survfuse.networks.build import build
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.tasks.registry import DEFAULT

TILES, TIMES = 1500, 7


def main() -> None:
    sizes = Sizes()
    case = torch.randn(1, TILES, sizes.tile), torch.randn(1, sizes.genes), torch.randn(1, sizes.clinical)
    print("| `--fusion` | parameters | ms a case |\n|---|---|---|")
    for name, family in families_of(DEFAULT.modalities).items():
        network = build(family, sizes).eval()
        with torch.inference_mode():
            seconds = min(_seconds(network, case) for _ in range(TIMES))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        print(f"| `{name}` | {parameters:,} | {1000.0 * seconds:.1f} |")


def _seconds(network: torch.nn.Module, case: tuple[torch.Tensor, ...]) -> float:
    started = time.perf_counter()
    network(*case)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
