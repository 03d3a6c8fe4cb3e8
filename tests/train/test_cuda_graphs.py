"""Replayed passes, played by torch on a CPU: what is kept book of, and frozen parts.

That a recording of a GPU computes what it was recorded from needs a GPU: see the last test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from prune.train import passes as recording
from prune.train.passes import Eager, Forward, Graphed, Views


class Net(nn.Module):
    """Two maps; the first layer can be frozen, and with it all of the first map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return a map of each layer."""
        early = self.first(images)
        return early, self.second(early.relu())


@dataclass
class Played:
    """Stands for a CUDA graph: does the work anew each time."""

    play: Callable[[], None]

    def replay(self) -> None:
        """Do it."""
        self.play()


def _record(net: nn.Module, look: Forward, images: Tensor) -> recording._Recording:
    images = images.clone()
    held: list[Views] = [look(images)]
    seen = Views(tuple(t.detach().clone() for t in held[0].maps))
    trained = tuple(t.requires_grad for t in held[0].maps)
    wished = tuple(torch.zeros_like(t) for t in recording._trained_outputs(held[0]))

    def ahead() -> None:
        held[0] = look(images)
        for place, value in zip(seen.maps, held[0].maps, strict=True):
            place.copy_(value.detach())

    def back() -> None:
        torch.autograd.backward(recording._trained_outputs(held[0]), wished)

    return recording._Recording(images, seen, trained, wished, Played(ahead), Played(back))  # type: ignore[arg-type]


@pytest.mark.parametrize("frozen", [False, True], ids=["all trains", "the first map is frozen"])
def test_replayed_passes_gather_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, *, frozen: bool
) -> None:
    monkeypatch.setattr(recording, "_record", _record)
    nets = Net(), Net()
    shape = (2, 3, 4, 4)
    for net in nets:
        net.first.requires_grad_(not frozen)

    def looks(net: Net) -> Forward:
        return lambda images: Views(net(images))

    eager, replayed = Eager(looks(nets[0])), Graphed(nets[1], looks(nets[1]), shape)
    for number in (2, 2, 1):  # gathered over batches, of which the last is smaller
        images = torch.rand(number, *shape[1:])
        for passes in (eager, replayed):
            maps = passes.forward(images).maps
            passes.backward(sum((m.square().sum() for m in maps), torch.zeros(())))
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            assert torch.allclose(one.grad, other.grad)
    replayed.clear(nets[1].parameters())
    assert all(not p.grad.any() for p in nets[1].parameters() if p.grad is not None)


def test_other_modes_of_the_modules_are_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Tensor] = []

    def noting(net: nn.Module, look: Forward, images: Tensor) -> recording._Recording:
        recorded.append(images)
        return _record(net, look, images)

    monkeypatch.setattr(recording, "_record", noting)
    net, images = Net(), torch.rand(2, 3, 4, 4)
    passes = Graphed(net, lambda pictures: Views(net(pictures)), images.shape)
    for trains in (True, True, False, False):
        net.first.train(trains)
        passes.forward(images)
    assert len(recorded) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a recording needs a GPU")
def test_a_recording_computes_what_it_was_made_of() -> None:
    device = torch.device("cuda")
    nets = Net().to(device), Net().to(device)
    shape = (2, 3, 4, 4)

    def looks(net: Net) -> Forward:
        return lambda images: Views(net(images))

    eager, replayed = Eager(looks(nets[0])), Graphed(nets[1], looks(nets[1]), shape)
    for _ in range(2):
        images = torch.rand(shape, device=device)
        for passes in (eager, replayed):
            maps = passes.forward(images).maps
            passes.backward(sum((m.square().sum() for m in maps), torch.zeros((), device=device)))
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-5)
