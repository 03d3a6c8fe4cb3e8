"""Networks: counts and outputs against the reference, and what a network does beside computing."""

from __future__ import annotations

import copy
import weakref

import cv2
import numpy as np
import pytest
import torch
from public import with_torch_decoding
from reference import CFG, GOLDEN, draw_image, fill
from torch import Tensor, nn

from prune.models.darknet import Darknet, build
from prune.models.layers import Convolution, Implicit
from prune.models.sections import heads as heads_of
from prune.models.sections import parse, with_classes, with_darknet_decoding

# Parameters at 1, 3 and 80 classes, counted on the public code.
PARAMS = {
    "yolor_csp": (52_497_868, 52_508_656, 52_923_994),
    "yolor_csp_x": (99_221_756, 99_235_232, 99_754_058),
    "yolor_p6": (36_838_416, 36_849_216, 37_265_016),
    "yolor_w6": (79_264_784, 79_280_192, 79_873_400),
    "yolov4_csp": (52_496_022, 52_506_792, 52_921_437),
    "yolov4_csp_x": (99_219_462, 99_232_920, 99_751_053),
    "yolov4_p6": (126_694_080, 126_716_640, 127_585_200),
    "yolov4_p7": (286_047_920, 286_086_360, 287_566_300),
}
STRIDES = {"p6": [8, 16, 32, 64], "w6": [8, 16, 32, 64], "p7": [8, 16, 32, 64, 128]}
SHIPPED = sorted(path.stem for path in CFG.glob("*.cfg"))

# Every kind of layer that holds a tensor, and heads at two strides with both decodings.
TINY = """
[net]
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
groups=2
activation=leaky
[shortcut]
from=-2
weights_type=per_channel
weights_normalization=softmax
[implicit_add]
filters=6
[implicit_mul]
filters=14
[route]
layers=2
[convolutional]
filters=6
size=3
stride=2
pad=1
activation=silu
[shift_channels]
from=3
[convolutional]
filters=14
activation=linear
[control_channels]
from=4
activation=logistic
[yolo]
anchors=10,13, 16,30, 33,23, 30,61
mask=2,3
classes=2
num=4
new_coords=1
scale_x_y=2.0
[route]
layers=7
[upsample]
stride=2
[route]
layers=-1,2
[convolutional]
filters=14
activation=linear
[yolo]
anchors=10,13, 16,30, 33,23, 30,61
mask=0,1
classes=2
num=4
"""


def tiny() -> Darknet:
    torch.manual_seed(0)
    return build(TINY).eval()


def shipped(name: str, classes: int = 80) -> Darknet:
    return Darknet(with_classes(parse((CFG / f"{name}.cfg").read_text(), source=name), classes))


