"""Passes through a network that wait in front of its layers, so that many can run side by side."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from prune.common.eval_mode import evaluating
from prune.core.recover.readers import Layer, watching


class _Left(BaseException):
    """Ends a pass that is no longer needed."""


class _Pass:
    """One batch on its way through a network, in a thread of its own; one runs at a time."""

    def __init__(self, net: nn.Module, batch: Tensor) -> None:
        self._go, self._stop = threading.Semaphore(0), threading.Semaphore(0)
        self._wanted: str | None = None  # the layer to stop at; None to end
        self._value: Tensor | None = None
        self._failed: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(net, batch), daemon=True)

    def to(self, name: str) -> Tensor:
        """Continue to a layer and return its input."""
        self._wanted = name
        self._continue()
        assert self._value is not None, f"the network never reached {name}"
        return self._value

    def leave(self) -> None:
        """End here."""
        self._wanted = None
        self._continue()
        self.thread.join()

    def meet(self, name: str, value: Tensor) -> None:
        """Wait in front of the layer that is wanted; pass by the others."""
        if name != self._wanted:
            return
        self._value = value
        self._stop.release()
        self._go.acquire()
        self._value = None
        if self._wanted is None:
            raise _Left

    def _continue(self) -> None:
        if self.thread.ident is None:
            self.thread.start()
        elif self.thread.is_alive():
            self._go.release()
        else:
            return
        self._stop.acquire()
        if self._failed is not None:
            raise self._failed

    def _run(self, net: nn.Module, batch: Tensor) -> None:
        try:
            with torch.no_grad():  # holds for this thread only
                net(batch)
        except _Left:
            pass
        except BaseException as error:  # raised again by who waits
            self._failed = error
        self._stop.release()


class Walk:
    """The passes of several batches through one network."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._passes: dict[int, _Pass] = {}  # by number of the batch

    def value(self, number: int, batch: Tensor, name: str) -> Tensor:
        """Return what runs into a layer; the batch stays there until it is wanted further on.

        Args:
            number: of the batch.
            batch: the input, [N, ...], should it have to begin.
            name: a layer no earlier than where it stands.
        """
        if number not in self._passes:
            self._passes[number] = _Pass(self._net, batch)
        return self._passes[number].to(name)

    def forget(self, number: int) -> None:
        """Let a batch go, with all it holds in memory; wanted again, it begins anew."""
        if number in self._passes:
            self._passes.pop(number).leave()

    def meet(self, name: str, value: Tensor) -> None:
        """Stop the pass whose thread this is."""
        own = threading.current_thread()
        one = next(found for found in self._passes.values() if found.thread is own)
        one.meet(name, value)

    def end(self) -> None:
        """Let all batches go."""
        for number in list(self._passes):
            self.forget(number)


@contextmanager
def walking(net: nn.Module, names: Collection[str]) -> Iterator[Walk]:
    """Let batches walk through a network, in eval mode, and wait in front of some layers."""
    walk = Walk(net)
    with evaluating(net), watching(net, Layer, names=names, before=walk.meet):
        try:
            yield walk
        finally:
            walk.end()
