"""Networks of which parts cannot be followed, or which take and hold more than images."""

# ruff: noqa: D102  a network's forward is its definition

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def unit(
    inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, normalisation, ReLU in place, as torchvision's networks have it."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Siamese(nn.Module):
    """Two images through one branch, a table of numbers beside them: three inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(unit(3, 5), unit(5, 6))
        self.embed, self.numbers = nn.Embedding(4, 3), nn.Linear(2, 4)
        self.hidden, self.fc = nn.Linear(6 + 4 + 3, 7), nn.Linear(7, 1)

    def forward(self, a: Tensor, b: Tensor, more: Tensor, which: Tensor) -> dict[str, Tensor]:
        apart = (self.branch(a).mean((2, 3)) - self.branch(b).mean((2, 3))).abs()
        joined = torch.cat((apart, self.numbers(more).relu(), self.embed(which)), dim=1)
        return {"same": self.fc(self.hidden(joined).relu())}


class LayerScale(nn.Module):
    """A learned number a channel: scaled residuals, a table of them, a softmax over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = unit(3, 6), unit(6, 6)
        self.gamma = nn.Parameter(torch.rand(6))
        self.shifts = nn.ParameterList(nn.Parameter(torch.rand(1, 6, 1, 1)) for _ in range(2))
        self.other, self.fc = unit(6, 4), nn.Linear(4, 5)
        self.mixed = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.shifts[0]
        x = x + self.gamma[:, None, None] * self.block(x) - self.shifts[1]
        x = self.other(x).mean((2, 3)) * self.mixed.softmax(0)
        out: Tensor = self.fc(x)
        return out


class ConvNeXt(nn.Module):
    """Liu et al. 2022: channels last for LayerNorm and two linear layers, and back again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.wide, self.narrow = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)
        self.gamma, self.fc = nn.Parameter(torch.rand(6)), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(functional.gelu(self.wide(y)))
        out: Tensor = self.fc((x + y.permute(0, 3, 1, 2)).mean((-2, -1)))
        return out


class Transformer(nn.Module):
    """Dosovitskiy et al. 2020: patches, a class token, places, attention; the inner width of the
    feed-forward part is all that can be cut."""  # noqa: D205, D209

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.places = nn.Parameter(torch.rand(1, 5, 8))
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.wide, self.narrow, self.fc = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.places
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.narrow(functional.gelu(self.wide(self.norm2(x))))
        out: Tensor = self.fc(x[:, 0])
        return out


class Crnn(nn.Module):
    """Shi et al. 2015: columns of a map become steps in time; a linear layer reads each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = unit(3, 5), unit(5, 6)
        self.hidden, self.fc = nn.Linear(6 * 2, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.b(self.a(x)), (4, 2))
        n, c, h, w = x.shape
        x = x.permute(0, 3, 1, 2).reshape(n, w, c * h)
        return functional.log_softmax(self.fc(self.hidden(x).relu()), dim=2)


class Recurrent(nn.Module):
    """The same with an LSTM, whose hidden state is not followed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = unit(3, 5), unit(5, 6)
        self.lstm, self.fc = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x)).mean(2).transpose(1, 2)
        out: Tensor = self.fc(self.lstm(x)[0])
        return out


class Sound(nn.Module):
    """One-dimensional convolutions, normalisation and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.act = nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.PReLU()
        self.b, self.fc = nn.Conv1d(6, 5, 3, stride=2), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool1d(self.act(self.norm(self.a(x))), 2)
        x = functional.adaptive_avg_pool1d(functional.elu(self.b(x)), 1)
        out: Tensor = self.fc(x.squeeze(-1))
        return out


class Video(nn.Module):
    """Three-dimensional convolutions and a PReLU with a slope a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.act = nn.Conv3d(3, 5, 3), nn.BatchNorm3d(5), nn.PReLU(5)
        self.b, self.fc = nn.Conv3d(5, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool3d(self.act(self.norm(self.a(x))), 2)
        out: Tensor = self.fc(functional.adaptive_avg_pool3d(self.b(x), 1).flatten(1))
        return out


class Normed(nn.Module):
    """Normalisations that look at several channels, or are made of parts: none is cut through."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = unit(3, 5)
        self.a, self.b, self.c, self.d = (nn.Conv2d(5, 6, 1) for _ in range(4))
        self.group, self.layer = nn.GroupNorm(3, 6), nn.LayerNorm([6, 8, 8])
        self.instance, self.local = nn.InstanceNorm2d(6, affine=True), nn.LocalResponseNorm(3)
        self.fc = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps = (self.group(self.a(x)), self.layer(self.b(x)), self.instance(self.c(x)))
        x = torch.cat((*maps, self.local(self.d(x))), 1).square()
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class SuperResolution(nn.Module):
    """Shi et al. 2016: depth to space at the end, and a linear map bent into a image."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.up = unit(3, 6), unit(6, 8), nn.PixelShuffle(2)
        self.noise, self.c, self.end = nn.Linear(4, 2 * 8 * 8), unit(4, 5), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        bent = self.noise(code).view(-1, 2, 8, 8)
        x = torch.cat((self.up(self.b(self.a(x))), bent), 1)
        out: Tensor = self.end(self.c(x))
        return out
