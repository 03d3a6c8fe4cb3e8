"""Published networks in small: what people bring, each with what makes it hard to cut."""

# ruff: noqa: D102  a network's forward is its definition

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import nets
import torch
import zoo_odd as odd
from torch import Tensor, nn
from torch.nn import functional
from zoo_odd import unit

from prune.core.trace.meta import Spec


class LeNet5(nn.Module):
    """LeCun et al. 1998: a flattened map read by a linear layer, biases, no normalisation."""

    def __init__(self, *, fixed: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc = nn.Linear(400, 24), nn.Linear(24, 12), nn.Linear(12, 10)
        self.fixed = fixed

    def forward(self, x: Tensor) -> Tensor:
        x = functional.avg_pool2d(self.conv1(x).tanh(), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x), inplace=True), 2)
        x = x.view(-1, 400) if self.fixed else x.flatten(1)
        out: Tensor = self.fc(self.fc2(self.fc1(x).tanh()).tanh())
        return out


class Vgg(nn.Module):
    """Simonyan and Zisserman 2014: ReLU in place right behind convolutions, pooled to 2 x 2."""

    def __init__(self) -> None:
        super().__init__()
        widths, layers = (3, 6, 8, 10), []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2, 2)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(40, 12), nn.ReLU(True), nn.Dropout(), nn.Linear(12, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(torch.flatten(self.pool(self.features(x)), 1))
        return out


class BasicBlock(nn.Module):
    """ResNet's: the sum is added in place, the shortcut projected where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down: nn.Module | None = None
        if stride > 1 or inputs != outputs:
            project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.down = nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x if self.down is None else self.down(x)
        out = self.relu(out)
        return out


class CaptchaResNet18(nn.Module):
    """He et al. 2015, 18 layers, for captchas: 3 x 24 x 56 in, 4 characters of 36 symbols out."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks, inputs = [], width
        for stage in range(4):
            for stride in (1 if stage == 0 else 2, 1):
                blocks.append(BasicBlock(inputs, width << stage, stride))
                inputs = width << stage
        self.blocks, self.pool = nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, 4 * 36)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.blocks(self.stem(x)))
        out: Tensor = self.fc(x.view(x.size(0), -1))
        return out


