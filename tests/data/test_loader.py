"""Loading: the same batches whatever the machine does, every image where it belongs."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray

from prune.common.boxes import xywh_to_xyxy
from prune.data import labels, orientation, samples, store
from prune.data.batch import Batch, generator
from prune.data.loader import TrainLoader, evaluation_loader, train_loader
from prune.data.spec import DataSpec
from prune.data.truth import read_truth
from prune.errors import DataError
from prune.evaluate.letterbox import to_original

SIZES = ((60, 80), (80, 60), (64, 64), (100, 40), (48, 96), (61, 83), (40, 30))  # height, width
HYP = {
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "degrees": 5.0,
    "translate": 0.1,
    "scale": 0.5,
    "shear": 2.0,
    "perspective": 0.0002,
    "flipud": 0.2,
    "fliplr": 0.5,
    "mosaic": 0.7,
    "mixup": 0.4,
}
PLAIN = dict.fromkeys(HYP, 0.0)


@pytest.fixture
def spec(tmp_path: Path) -> DataSpec:
    """Seven black images, number i with i red boxes of class i % 2; 0 has no label file."""
    paths = []
    for i, (height, width) in enumerate(SIZES):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        image = np.zeros((height, width, 3), dtype=np.uint8)
        rows = []
        for k in range(i):
            x, y = 1 + k * 3, 2 + k * 3
            image[y : y + 12, x : x + 10] = (0, 0, 255)
            rows.append((i % 2, (x + 5) / width, (y + 6) / height, 10 / width, 12 / height))
        assert cv2.imwrite(str(path), image)
        if rows:
            label = labels.label_path(path)
            label.parent.mkdir(exist_ok=True)
            labels.write(label, np.array(rows))
        paths.append(path)
    return DataSpec(tmp_path / "tiny.yaml", ("even", "odd"), {"train": tuple(paths)})


def training(
    spec: DataSpec,
    *,
    workers: int = 0,
    seed: int = 0,
    cache: str | None = None,
    hyp: Mapping[str, float] = HYP,
    labelled: bool = True,
) -> TrainLoader:
    return train_loader(
        spec,
        imgsz=64,
        batch_size=2,
        hyp=hyp,
        workers=workers,
        seed=seed,
        cache=cache,
        labelled=labelled,
    )


def seen(loader: TrainLoader) -> dict[str, str]:
    """Hash what an epoch made of each image, by the image's stem."""
    return {
        path.stem: hashlib.sha256(image.numpy().tobytes()).hexdigest()
        for batch in loader
        for path, image in zip(batch.paths, batch.images, strict=True)
    }


def digest(batches: Iterable[Batch]) -> list[str]:
    """One hash a batch, of all that is in it."""
    return [
        hashlib.sha256(
            b"".join((batch.images.numpy().tobytes(), batch.targets.numpy().tobytes()))
            + repr((batch.images.shape, batch.paths, batch.frames)).encode()
        ).hexdigest()
        for batch in batches
    ]


def epochs(loader: TrainLoader) -> list[list[str]]:
    """Two epochs' hashes."""
    hashes = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        hashes.append(digest(loader))
    return hashes


@pytest.mark.parametrize("workers", [1, 2, 99])
def test_any_number_of_workers_gives_the_same_batches(spec: DataSpec, workers: int) -> None:
    assert epochs(training(spec, workers=workers)) == epochs(training(spec))


@pytest.mark.parametrize("workers", [0, 1])
def test_cache_gives_the_same_batches(spec: DataSpec, workers: int) -> None:
    cached = training(spec, workers=workers, cache="ram")
    assert epochs(cached) == epochs(training(spec))
    scored = evaluation_loader(spec, split="train", imgsz=64, batch_size=2, workers=0)
    again = evaluation_loader(
        spec, split="train", imgsz=64, batch_size=2, workers=workers, cache="ram"
    )
    assert digest(scored) == digest(again)


def test_epoch_and_seed_change_the_batches(spec: DataSpec) -> None:
    first, second = epochs(training(spec))
    other, _ = epochs(training(spec, seed=-1))
    assert len({*first, *second, *other}) == 3 * len(first)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_without_mosaics_is_that_of_a_recipe_without(spec: DataSpec, workers: int) -> None:
    loader, plain = training(spec, workers=workers), training(spec, hyp={**HYP, "mosaic": 0.0})
    with_mosaics = epochs(loader)[1]
    loader.set_epoch(1, mosaics=False)
    plain.set_epoch(1)
    assert digest(loader) == digest(plain)
    loader.set_epoch(1)
    assert digest(loader) == with_mosaics


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_be_entered_in_the_middle(spec: DataSpec, workers: int) -> None:
    loader = training(spec, workers=workers)
    whole = epochs(loader)[1]
    loader.set_epoch(1, start=2)
    assert digest(loader) == whole[2:]
    assert len(loader) == len(whole) == 4


def test_broken_off_iteration_starts_anew(spec: DataSpec) -> None:
    loader = training(spec, workers=1)
    next(iter(loader))
    loader.set_epoch(1)
    assert digest(loader) == epochs(training(spec))[1]


