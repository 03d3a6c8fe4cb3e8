"""The network of a cfg, built section by section."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor, nn

from .head import Yolo
from .layers import LAYERS, Convolution, present
from .layout import LayerInfo, common_stride, decoded_layers, layout
from .sections import Section, head_path, heads, parse, with_activation, with_options, write


def build(text: str, *, source: str = "cfg") -> Darknet:
    """Build the network that cfg text describes.

    Raises:
        CfgError: the text describes no network; the message names source, line and key.
    """
    return Darknet(parse(text, source=source))


def reactivated(net: Darknet, activation: str) -> Darknet:
    """Copy a network whose convolutions have another activation; weights, mode and device stay.

    `activation` is a key of `layers.ACTIVATIONS`; see `sections.with_activation`.
    """
    other = Darknet(with_activation(net.sections, activation)).to(next(net.parameters()))
    other.train(net.training)
    other.load_state_dict(net.state_dict())
    return other


class Darknet(nn.Module):
    """A detector whose layers are the sections of a cfg.

    Attributes:
        module_list: layer i is section i + 1; each module is called with the tensors it reads.
        stride: what every layer's stride divides; sides of an image must be multiples of it.
        map_layers: the layers whose outputs are the head maps, in cfg order.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        super().__init__()
        layers, decoded = layout(sections), decoded_layers(sections)
        self._built = tuple(sections)
        self._inputs = tuple(layer.inputs for layer in layers)
        self.stride = common_stride(layers)
        self.module_list = nn.ModuleList(
            LAYERS[layer.kind](_as_logits(section) if layer.index in decoded else section, layer)
            for section, layer in zip(sections[1:], layers, strict=True)
        )
        self.map_layers = tuple(
            index for index, module in enumerate(self.module_list) if isinstance(module, Yolo)
        )
        self._stale = _last_uses(self._inputs, needed=self.map_layers)
        for index, head in zip(self._head_layers(), self.heads, strict=True):
            _expect_few_objects(self.module_list[index], head)

    @property
    def sections(self) -> tuple[Section, ...]:
        """The cfg of the network as it is now: widths are read from the modules."""
        return (self._built[0], *map(present, self._built[1:], self.module_list))

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """Inputs, present widths and strides of every layer."""
        return layout(self.sections)

    @property
    def small_image(self) -> tuple[int, int, int, int]:
        """Shape of an image just big enough to trace: channels do not depend on its size."""
        return (1, 3, 2 * self.stride, 2 * self.stride)

    @property
    def heads(self) -> list[Yolo]:
        """The detection heads in cfg order."""
        return [module for module in self.module_list if isinstance(module, Yolo)]

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """The layers that the heads' convolutions read, in cfg order."""
        return tuple(self._inputs[index][0] for index in self._head_layers())

    def forward(self, images: Tensor, also: Collection[int] = ()) -> tuple[Tensor, ...]:
        """Compute the head maps.

        Args:
            images: RGB in 0..1, [N, 3, H, W].
            also: layers whose outputs are wanted beside them.

        Returns:
            One map of logits per head, [N, A*(5+classes), ny, nx], in cfg order; then the outputs
            of `also`, each [N, width, ny, nx].
        """
        outputs = {-1: images}
        self.run(outputs, range(len(self.module_list)), keep=also)
        return tuple(outputs[index] for index in (*self.map_layers, *also))

    def run(
        self, outputs: dict[int, Tensor], layers: Iterable[int], *, keep: Collection[int] = ()
    ) -> None:
        """Compute some layers: all of them, what is left after a stop, or what a change reaches.

        Args:
            outputs: by layer what is computed already, -1 the images; all that `layers` read must
                be there or be among them. Theirs are added, and what nothing reads after the layer
                at hand is dropped, but for head maps.
            layers: indices, ascending.
            keep: layers whose outputs are not dropped either.
        """
        for index in layers:
            outputs[index] = self.module_list[index](*(outputs[i] for i in self._inputs[index]))
            for layer in self._stale[index]:
                if layer not in keep:
                    outputs.pop(layer, None)

    def decode(self, maps: Sequence[Tensor]) -> Tensor:
        """Turn head maps into boxes.

        Args:
            maps: what `forward` gave.

        Returns:
            [N, boxes, 5 + classes]: centre x, y, width, height in pixels, objectness, class
            probabilities.
        """
        decoded = [head.decode(x) for head, x in zip(self.heads, maps, strict=True)]
        return torch.cat(decoded, dim=1)

    def head_convolutions(self) -> frozenset[str]:
        """Name the convolutions that feed the heads, whose outputs no cut may touch."""
        return frozenset(f"module_list.{index}.Conv2d" for index in self._head_layers())

    def cfg_text(self) -> str:
        """Write the cfg of the network as it is now."""
        return write(self.sections)

    def _head_layers(self) -> tuple[int, ...]:
        """Find the convolution of each head, in cfg order."""
        return tuple(head_path(self._built, head)[-1] for head in heads(self._built))


def _as_logits(section: Section) -> Section:
    return with_options(section, activation="linear")


def _last_uses(
    inputs: Sequence[Sequence[int]], *, needed: Iterable[int]
) -> tuple[tuple[int, ...], ...]:
    """List after each layer the outputs that nothing reads any more and that are not `needed`."""
    last = {-1: 0}
    for index, layers in enumerate(inputs):
        last |= dict.fromkeys((index, *layers), index)
    for index in needed:
        del last[index]
    return tuple(
        tuple(layer for layer, use in last.items() if use == index) for index in range(len(inputs))
    )


@torch.no_grad()
def _expect_few_objects(convolution: nn.Module, head: Yolo) -> None:
    """Start a head with few objects in mind: 8 an image of 640 pixels, all classes alike.

    Such a prior keeps early training stable (Lin et al. 2017, arXiv:1708.02002, section 4.1).
    """
    assert isinstance(convolution, Convolution)
    bias = convolution.Conv2d.bias
    if bias is None:
        return
    prior = bias.view(head.anchors.shape[0], -1)  # [A, 5 + classes]
    prior[:, 4] += math.log(8 / (640 / head.stride) ** 2)
    if not head.softmax:  # there all classes are alike as they are
        prior[:, 5:] += math.log(0.6 / (head.classes - 0.99))
