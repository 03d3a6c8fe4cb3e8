"""What `fuzz.py` does to a file: bytes, text, values of documents, tensors, sizes in headers.

Every mutation takes a file's bytes and a source of chance, and returns other bytes. The same
chance makes the same bytes, so that what was found can be made again.
"""

from __future__ import annotations

import copy
import io
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from datetime import date
from random import Random
from typing import Any

import onnx
import torch
import yaml
from torch import Tensor

Mutation = Callable[[bytes, Random], bytes]


def _span(data: bytes, random: Random) -> tuple[int, int]:
    """Choose a piece of a file: from one byte to an eighth of it."""
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.randint(1, max(1, len(data) // 8)))


def flip(data: bytes, random: Random) -> bytes:
    """Flip one bit or a few."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 16))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(data: bytes, random: Random) -> bytes:
    """Cut the file short, as a full disk or a broken connection does."""
    return data[: random.choice((0, 1, random.randrange(len(data) + 1), len(data) - 1))]


def overwrite(data: bytes, random: Random) -> bytes:
    """Put an extreme number in place of 1 to 8 bytes."""
    end = random.choice("<>")
    numbers = [struct.pack(f"{end}{kind}", -1) for kind in "bhiq"]
    numbers += [struct.pack(f"{end}{k}", 2**bits - 1) for k, bits in zip("hiq", (15, 31, 63))]  # noqa: B905 - equal by sight
    numbers += [bytes(4), bytes(8), *(struct.pack(f"{end}f", x) for x in (math.nan, math.inf))]
    number = random.choice(numbers)
    place = random.randrange(len(data) + 1)
    return data[:place] + number + data[place + len(number) :]


def double(data: bytes, random: Random) -> bytes:
    """Write a piece twice, or very often."""
    start, end = _span(data, random)
    return (
        data[:end]
        + data[start:end] * random.choice((1, 1, 100 if end - start < 10_000 else 2))
        + data[end:]
    )


def reorder(data: bytes, random: Random) -> bytes:
    """Swap two pieces that follow one another."""
    start, middle = _span(data, random)
    end = min(len(data), 2 * middle - start)
    return data[:start] + data[middle:end] + data[start:middle] + data[end:]


def remove(data: bytes, random: Random) -> bytes:
    """Leave a piece out."""
    start, end = _span(data, random)
    return data[:start] + data[end:]


# Each of them steers a terminal, a text's direction, a parser or a C string.
CONTROLS = ("\x00", "\x07", "\x1b[31m", "\x1b]0;t\x07", "\r", "\x85", "\u2028", "\u202e", "\ufeff")
INVALID = (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5")  # in UTF-8


def control(data: bytes, random: Random) -> bytes:
    """Put a control character or invalid UTF-8 somewhere."""
    place = random.randrange(len(data) + 1)
    what = random.choice((*(one.encode() for one in CONTROLS), *INVALID))
    return data[:place] + what + data[place:]


BYTES: tuple[Mutation, ...] = (flip, truncate, overwrite, double, reorder, remove, control)

# What may stand where a number or a name stood.
WORDS = (
    *("", "0", "-1", "-0", "1.5", "nan", "-inf", "1e308", "1e999", "1e-400", "0x10", "1_0", "٣"),
    *("9" * 25, "9" * 5000, "2147483648", "9223372036854775807", "9223372036854775808", "1,2"),
    *("true", "null", "~", "[]", "{}", '""', "'", '"', "*a", "&a", "!!int", "!!float x", "<<"),
    *("2020-01-01", "a" * 300, "a" * 70_000, "../../x", "/", "%s", "\x1b[31mred", "\\ud800"),
    *("[" * 200, "{a: " * 200, "[" * 20_000, "<a>" * 5000, "&#0;", "&e;", "ß" * 300, "0b", "0o8"),
)


def swap_words(data: bytes, random: Random) -> bytes:
    """Put other text in place of a word, or of two."""
    for _ in range(random.choice((1, 1, 2))):
        words = [place for place, byte in enumerate(data) if not chr(byte).isalnum()]
        start, end = sorted(random.choice(words or [0]) for _ in range(2)) if words else (0, 0)
        later = [place for place in words if place > start]
        end = later[0] if later and random.random() < 0.9 else end
        data = data[: start + 1] + random.choice(WORDS).encode() + data[max(end, start + 1) :]
    return data


def shuffle_lines(data: bytes, random: Random) -> bytes:
    """Double, remove or swap lines."""
    lines = data.split(b"\n")
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(3):
        case 0:
            lines.insert(one, lines[other])
        case 1:
            del lines[one]
        case _:
            lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


TEXT = (*BYTES, swap_words, shuffle_lines)


def _nested(value: object, depth: int) -> object:
    for _ in range(depth):
        value = [value]
    return value


# Values of other kinds than a reader expects, or at the ends of its range.
VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, 2**31, 2**63, -(2**63), 2**64, 10**30, 1e308, 5e-324),
    *(math.nan, math.inf, -math.inf, -0.0, "", "x", "0", "nan", "a" * 5000, "9" * 5000, "\ud800"),
    *("\x1b[31mred", "a\x00b", "\n", "../../x", [], {}, [[]], [1], {"a": 1}, {"": {}}, [None]),
    *(_nested(1, 5), _nested({"a": 1}, 60), _nested(0, 300), list(range(1000)), ["a" * 100] * 1000),
)


def _places(value: Any, holder: Any = None, key: Any = None) -> Iterator[tuple[Any, Any]]:
    """List every place in a document as what holds it and its key there."""
    if holder is not None:
        yield holder, key
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for name, one in list(inside) if isinstance(value, (dict, list)) else ():
        yield from _places(one, value, name)


def _retyped(document: Any, random: Random, values: Callable[[Any], tuple[object, ...]]) -> Any:
    """Change one value or two of a document: another kind, gone, doubled, wrapped, moved."""
    root = {"": copy.deepcopy(document)}
    for _ in range(random.choice((1, 1, 2))):
        holder, key = random.choice(list(_places(root)))
        match random.randrange(10):
            case 0:
                del holder[key]
            case 1:
                holder[key] = [holder[key]]
            case 2 if isinstance(holder, dict):
                holder[random.choice((f"{key}s", "", "x" * 300, 0, "\x1b[1m"))] = holder.pop(key)
            case 3:
                where, other = random.choice(list(_places(root)))
                holder[key] = copy.deepcopy(where[other])
            case 4 if isinstance(holder, list):
                holder[:] = holder * random.choice((0, 2, 50))
            case _:
                holder[key] = random.choice(values(holder[key]))
        if not root:
            break
    return root.get("")


def retype_json(data: bytes, random: Random) -> bytes:
    """Change values of a JSON document."""
    found = _retyped(json.loads(data), random, lambda _: VALUES)
    return json.dumps(found).encode()


def retype_yaml(data: bytes, random: Random) -> bytes:
    """Change values of a YAML document."""
    found = _retyped(yaml.safe_load(data), random, lambda _: (*VALUES, date(2020, 1, 1)))
    return yaml.safe_dump(found, sort_keys=False).encode(errors="surrogatepass")


JSON = (*TEXT, retype_json, retype_json, retype_json)
YAML = (*TEXT, retype_yaml, retype_yaml, retype_yaml)


def _tensors(like: object) -> tuple[object, ...]:
    """List odd values for a place of a checkpoint; tensors of its own shape among them."""
    small = (
        isinstance(like, Tensor) and like.numel() < 10**6
    )  # no expanded one of an earlier change
    own = like if isinstance(like, Tensor) and small else torch.ones(2, 3)
    full = own.to(torch.float32)
    return (
        *VALUES,
        *(own.to(kind) for kind in (torch.int64, torch.bool, torch.complex64, torch.float16)),
        *(own.to(torch.float8_e4m3fn), full.to_sparse(), full.to("meta"), full * math.nan),
        *(full * 1e38, -full, full[..., None], full.flatten(), full[:0], torch.tensor(7)),
        torch.ones(1).expand(2**31),
        torch.ones(1).expand(full.shape) if full.ndim else torch.ones(()),
        full.clone().requires_grad_(),
        torch.quantize_per_tensor(full, 0.1, 0, torch.qint8),
        *(torch.zeros(0), torch.float32, torch.Size([1]), (1, 2), {1: 2}, torch.device("cpu")),
    )


def retype_torch(data: bytes, random: Random) -> bytes:
    """Change values and tensors of a file of `torch.save`."""
    found = _retyped(torch.load(io.BytesIO(data), weights_only=True), random, _tensors)
    written = io.BytesIO()
    torch.save(found, written)
    return written.getvalue()


TORCH = (*BYTES, *[retype_torch] * 7)


def retype_onnx(data: bytes, random: Random) -> bytes:
    """Change what an ONNX file says of itself: its metadata, the shapes it takes, its nodes."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    if random.random() < 0.5:
        one = random.choice(model.metadata_props)
        old = [one.value, *WORDS, *map(json.dumps, VALUES)]
        one.value = random.choice(old).encode("utf-8", "replace").decode()
        one.key = one.key if random.random() < 0.9 else "x"
    else:
        value = random.choice((*graph.input, *graph.output)).type.tensor_type
        value.elem_type = value.elem_type if random.random() < 0.8 else random.randrange(20)
        side = random.choice(value.shape.dim)
        side.dim_value = random.choice((0, -1, 1, 3, 2**20, 2**31, 2**62))
    if random.random() < 0.1:
        graph.node.extend([copy.deepcopy(node) for node in graph.node])  # of itself: a crash
    return bytes(model.SerializeToString())


ONNX = (*BYTES, *[retype_onnx] * 5)


def resize_png(data: bytes, random: Random) -> bytes:
    """Write another size or depth into a PNG's header, with the checksum that belongs to it."""
    sizes = (0, 1, 3, 7, 255, 65_535, 2**20, 30_000, 2**31 - 1, 2**32 - 1)
    depth, colour = random.choice((1, 2, 8, 16, 99)), random.choice((0, 2, 3, 4, 6, 9))
    header = struct.pack(
        ">II5B", random.choice(sizes), random.choice(sizes), depth, colour, 0, 0, 0
    )
    return data[:_SIGNATURE] + _chunk(b"IHDR", header) + data[33:]


_SIGNATURE = 8  # bytes before a PNG's first chunk
# What a chunk may be called that was another one: a palette, colours, text, profile, orientation,
# frames of an animation, one that must be understood, one that is no name.
_CHUNKS = (
    *(b"PLTE", b"tRNS", b"gAMA", b"cHRM", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"bKGD"),
    *(b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IHDR", b"IEND", b"sBIT", b"hIST", b"ABCD", b"\0\0\0\0"),
)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Split a PNG into the names and contents of its chunks."""
    found, place = [], _SIGNATURE
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def rewrite_png(data: bytes, random: Random) -> bytes:
    """Change what is in a chunk of a PNG, and write the checksum that belongs to it.

    Without that, decoders see little of what is changed: they refuse a chunk by its checksum.
    """
    chunks = _chunks(data)
    place = random.randrange(len(chunks))
    name, content = chunks[place]
    lie = 0
    match random.randrange(7):
        case 0:
            chunks[place] = name, random.choice(BYTES)(content, random)
        case 1:
            chunks = [(one, _recoloured(one, held, random)) for one, held in chunks]
        case 2:
            chunks[place] = random.choice(_CHUNKS), content
        case 3:
            lie = random.choice((-1, 1, -4, 4, 1000, 2**20, 2**31 - 1, 2**32 - 1))
        case 4:
            chunks.insert(random.randrange(len(chunks) + 1), chunks[place])
        case 5:
            del chunks[place]
        case _:
            new = random.randbytes(random.choice((0, 1, 2, 3, 6, 255, 256 * 3, 257 * 3, 5000)))
            chunks.insert(random.randrange(len(chunks) + 1), (random.choice(_CHUNKS), new))
    return data[:_SIGNATURE] + b"".join(
        _chunk(name, content, lie if number == place else 0)
        for number, (name, content) in enumerate(chunks)
    )


def _recoloured(name: bytes, content: bytes, random: Random) -> bytes:
    """Change the rows of a chunk of colours: their filters, their colours, how many there are."""
    if name != b"IDAT":
        return content
    rows = random.choice(BYTES)(zlib.decompress(content), random)
    return zlib.compress(rows, random.choice((0, 1, 9)))


def _chunk(name: bytes, content: bytes, lie: int = 0) -> bytes:
    """Write a chunk, of which the length may lie."""
    size = min(2**32 - 1, max(0, len(content) + lie))
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", size) + name + content + checksum


PNG = (*BYTES, resize_png, resize_png, *[rewrite_png] * 5)


def resize_jpeg(data: bytes, random: Random) -> bytes:
    """Write another size, depth, number of components or sampling into a JPEG's frame header."""
    frames = [data.find(bytes((0xFF, kind))) for kind in (0xC0, 0xC1, 0xC2)]
    start = max(frames) + 4  # depth, height, width, components, then three bytes for each of them
    changed = bytearray(data)
    match random.randrange(4):
        case 0:
            changed[start] = random.choice((0, 1, 2, 12, 16, 255))
        case 1:
            place = start + 5 + random.randrange(10)
            changed[place] = random.choice((0, 1, 2, 4, 0x11, 0x14, 0x41, 0x44, 0xFF))
        case _:
            place = start + random.choice((1, 3))
            size = random.choice((0, 1, 7, 255, 256, 4096, 30_000, 65_500, 65_535))
            changed[place : place + 2] = struct.pack(">H", size)
    if random.random() < 0.1:
        kind = random.choice((0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCF))
        changed[max(frames) + 1] = kind  # progressive, lossless, arithmetic
    return bytes(changed)


def orient(data: bytes, random: Random) -> bytes:
    """Put EXIF data in front of a JPEG's: any orientation, in entries that may be broken."""
    end = random.choice("<>")
    kind, count = random.choice(((3, 1), (3, 1), (4, 1), (2, 2**31), (0, 0), (3, 2**32 - 1)))
    value = random.choice((0, 1, 3, 6, 8, 9, 65_535))
    entry = struct.pack(f"{end}HHIHH", 0x0112, kind, count, value, 0)
    entries = random.choice((0, 1, 1, 1, 2, 65_535))
    start = random.choice((8, 8, 8, 0, 7, 2**31, 2**32 - 1))
    first = b"II" if end == "<" else b"MM"
    exif = first + struct.pack(f"{end}HIH", 42, start, entries) + entry + bytes(4)
    exif = random.choice(BYTES)(exif, random) if random.random() < 0.5 else exif
    segment = b"Exif\0\0" + exif
    size = len(segment) + random.choice((2, 2, 2, 2, 0, 1, 3, 60_000))
    return data[:2] + b"\xff\xe1" + struct.pack(">H", min(size, 65_535)) + segment + data[2:]


JPEG = (*BYTES, *[resize_jpeg] * 4, *[orient] * 2)
