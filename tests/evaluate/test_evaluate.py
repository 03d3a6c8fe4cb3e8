"""Scoring: a network that finds every square, through the loader, NMS and back."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import squares
import torch
from numpy.typing import NDArray
from torch import Tensor

from prune.common.size import Size
from prune.data import spec as data
from prune.data.frames import fit
from prune.data.loader import Loader, evaluation_loader
from prune.errors import CheckpointError, DeviceError, InputError
from prune.evaluate import metrics, plots
from prune.evaluate.collect import collect, evaluate_network
from prune.evaluate.letterbox import to_original
from prune.evaluate.parallel import sharing
from prune.evaluate.runner import open_weights
from prune.export.onnx import export

CPU = torch.device("cpu")


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    spec = data.load(squares.data(tmp_path))
    return evaluation_loader(
        spec, split="val", imgsz=squares.SIZE, batch_size=3, stride=8, workers=0
    )


def test_network_that_finds_everything_scores_one(loader: Loader) -> None:
    scores = evaluate_network(squares.network(), loader, squares.NAMES, device=CPU)
    assert (scores.map, scores.map50) == pytest.approx((1, 1), abs=1e-6)
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((1, 1, 1))
    assert [row.instances for row in scores.per_class] == [3, 3]
    assert scores.images == len(squares.SPLIT)


def test_box_taken_away_from_the_network_costs_recall(loader: Loader) -> None:
    net = squares.network()

    def only_red(images: Tensor) -> Tensor:
        decoded = net.decode(net(images))
        decoded[..., 6] = 0
        return decoded

    with torch.no_grad():
        scores = collect(only_red, loader, 2, device=CPU).metrics(squares.NAMES)
    assert (scores.map, scores.recall) == pytest.approx((0.5, 0.5), abs=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_network_and_its_parts_come_back_in_their_modes(loader: Loader, training: bool) -> None:
    net = squares.network().train(training)
    frozen = next(net.children()).eval()
    evaluate_network(net, loader, squares.NAMES, device=CPU)
    assert net.training is training
    assert not frozen.training, "one that training keeps in eval mode"


def test_loss_is_the_mean_over_images(loader: Loader) -> None:
    def boxes_and_one(maps: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        return torch.tensor([len(targets) / len(maps[0]), 1.0])

    scores = evaluate_network(
        squares.network(), loader, squares.NAMES, device=CPU, loss=boxes_and_one
    )
    boxes = sum(map(len, squares.SPLIT))
    assert scores.losses == pytest.approx((boxes / len(squares.SPLIT), 1))


def test_cores_that_share_a_batch_find_what_one_alone_finds(loader: Loader) -> None:
    net, before = squares.network(), torch.get_num_threads()

    def maps_seen(maps: tuple[Tensor, ...], _: Tensor) -> Tensor:
        return torch.stack([head.sum() for head in maps])

    def found(cores: int) -> tuple[list[NDArray[Any]], tuple[float, ...]]:
        torch.set_num_threads(cores)
        try:
            boxes = collect(
                lambda images: net.decode(net(images)), loader, 2, device=CPU, shares=True
            )
            losses = evaluate_network(net, loader, squares.NAMES, device=CPU, loss=maps_seen).losses
            assert torch.get_num_threads() == cores
        finally:
            torch.set_num_threads(before)
        return boxes.found, losses

    (alone, loss), *shared = (found(cores) for cores in (1, 2, 5))  # batches are of three
    for boxes, losses in shared:
        assert losses == pytest.approx(loss, rel=1e-5)
        assert len(boxes) == len(alone) == len(squares.SPLIT)
        for one, other in zip(alone, boxes, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "parts"),
    [
        (0, [(0, 4)]),
        (1, [(1, 4)]),
        (2, [(1, 2)] * 2),
        (3, [(1, 1)] * 3),
        (6, [(2, 1), (2, 1), (1, 1), (1, 1)]),
    ],
)
def test_no_core_is_idle(images: int, parts: list[tuple[int, int]]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with sharing(CPU) as share:
            seen = share(lambda part: (len(part), torch.get_num_threads()), torch.zeros(images, 1))
        assert seen == parts
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_times_are_told(loader: Loader) -> None:
    scores = evaluate_network(squares.network(), loader, squares.NAMES, device=CPU)
    assert scores.forward_ms is not None and scores.forward_ms > 0
    assert scores.nms_ms is not None and scores.nms_ms > 0


def test_boxes_go_back_where_they_came_from() -> None:
    image = np.zeros((85, 160, 3), dtype=np.uint8)
    _, frame = fit(image, (64, 64))  # 64 x 34 pixels, 15 above
    original = torch.tensor([[8.0, 15, 80, 85, 0.5, 1]])
    moved = torch.tensor([[3.2, 15 + 15 * 34 / 85, 32, 15 + 34, 0.5, 1]])
    torch.testing.assert_close(to_original(moved, frame), original)


def test_boxes_are_clipped_to_the_original() -> None:
    _, frame = fit(np.zeros((90, 160, 3), dtype=np.uint8), (64, 64))
    clipped = to_original(torch.tensor([[-5.0, -5, 99, 99]]), frame)
    assert clipped.tolist() == [[0, 0, 160, 90]]


@pytest.mark.parametrize(
    ("imgsz", "batch", "dynamic"),
    [((64, 64), 1, False), ((48, 64), 3, False), ((64, 64), 1, True)],
    ids=["square", "wide, three at once", "dynamic"],
)
def test_onnx_file_detects_what_the_checkpoint_detects(
    tmp_path: Path, imgsz: tuple[int, int], batch: int, dynamic: bool
) -> None:
    target = tmp_path / "net.onnx"
    net = squares.network()
    export(net, target, names=squares.NAMES, imgsz=imgsz, batch=batch, dynamic=dynamic)
    runner = open_weights(target, device_name="cpu")
    own = open_weights(squares.save(tmp_path / "net.pt"), device_name="cpu")
    images = torch.rand(5, 3, *imgsz)
    torch.testing.assert_close(runner.detect(images), own.detect(images), rtol=1e-4, atol=1e-4)
    assert (runner.names, runner.stride, runner.imgsz) == (own.names, own.stride, imgsz)
    assert runner.shape == (None if dynamic else imgsz)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"names": '["a", "b"]'}, ("a", "b")),
        ({"names": "{0: 'a', 1: 'b'}"}, ("a", "b")),
        ({"names": '{"1": "b", "0": "a"}'}, ("a", "b")),
        ({"names": '{"0": "a", "2": "b"}'}, "from 0 without gaps"),
        ({"names": '{"0": "a", "1": "b", "task": "c"}'}, "from 0 without gaps"),
        ({"names": '{"0": "a", "\u00b2": "b"}'}, "from 0 without gaps"),
        ({"names": "{}"}, "no list of names"),
        ({"names": "[]"}, "no list of names"),
        ({"names": "__import__('os')"}, "no list of names"),
        ({"names": None}, "no 'names'"),
        ({"stride": "wide"}, "must be a whole number"),
        ({"stride": "NaN"}, "must be a whole number"),
        ({"stride": None}, "no 'stride'"),
        ({"imgsz": None}, (*squares.NAMES,)),
    ],
    ids=[
        "JSON list",
        "Python dict",
        "JSON dict",
        "gap",
        "word among numbers",
        "raised two",
        "empty dict",
        "empty",
        "code",
        "none",
        "stride",
        "stride not finite",
        "no stride",
        "size from the graph",
    ],
)
def test_metadata_as_several_exporters_write_it(
    tmp_path: Path, facts: dict[str, str | None], expected: tuple[str, ...] | str
) -> None:
    target = exported(tmp_path, facts)
    if isinstance(expected, str):
        with pytest.raises(CheckpointError, match=expected):
            open_weights(target)
    else:
        assert open_weights(target).names == expected


def exported(folder: Path, facts: dict[str, str | None], *, raw: bool = False) -> Path:
    """Export the network, then change entries of its metadata; None takes one out."""
    target = folder / "net.onnx"
    export(squares.network(), target, names=squares.NAMES, imgsz=(64, 64), raw=raw)
    model = onnx.load(target)
    own = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    changed = {key: value for key, value in {**own, **facts}.items() if value is not None}
    onnx.helper.set_model_props(model, changed)
    onnx.save(model, target)
    return target


def test_raw_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="without --raw"):
        open_weights(exported(tmp_path, {}, raw=True))


def test_names_that_do_not_fit_the_outputs_are_refused(tmp_path: Path) -> None:
    runner = open_weights(exported(tmp_path, {"names": '["only one"]'}))
    with pytest.raises(CheckpointError, match="7 numbers per box"):
        runner.detect(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("name", ["net.onnx", "net.pt"])
@pytest.mark.parametrize("content", [None, b"", b"no weights"], ids=["missing", "empty", "junk"])
def test_file_that_holds_no_network_is_refused(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        open_weights(path)


def test_gpu_that_onnx_runtime_lacks_is_refused(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        pytest.skip("this ONNX Runtime has a GPU")
    with pytest.raises(DeviceError, match="CPU only"):
        open_weights(exported(tmp_path, {}), device_name="0")


@pytest.mark.parametrize(
    ("size", "message"), [(60, "multiple of 8, e.g. 64"), (0, "multiple of 8")]
)
def test_size_between_strides_is_refused(tmp_path: Path, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_weights(squares.save(tmp_path / "net.pt")).image_size(Size.of(size))


def test_fixed_file_takes_its_own_size_only(tmp_path: Path) -> None:
    runner = open_weights(exported(tmp_path, {}))
    assert runner.image_size(None) == runner.image_size(Size.of(64)) == Size.of(64)
    with pytest.raises(InputError, match="takes images of 64 x 64 only"):
        runner.image_size(Size.of(32))


def test_drawing_leaves_the_image_alone_and_marks_the_box() -> None:
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    boxes = np.array([[10, 20, 70, 50, 0.9, 1], [60, 1, 79, 59, 0.5, 0]], dtype=np.float32)
    drawn = plots.draw(image, boxes, squares.NAMES)
    assert not image.any()
    assert drawn[50, 40].tolist() == pytest.approx(plots.colour(1), abs=40)
    assert not drawn[35, 40].any()


def test_many_neighbouring_classes_have_different_colours() -> None:
    assert len({plots.colour(label) for label in range(80)}) == 80


@pytest.mark.parametrize("classes", [0, 1, 40], ids=["nothing there", "one class", "many classes"])
def test_plots_are_images(tmp_path: Path, classes: int) -> None:
    names = [f"class {i} 字" for i in range(max(classes, 1))]
    truth = [np.array([[i, 0, 0, 9, 9] for i in range(classes)], dtype=float).reshape(-1, 5)]
    found = [np.array([[0, 0, 9, 9, 0.5, i] for i in range(classes)], dtype=float).reshape(-1, 6)]
    pair = (truth, found, len(names))
    plots.precision_recall(metrics.coco_precision(*pair)[0], names, tmp_path / "pr.png")
    plots.f1_confidence(metrics.confidence_curves(*pair), names, tmp_path / "f1.png")
    plots.confusion_matrix(metrics.confusion(*pair), names, tmp_path / "confusion.png")
    for path in tmp_path.iterdir():
        assert cv2.imread(str(path)) is not None
