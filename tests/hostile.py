"""Objects whose files run code when they are opened carelessly."""

import os
from pathlib import Path

import torch


class MakesFolder:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Overwriting(torch.nn.Module):
    """As TorchScript, its ``__setstate__`` writes to a file: what CVE-2025-32434 allows."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self):
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path = state[0]
        self.training = state[1]
        torch.from_file(self.path, shared=True, size=16, dtype=torch.uint8).fill_(65)


def write_torchscript(path: Path, target: Path) -> Path:
    """Writes TorchScript that overwrites ``target`` when it is opened; making it has left no such file."""
    torch.jit.save(torch.jit.script(Overwriting(str(target))), str(path))
    target.unlink(missing_ok=True)
    return path