def test_an_epoch_shows_every_image_once(spec: DataSpec) -> None:
    batches = list(training(spec))
    paths = [path for batch in batches for path in batch.paths]
    assert sorted(paths) == sorted(spec.images("train"))
    assert [len(batch.images) for batch in batches] == [2, 2, 2, 1]


def test_training_batch_has_its_form(spec: DataSpec) -> None:
    for batch in training(spec):
        assert batch.images.shape[1:] == (3, 64, 64)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous()
        assert batch.targets.dtype == torch.float32
        assert batch.targets.shape[1:] == (6,)
        corners = xywh_to_xyxy(batch.targets[:, 2:])
        assert (corners > -1e-5).all()
        assert (corners < 1 + 1e-5).all()
        assert set(batch.targets[:, 0].tolist()) <= set(range(len(batch.images)))


def test_targets_lie_on_their_red_pixels(spec: DataSpec) -> None:
    for batch in training(spec, hyp=PLAIN | {"mosaic": 1.0}):
        for number, _, *box in batch.targets.tolist():
            x, y = int(box[0] * 64), int(box[1] * 64)
            red, green, blue = batch.images[int(number), :, y, x].tolist()
            assert red > 200
            assert max(green, blue) < 50


def test_loading_leaves_torch_numbers_alone(spec: DataSpec) -> None:
    loaders = (training(spec), training(spec, workers=1))
    before = torch.get_rng_state()
    for loader in loaders:
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_leave_the_cache_alone(spec: DataSpec) -> None:
    images = spec.images("train")
    pictures = store.gather(images, read_truth(images, spec.form).boxes, imgsz=64, cache="ram")
    assert pictures.cache is not None
    before = pictures.cache.pixels.clone()
    for hyp in (HYP, PLAIN, PLAIN | {"fliplr": 1.0, "hsv_v": 0.9}):
        for index in range(len(SIZES)):
            samples.training_sample(pictures, index, hyp=hyp, rng=generator(0, 0, index))
    assert torch.equal(pictures.cache.pixels, before)


def test_images_without_boxes_make_an_empty_target(spec: DataSpec) -> None:
    bare = DataSpec(spec.path, spec.names, {"train": spec.images("train")[:1]})
    labels.label_path(spec.images("train")[0]).write_text("")
    (batch,) = training(bare, labelled=False)
    assert batch.targets.shape == (0, 6)
    (batch,) = evaluation_loader(bare, split="train", imgsz=64, batch_size=4, workers=0)
    assert batch.targets.shape == (0, 6)


@pytest.mark.parametrize("workers", [0, 1])
def test_rectangles_cover_every_image_once_and_are_least(spec: DataSpec, workers: int) -> None:
    loader = evaluation_loader(
        spec, split="train", imgsz=128, batch_size=3, stride=32, workers=workers
    )
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert sorted(p for batch in batches for p in batch.paths) == list(spec.images("train"))
    for batch in batches:
        needed = [
            (round(frame.height * frame.scale_y), round(frame.width * frame.scale_x))
            for frame in batch.frames
        ]
        for side, longest in zip(batch.images.shape[2:], zip(*needed, strict=True), strict=True):
            assert side % 32 == 0
            assert side - 32 < max(longest) <= side


def test_squares_keep_the_order(spec: DataSpec) -> None:
    loader = evaluation_loader(
        spec, split="train", imgsz=80, batch_size=4, stride=32, workers=0, rectangular=False
    )
    batches = list(loader)
    assert [path for batch in batches for path in batch.paths] == list(spec.images("train"))
    assert {batch.images.shape[2:] for batch in batches} == {(96, 96)}


@pytest.mark.parametrize("rectangular", [True, False])
def test_frames_map_targets_back_to_the_labels(spec: DataSpec, rectangular: bool) -> None:
    loader = evaluation_loader(
        spec, split="train", imgsz=64, batch_size=3, workers=0, rectangular=rectangular
    )
    for batch in loader:
        height, width = batch.images.shape[2:]
        size = torch.tensor((width, height) * 2)
        for i, (path, frame) in enumerate(zip(batch.paths, batch.frames, strict=True)):
            mine = batch.targets[batch.targets[:, 0] == i]
            back = to_original(xywh_to_xyxy(mine[:, 2:]) * size, frame)
            rows = labels.read(labels.label_path(path), classes=2)
            truth = store.to_pixels(rows, (frame.height, frame.width))
            assert mine[:, 1].tolist() == truth[:, 0].tolist()
            assert np.allclose(back, truth[:, 1:], atol=1e-3)


@pytest.mark.parametrize("cache", [None, "ram"])
def test_turned_photographs_are_upright(tmp_path: Path, cache: str | None) -> None:
    path = tmp_path / "turned.jpg"
    exif = PIL.Image.Exif()
    exif[orientation.EXIF_ORIENTATION] = 6
    PIL.Image.new("RGB", (40, 20)).save(path, exif=exif)  # lies on its side: 20 wide, 40 high
    path.with_suffix(".txt").touch()
    spec = DataSpec(tmp_path, ("thing",), {"val": (path,)})
    assert store.image_sizes([path]) == ((40, 20),)
    (batch,) = evaluation_loader(spec, split="val", imgsz=64, batch_size=1, workers=0, cache=cache)
    assert batch.images.shape[2:] == (64, 32)
    assert (batch.frames[0].height, batch.frames[0].width) == (40, 20)