def params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def small_image(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PARAMS)
def test_parameters_are_those_of_the_published_network(name: str) -> None:
    with torch.device("meta"):
        counted = tuple(params(shipped(name, classes)) for classes in (1, 3, 80))
    assert counted == PARAMS[name]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_have_their_strides(name: str) -> None:
    with torch.device("meta"):
        net = shipped(name)
        maps = net(torch.empty(1, 3, 256, 128))
    strides = STRIDES.get(name.rsplit("_", 1)[-1], [8, 16, 32])
    assert [head.stride for head in net.heads] == strides
    assert net.stride == strides[-1]
    assert [tuple(x.shape[2:]) for x in maps] == [(256 // s, 128 // s) for s in strides]
    assert [layer.stride for layer in net.layers if layer.kind == "yolo"] == strides


def test_a_images_sides_divide_by_every_stride() -> None:
    """Heads at strides 2 and 3: no multiple of the larger alone will do."""
    head = "[convolutional]\nfilters=6\nactivation=linear\n[yolo]\nanchors=9,9\nclasses=1\n"
    pools = [f"[maxpool]\nsize={s}\nstride={s}\n" for s in (2, 3)]
    conv = "[convolutional]\nfilters=4\nactivation=linear\n"
    net = build(f"[net]\n{conv}{pools[0]}{head}[route]\nlayers=0\n{pools[1]}{head}")
    assert net.stride == 6
    maps = net(torch.zeros(1, 3, net.stride, 3 * net.stride))
    assert [tuple(x.shape[2:]) for x in maps] == [(3, 9), (2, 6)]


@pytest.mark.parametrize("small", ["yolor_csp_s", "yolor_csp_n"])
def test_small_networks_are_of_the_same_make(small: str) -> None:
    """Fewer residual blocks and convolutions, everything else layer for layer as in YOLOR-CSP."""
    with torch.device("meta"):
        ours, big = shipped(small), shipped("yolor_csp")
    kinds = [[layer.kind for layer in net.layers] for net in (ours, big)]
    for kind in set(kinds[0] + kinds[1]) - {"convolutional", "shortcut"}:
        assert kinds[0].count(kind) == kinds[1].count(kind), kind
    assert params(ours) < params(big) / 5


@pytest.mark.parametrize("name", ["yolor_csp", "yolor_p6", "yolov4_csp"])
def test_outputs_are_those_of_the_public_code(name: str) -> None:
    golden = np.load(GOLDEN / f"{name}.npz")
    net = shipped(name, classes=3).eval()
    fill(net)
    with torch.no_grad():
        maps = net(draw_image())
        decoded = net.decode(maps)
    for i, (head, x) in enumerate(zip(net.heads, maps, strict=True)):
        assert np.abs(head.split(x).numpy() - golden[f"raw{i}"]).max() < 1e-4
    assert np.abs(decoded.numpy() - golden["decoded"]).max() < 1e-3


def test_cfg_of_a_public_checkpoint_builds() -> None:
    legacy = parse((GOLDEN / "eighth.cfg").read_text())
    with torch.device("meta"):
        net = Darknet(with_torch_decoding(legacy))
        full = shipped("yolor_csp", classes=3)
    assert net.state_dict().keys() == full.state_dict().keys()
    assert all(head.new_coords and head.scale_x_y == 2 for head in net.heads)
    assert not any(head.new_coords for head in Darknet(with_darknet_decoding(legacy)).heads)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_network_writes_the_cfg_it_was_built_from(name: str) -> None:
    sections = parse((CFG / f"{name}.cfg").read_text())
    with torch.device("meta"):
        assert parse(Darknet(sections).cfg_text()) == sections


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("yolov4")])
def test_another_darknet_reader_finds_the_same_heads(name: str) -> None:
    """OpenCV reads what has no implicit layers; an output is named after its kind and index."""
    net = cv2.dnn.readNetFromDarknet(str(CFG / f"{name}.cfg"))
    heads = [f"yolo_{i}" for i in heads_of(parse((CFG / f"{name}.cfg").read_text()))]
    assert list(net.getUnconnectedOutLayersNames()) == heads


def test_maps_are_logits_and_probabilities_come_from_decoding() -> None:
    """The activation=logistic that Darknet wants before a head is not in the network."""
    net, x = tiny(), small_image()
    with torch.no_grad():
        maps = net(x)
        plain = build(net.cfg_text().replace("new_coords=1", "new_coords=0")).eval()
        plain.load_state_dict(net.state_dict())
        torch.testing.assert_close(plain(x)[0], maps[0].sigmoid())
        torch.testing.assert_close(plain(x)[1], maps[1])
    assert maps[0].min() < 0


def test_moving_a_network_leaves_no_tensor_behind() -> None:
    net = tiny()
    net.to("meta")
    decoded = net.decode(net(small_image().to("meta")))
    assert decoded.device.type == "meta"
    tensors = [v for module in net.modules() for v in vars(module).values()]
    assert not any(isinstance(v, Tensor) for v in tensors), "a tensor that .to() does not see"


def test_a_copy_computes_the_same() -> None:
    net, x = tiny(), small_image()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        torch.testing.assert_close(twin.decode(twin(x)), net.decode(net(x)))
        next(twin.parameters()).add_(1)
        assert not torch.equal(twin.decode(twin(x)), net.decode(net(x)))


def test_outputs_are_freed_after_their_last_use() -> None:
    net = tiny()
    given: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    for module in net.module_list:
        module.register_forward_hook(lambda *args: given.append(weakref.ref(args[-1])))
    net.module_list[-1].register_forward_pre_hook(
        lambda *_: alive.extend(i for i, ref in enumerate(given) if ref() is not None)
    )
    with torch.no_grad():
        net(small_image())
    assert alive == [3, 4, 9, 10, 14], "implicit parameters, the first map, what the last reads"