class Inception(nn.Module):
    """Szegedy et al. 2014: four branches of unequal widths joined, with an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = unit(3, 6), unit(6, 4, 1)
        self.three = nn.Sequential(unit(6, 3, 1), unit(3, 5))
        self.five = nn.Sequential(unit(6, 2, 1), unit(2, 3, 5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(6, 2, 1))
        self.next, self.fc, self.aux = unit(14, 7), nn.Linear(7, 5), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.stem(x)
        x = torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)
        aux = self.aux(x.mean((2, 3))) if self.training else None
        return self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(self.next(x), 1), 1)), aux


class DenseNet(nn.Module):
    """Huang et al. 2016: normalisation in front, every layer reads all before it."""

    def __init__(self, growth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        inputs = [6 + growth * i for i in range(4)]
        self.layers = nn.ModuleList(
            nn.Sequential(
                *(nn.BatchNorm2d(n), nn.ReLU(inplace=True), nn.Conv2d(n, 5, 1, bias=False)),
                *(nn.BatchNorm2d(5), nn.ReLU(inplace=True)),
                nn.Conv2d(5, growth, 3, padding=1, bias=False),
            )
            for n in inputs[:3]
        )
        self.bridge = nn.Sequential(nn.BatchNorm2d(15), nn.ReLU(True), nn.Conv2d(15, 7, 1))
        self.norm, self.classifier = nn.BatchNorm2d(7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)))
        x = functional.avg_pool2d(self.bridge(torch.cat(maps, 1)), 2)
        x = functional.adaptive_avg_pool2d(functional.relu(self.norm(x), inplace=True), (1, 1))
        out: Tensor = self.classifier(torch.flatten(x, 1))
        return out


class MobileNetV2(nn.Module):
    """Sandler et al. 2018: expand, depthwise, project without activation, add."""

    def __init__(self) -> None:
        super().__init__()

        def inverted(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            hidden = inputs * 2
            return nn.Sequential(
                *(nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(True)),
                nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
                *(nn.BatchNorm2d(hidden), nn.ReLU6(True)),
                *(nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
            )

        self.stem = unit(3, 4, stride=2)
        self.blocks = nn.ModuleList([inverted(4, 6, 2), inverted(6, 6, 1), inverted(6, 6, 1)])
        self.last, self.classifier = unit(6, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](self.stem(x))
        for block in self.blocks[1:]:
            x = x + block(x)
        out: Tensor = self.classifier(self.last(x).mean([2, 3]))
        return out


class ResNeXt(nn.Module):
    """Xie et al. 2016: a grouped convolution inside a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.share = unit(3, 6), unit(6, 8, 1), unit(8, 8, groups=4)
        self.up = nn.Sequential(nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.relu(x + self.up(self.share(self.down(x))))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class ShuffleNet(nn.Module):
    """Zhang et al. 2017: channels of grouped convolutions are shuffled, which is not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.before = unit(3, 6), unit(6, 6, groups=2)
        self.after, self.fc = unit(6, 8, groups=2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self.stem(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        out: Tensor = self.fc(self.after(x).mean((2, 3)))
        return out


class SeNet(nn.Module):
    """Hu et al. 2017: linear layers weigh the channels of the map they were pooled from."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = unit(3, 6), unit(6, 6)
        self.squeeze, self.excite = nn.Linear(6, 3), nn.Linear(3, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.block(x)
        b, c, _, _ = y.size()
        gate = functional.adaptive_avg_pool2d(y, 1).view(b, c)
        gate = self.excite(self.squeeze(gate).relu()).sigmoid().view(b, c, 1, 1)
        out: Tensor = self.fc((x + y * gate.expand_as(y)).mean((2, 3)))
        return out


class C2f(nn.Module):
    """The block of newer detectors: chunked or split in two, a part goes on, all parts joined."""

    def __init__(self, *, split: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.head = unit(3, 8, 1), unit(16, 6, 1), nn.Conv2d(6, 4, 1)
        self.inner = nn.ModuleList(nn.Sequential(unit(4, 4), unit(4, 4)) for _ in range(2))
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        parts = list(y.split((4, 4), 1)) if self.split else list(y.chunk(2, 1))
        for block in self.inner:
            parts.append(parts[-1] + block(parts[-1]))
        out: Tensor = self.head(self.last(torch.cat(parts, 1)))
        return out


class UNet(nn.Module):
    """Ronneberger et al. 2015: transposed convolutions up, joined with maps from the way down."""

    def __init__(self) -> None:
        super().__init__()
        self.in1, self.in2, self.middle = unit(3, 4), unit(4, 6), unit(6, 8)
        self.up2, self.out2 = nn.ConvTranspose2d(8, 6, 2, stride=2), unit(12, 6)
        self.up1, self.out1 = nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1), unit(8, 5)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.in1(x)
        two = self.in2(functional.max_pool2d(one, 2))
        low = self.middle(functional.max_pool2d(two, 2))
        two = self.out2(torch.cat((self.up2(low), two), 1))
        out: Tensor = self.head(self.out1(torch.cat((one, self.up1(two)), 1)))
        return out


@dataclass(frozen=True)
class Zoo:
    """A network, what it takes, and the roots whose channels must stay with a word why."""

    build: Callable[[], nn.Module]
    inputs: tuple[Spec, ...]
    kept: dict[str, str]
    unused: tuple[str, ...] = field(default=())

    def given(self, *, seed: int = 0) -> tuple[Tensor, ...]:
        """Make inputs in float64 and, for whole numbers, of 0 to 3."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(
            torch.randint(0, 4, each.shape, generator=generator)
            if each.dtype == "int64"
            else torch.rand(each.shape, generator=generator, dtype=torch.float64)
            for each in self.inputs
        )


def _image(*shape: int) -> tuple[Spec, ...]:
    return (Spec(shape, "float64"),)


_SIAMESE = (*_image(2, 3, 6, 6) * 2, *_image(2, 2), Spec((2,), "int64"))
_FC = {"fc": "output"}
ZOO: dict[str, Zoo] = {
    "lenet5": Zoo(LeNet5, _image(2, 1, 28, 28), _FC),
    "lenet5_fixed": Zoo(
        lambda: LeNet5(fixed=True), _image(2, 1, 28, 28), {**_FC, "conv2": "invalid for input"}
    ),
    "vgg": Zoo(Vgg, _image(2, 3, 16, 16), {"classifier.3": "output"}),
    "captcha_resnet18": Zoo(CaptchaResNet18, _image(1, 3, 24, 56), _FC),
    "inception": Zoo(Inception, _image(2, 3, 8, 8), _FC, unused=("aux",)),
    "densenet": Zoo(DenseNet, _image(2, 3, 8, 8), {"classifier": "output"}),
    "mobilenet_v2": Zoo(MobileNetV2, _image(2, 3, 16, 16), {"classifier": "output"}),
    "resnext": Zoo(ResNeXt, _image(2, 3, 8, 8), _FC),
    "shufflenet": Zoo(ShuffleNet, _image(2, 3, 8, 8), {**_FC, "before.0": "View"}),
    "senet": Zoo(SeNet, _image(2, 3, 8, 8), _FC),
    "c2f": Zoo(C2f, _image(2, 3, 8, 8), {"head": "output"}),
    "c2f_split": Zoo(
        lambda: C2f(split=True),
        _image(2, 3, 8, 8),
        dict.fromkeys(("first.0", "inner.0.1.0"), "fixed places") | {"head": "output"},
    ),
    "unet": Zoo(UNet, _image(1, 3, 16, 16), {"head": "output"}),
    "siamese": Zoo(odd.Siamese, _SIAMESE, _FC),
    "layer_scale": Zoo(odd.LayerScale, _image(2, 3, 8, 8), {**_FC, "other.0": "unclear"}),
    "convnext": Zoo(odd.ConvNeXt, _image(2, 3, 16, 16), {**_FC, "stem": "LayerNorm"}),
    "transformer": Zoo(odd.Transformer, _image(2, 3, 8, 8), {**_FC, "patch": "LayerNorm"}),
    "crnn": Zoo(odd.Crnn, _image(2, 3, 8, 12), {"fc": "LogSoftmax"}),
    "recurrent": Zoo(odd.Recurrent, _image(2, 3, 8, 8), {**_FC, "b.0": "mix"}),
    "sound": Zoo(odd.Sound, _image(2, 2, 24), _FC),
    "video": Zoo(odd.Video, _image(1, 3, 8, 8, 8), _FC),
    "normed": Zoo(
        odd.Normed,
        _image(2, 3, 8, 8),
        {**_FC, "a": "GroupNorm", "b": "LayerNorm", "c": "InstanceNorm", "d": "LocalResponseNorm"},
    ),
    "super_resolution": Zoo(
        odd.SuperResolution,
        (*_image(1, 3, 4, 4), *_image(1, 4)),
        {"end": "output", "b.0": "PixelShuffle", "noise": "View"},
    ),
}


def net(name: str, *, seed: int = 0) -> nn.Module:
    """Build one in eval mode and float64, with statistics that make every channel differ."""
    return nets.settled(ZOO[name].build, seed=seed)
