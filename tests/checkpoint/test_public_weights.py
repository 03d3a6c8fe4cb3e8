"""Every command that takes weights takes a Darknet pair and a public .pt, unchanged beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from public import difference, trained, yolov3_tiny_cfg
from squares import data

from prune import checkpoint
from prune.auto import pipeline
from prune.checkpoint.foreign.weights import write_weights
from prune.cli import main, read
from prune.cli.train import read_run
from prune.common.notes import silent
from prune.models.darknet import Darknet
from prune.train import setup
from prune.train.distributed import Team


@pytest.fixture(scope="module")
def net() -> Darknet:
    return trained(yolov3_tiny_cfg(), decoding="darknet")


@pytest.fixture
def pair(net: Darknet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Darknet pair and a public .pt of one network, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_weights(Path("net.weights"), net.state_dict(), net.sections)
    torch.save({"model": net.state_dict()}, "public.pt")
    Path("net.cfg").write_text(yolov3_tiny_cfg())
    return tmp_path


SOURCES = {
    "pair": ["--weights", "net.weights", "--cfg", "net.cfg"],
    "pair, cfg found": ["--weights", "net.weights"],
    "public .pt": ["--weights", "public.pt", "--cfg", "net.cfg"],
}
CUTS = {
    "conv": ["conv", "--layer", "4", "--amount", "0.5"],
    "layers": ["layers", "--upto", "6", "--amount", "0.5"],
    "global": ["global", "--macs", "0.7"],
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("command", CUTS)
def test_public_weights_are_cut_into_a_checkpoint_of_ours(
    pair: Path, source: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in pair.iterdir()}
    words = [*CUTS[command], *SOURCES[source], "--names", "red,blue", "--out", "cut.pt"]
    assert main(words) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "structure from" in line]
    assert len(notes) == 1
    assert "net.cfg; boxes decode by exp" in notes[0]
    cut = checkpoint.load(Path("cut.pt"))
    assert [entry["command"] for entry in cut.history] == ["whole", command]
    assert cut.names == ["red", "blue"]
    assert cut.history[-1]["parent"] == checkpoint.digest(Path(words[words.index("--weights") + 1]))
    assert not any(head.new_coords for head in checkpoint.network(cut).heads)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("source", SOURCES)
def test_they_are_scored_and_shown(
    pair: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data(pair)
    words = [*SOURCES[source], "--data", "data.yaml", "--no-plots", "--json", "--workers", "0"]
    assert main(["val", *words]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    assert main(["show", *SOURCES[source], "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 17


@pytest.mark.parametrize("source", SOURCES)
def test_they_are_exported_and_timed(
    net: Darknet, pair: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", *SOURCES[source], "--format", "darknet", "--out", "out.cfg"]) == 0
    assert main(["whole", "--weights", "out.weights", "--out", "back.pt"]) == 0
    assert difference(checkpoint.network(checkpoint.load(Path("back.pt"))), net) < 1e-3
    file, *rest = SOURCES[source][1:]
    capsys.readouterr()
    assert main(["bench", file, *rest, "--rounds", "1", "--runtime", "torch", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["file"] == file


@pytest.mark.parametrize("out", ["net.cfg", "net.weights"])
def test_the_files_that_are_read_are_never_written(
    pair: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in pair.iterdir()}
    for words in (
        ["export", "--weights", "net.weights", "--format", "darknet", "--out", out],
        ["export", "--weights", "net.weights", "--format", "darknet"],
        ["whole", "--weights", "net.weights", "--cfg", "net.cfg", "--out", out],
        ["layers", "--weights", "net.weights", "--cfg", "net.cfg", "--out", out],
    ):
        assert main(words) == 2
        assert capsys.readouterr().err.count("\n") <= 2  # the note and the error
    assert {path: path.read_bytes() for path in pair.iterdir()} == before


def test_weights_without_a_cfg_are_one_line(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.cfg").rename("other.cfg")
    assert main(["show", "net.weights"]) == 2
    said = capsys.readouterr().err
    assert "holds numbers only; name its cfg, e.g. --cfg net.cfg" in said
    assert said.count("\n") == 1


def test_two_files_differ_by_what_was_cut(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*CUTS["conv"], *SOURCES["pair"], "--out", "cut.pt"]) == 0
    capsys.readouterr()
    assert main(["diff", "net.weights", "cut.pt", "--cfg", "net.cfg", "--json"]) == 0
    changed = json.loads(capsys.readouterr().out)["layers"]
    assert [layer["index"] for layer in changed] == [4, 5, 6]
    assert main(["diff", "net.weights", "cut.pt", "--cfg", "a", "b", "c"]) == 2


def test_a_cfg_beside_a_checkpoint_of_ours_is_said_to_count_for_nothing(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["whole", *SOURCES["pair"], "--out", "own.pt"]) == 0
    capsys.readouterr()
    assert main(["show", "own.pt", "--cfg", "net.cfg"]) == 0
    assert "its own cfg counts, not net.cfg" in capsys.readouterr().err


# A cfg without weights.


@pytest.mark.parametrize("words", [["net.cfg"], ["--cfg", "net.cfg"], ["tiny"], ["--cfg", "tiny"]])
def test_a_cfg_alone_is_shown(
    pair: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("cfg").mkdir()
    Path("cfg/tiny.cfg").write_text(Path("net.cfg").read_text())
    assert main(["show", *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["params"] == sum(
        parameter.numel()
        for parameter in trained(yolov3_tiny_cfg(), decoding="darknet").parameters()
    )
    assert document["history"] == []


def test_random_weights_make_a_checkpoint(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["whole", "--cfg", "net.cfg", "--random", "--names", "a,b,c"]
    for out, seed in (("one.pt", "1"), ("again.pt", "1"), ("two.pt", "2")):
        assert main([*words, "--seed", seed, "--out", out]) == 0
    assert "untrained" in capsys.readouterr().out
    one, again, two = (checkpoint.load(Path(f"{n}.pt")) for n in ("one", "again", "two"))
    assert one.names == ["a", "b", "c"]
    kernel = "module_list.0.Conv2d.weight"
    assert torch.equal(one.model[kernel], again.model[kernel])
    assert not torch.equal(one.model[kernel], two.model[kernel])
    assert {head.classes for head in checkpoint.network(one).heads} == {3}


WRONG = {
    "nothing": ([], "no weights; give --weights FILE, or --cfg FILE --random"),
    "random without cfg": (["--random"], "give --cfg alone"),
    "random with weights": (["--random", *SOURCES["pair"]], "give --cfg alone"),
    "seed alone": ([*SOURCES["pair"], "--seed", "1"], "--seed is for --random"),
    "missing cfg": (["--random", "--cfg", "no"], "cannot read no"),
    "cfg as out": (["--random", "--cfg", "net.cfg", "--out", "net.cfg"], "is also --cfg"),
    "no decoding": ([*SOURCES["pair"], "--decoding", "softmax"], "invalid choice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_one_line(
    pair: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, expected = WRONG[case]
    before = sorted(pair.iterdir())
    try:
        status = main(["whole", *words])
    except SystemExit as leaving:
        status = int(str(leaving.code))
    assert status == 2
    assert expected in capsys.readouterr().err
    assert sorted(pair.iterdir()) == before


# Commands that take longer: what they start from.


def test_auto_starts_from_a_checkpoint_made_of_them(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stages are commands of their own, which need no word on how the weights are read."""

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_stages", stop)
    words = ["--data", str(tiny.data(pair)), "--latency", "0.5", "--img-size", "64"]
    before = {path: path.read_bytes() for path in pair.iterdir() if path.is_file()}
    assert main(["auto", *SOURCES["pair"], *words, "--names", "red,blue"]) == 130
    found = checkpoint.load(Path("runs/auto/exp/net.pt"))
    assert found.names == ["red", "blue"]
    wish = json.loads(Path("runs/auto/exp/auto.json").read_text())["wish"]
    assert wish["weights"] == str(Path("runs/auto/exp/net.pt").resolve())
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("source", SOURCES)
def test_training_starts_from_them(
    net: Darknet, pair: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = read("train", [*SOURCES[source], "--data", str(tiny.data(pair)), "--names", "red,blue"])
    said: list[str] = []
    _, config, _ = read_run(args, said.append)
    prepared = setup.prepare(config, device=torch.device("cpu"), team=Team(), report=said.append)
    assert difference(prepared.source.net, net) < 1e-3
    assert [line for line in said if "structure from net.cfg" in line]
    assert "boxes decode by exp" in " ".join(said)


def test_training_decodes_them_as_it_is_told(pair: Path) -> None:
    words = [*SOURCES["public .pt"], "--data", str(tiny.data(pair)), "--decoding", "sigmoid"]
    _, config, _ = read_run(read("train", words), silent)
    prepared = setup.prepare(config, device=torch.device("cpu"), team=Team(), report=silent)
    assert all(head.new_coords for head in prepared.source.net.heads)


def test_words_on_weights_that_are_not_there_are_refused(
    pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--cfg", "net.cfg", "--data", str(tiny.data(pair)), "--decoding", "exp"]
    assert main(["train", *words]) == 2
    assert "--decoding needs --weights" in capsys.readouterr().err


def test_quantize_says_what_it_takes(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "--weights", "net.weights", "--data", str(tiny.data(pair))]) == 2
    assert "prune export" in capsys.readouterr().err