def test_a_run_stopped_at_any_layer_goes_on_to_the_same_maps() -> None:
    net, x = tiny(), small_image()
    layers = range(len(net.module_list))
    with torch.no_grad():
        whole = net(x)
        for stop in range(len(layers) + 1):
            outputs = {-1: x}
            net.run(outputs, layers[:stop])
            net.run(outputs, layers[stop:])
            parted = tuple(outputs[index] for index in net.map_layers)
            assert all(torch.equal(a, b) for a, b in zip(parted, whole, strict=True)), stop
            assert set(outputs) == set(net.map_layers), stop


def convolution(net: Darknet, index: int) -> nn.Conv2d:
    module = net.module_list[index]
    assert isinstance(module, Convolution)
    return module.Conv2d


def keep_inputs(layer: nn.Conv2d, keep: list[int]) -> None:
    layer.weight = nn.Parameter(layer.weight[:, keep])
    layer.in_channels = len(keep)


def drop_channel(net: Darknet, channel: int) -> None:
    """Cut one output of layer 6 by hand, as a pruning library does: attributes and tensors."""
    keep = [i for i in range(6) if i != channel]
    cut, shift = convolution(net, 6), net.module_list[3]
    assert cut.bias is not None
    assert isinstance(shift, Implicit)
    cut.weight, cut.bias = nn.Parameter(cut.weight[keep]), nn.Parameter(cut.bias[keep])
    cut.out_channels = 5
    shift.implicit = nn.Parameter(shift.implicit[:, keep])
    keep_inputs(convolution(net, 8), keep)
    keep_inputs(convolution(net, 14), [*keep, *range(6, 14)])


def test_a_narrowed_network_writes_a_cfg_that_rebuilds_it() -> None:
    net, x = tiny(), small_image()
    before = params(net)
    drop_channel(net, 2)
    rebuilt = build(net.cfg_text()).eval()
    rebuilt.load_state_dict(net.state_dict())
    assert params(rebuilt) < before
    assert [layer.out_channels for layer in net.layers] == [
        layer.out_channels for layer in rebuilt.layers
    ]
    assert [net.layers[i].out_channels for i in (3, 6, 7, 13)] == [5, 5, 5, 13]
    with torch.no_grad():
        torch.testing.assert_close(rebuilt.decode(rebuilt(x)), net.decode(net(x)))


def test_head_convolutions_are_named() -> None:
    assert tiny().head_convolutions() == {"module_list.8.Conv2d", "module_list.14.Conv2d"}
    with torch.device("meta"):
        net = shipped("yolor_csp")
    assert net.head_convolutions() == {f"module_list.{i}.Conv2d" for i in (173, 179, 185)}
    assert set(net.head_convolutions()) <= {name for name, _ in net.named_modules()}


def test_a_fresh_head_expects_few_objects() -> None:
    net = shipped("yolor_csp_n", classes=3)
    indexes = sorted(int(name.split(".")[1]) for name in net.head_convolutions())
    for index, head in zip(indexes, net.heads, strict=True):
        bias = convolution(net, index).bias
        assert bias is not None
        prior = bias.view(3, -1)  # [A, 5 + classes]
        cells = (640 / head.stride) ** 2
        assert 4 < prior[:, 4].mean().sigmoid() * cells < 16, "8, and the random start"
        assert abs(prior[:, 5:].mean() - np.log(0.6 / 2.01)) < 0.2


class Decoded(nn.Module):
    """A network with its decoding, as an exporter wraps it."""

    def __init__(self, net: Darknet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, boxes, 5 + classes]."""
        return self.net.decode(self.net(images))


def test_a_network_exports_with_any_size_and_batch() -> None:
    auto = torch.export.Dim.AUTO
    net = Decoded(tiny()).eval()
    sizes = ({0: auto, 2: auto, 3: auto},)
    program = torch.export.export(net, (small_image(),), dynamic_shapes=sizes)
    other = torch.rand(3, 3, 32, 20)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(other), net(other))