@pytest.mark.parametrize("limit", [500, 100], ids=["warned of", "refused by Pillow"])
def test_size_of_a_huge_image_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Pillow warns of images above its limit and refuses those above twice that."""
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", limit)
    PIL.Image.new("RGB", (40, 20)).save(tmp_path / "huge.png")
    assert store.image_sizes([tmp_path / "huge.png"]) == ((20, 40),)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_while_training_is_replaced_by_the_next(
    spec: DataSpec, workers: int
) -> None:
    loader = training(spec, workers=workers, hyp=PLAIN)
    whole = seen(loader)
    spec.images("train")[3].write_bytes(b"no image")
    assert seen(loader) == {**whole, "3": whole["4"]}


def test_when_no_image_can_be_read_any_more_it_is_one_clean_error(spec: DataSpec) -> None:
    loader = training(spec)
    for path in spec.images("train"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        list(loader)
    assert type(caught.value) is DataError
    assert "cannot decode image" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cache", [None, "ram"])
def test_scoring_leaves_a_broken_image_out(spec: DataSpec, cache: str | None) -> None:
    spec.images("train")[3].write_bytes(b"")
    loader = evaluation_loader(spec, split="train", imgsz=64, batch_size=2, cache=cache, workers=0)
    scored = sorted(path.stem for batch in loader for path in batch.paths)
    assert scored == ["0", "1", "2", "4", "5", "6"]


def test_broken_label_is_found_before_training(spec: DataSpec) -> None:
    label = labels.label_path(spec.images("train")[2])
    label.write_text("1 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"2\.txt:2"):
        training(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"imgsz": 100}, "multiple of the network's stride 32, e.g. 96 or 128", id="imgsz"
        ),
        pytest.param({"imgsz": 0}, "image size is 0", id="no size"),
        pytest.param({"batch_size": 0}, "batch size is 0", id="no batch"),
        pytest.param({"hyp": {"mosaic": 1.0}}, "lack degrees", id="hyp"),
        pytest.param({"cache": "disk"}, "cache is 'disk'", id="cache"),
        pytest.param({"split": "val"}, "no split 'val'", id="split"),
        pytest.param({"split": "empty"}, "no images", id="empty"),
    ],
)
def test_what_cannot_be_loaded_is_said(
    spec: DataSpec, change: dict[str, object], message: str
) -> None:
    spec = DataSpec(spec.path, spec.names, {**spec.splits, "empty": ()})
    given: dict[str, object] = {"imgsz": 64, "batch_size": 2, "hyp": HYP, "workers": 0}
    with pytest.raises(DataError, match=message):
        train_loader(spec, **{**given, **change})  # type: ignore[arg-type]  # cases are data


def test_one_class_is_all_that_is_loaded(spec: DataSpec) -> None:
    one = spec.as_one_class()
    assert one.names == ("object",)
    scored, again = (
        evaluation_loader(data, split="train", imgsz=64, batch_size=2, workers=0)
        for data in (spec, one)
    )
    for plain, merged in ((training(spec), training(one)), (scored, again)):
        for before, after in zip(plain, merged, strict=True):
            assert set(after.targets[:, 1].tolist()) <= {0}
            assert before.targets[:, 2:].equal(after.targets[:, 2:])
            assert before.images.equal(after.images)
    assert one.as_one_class() is one


def test_weights_draw_images_by_seed_epoch_and_weights_alone(spec: DataSpec) -> None:
    weights = np.array([0, 1, 0, 5, 0, 0, 1.0])

    def drawn(epoch: int, given: NDArray[np.float64] | None, *, seed: int = 0) -> list[str]:
        loader = training(spec, seed=seed, hyp=PLAIN)
        loader.set_epoch(9, weights=weights[::-1].copy())  # leaves nothing behind
        loader.set_epoch(epoch, weights=given)
        return [path.stem for batch in loader for path in batch.paths]

    many = [stem for epoch in range(20) for stem in drawn(epoch, weights)]
    assert len(many) == 20 * len(SIZES)
    assert {stem: many.count(stem) > 70 for stem in many} == {"1": False, "3": True, "6": False}
    assert drawn(0, weights) == drawn(0, 2 * weights) == many[: len(SIZES)]
    assert drawn(0, weights, seed=1) != drawn(0, weights) != drawn(1, weights)
    assert sorted(drawn(0, None)) == [path.stem for path in spec.images("train")]


def test_weighted_epoch_can_be_entered_in_the_middle(spec: DataSpec) -> None:
    loader, weights = training(spec), np.arange(1.0, 8.0)
    loader.set_epoch(1, weights=weights)
    whole = digest(loader)
    loader.set_epoch(1, start=2, weights=weights)
    assert digest(loader) == whole[2:]
