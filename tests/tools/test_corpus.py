"""tools/corpus.py: what it finds in cfgs, and how it counts and tells it."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from public_cfgs import NET, WIDER
from yolov2_cfg import YOLOV2

TOOL = Path(__file__).parents[2] / "tools" / "corpus.py"
REFUSED = "[net]\n[crnn]\n[local]\n"


@pytest.fixture(scope="module")
def corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("corpus", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["corpus"] = module  # dataclasses look there for their own module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("text", [NET + WIDER, YOLOV2], ids=["unequal sum", "region and reorg"])
def test_a_network_is_built_compared_cut_and_read_back(
    tmp_path: Path, corpus: ModuleType, text: str
) -> None:
    path = tmp_path / "net.cfg"
    path.write_text(text)
    row = corpus.tried(path, macs=0.6, seed=0)
    assert (row.failed, row.refused) == ("", "")
    assert (row.opencv, row.cut_opencv) == ("agrees", "agrees")
    assert row.difference < 1e-4
    assert row.came_back
    assert row.macs <= 0.6
    assert list(tmp_path.iterdir()) == [path]


def test_a_refused_cfg_has_its_reason(tmp_path: Path, corpus: ModuleType) -> None:
    (tmp_path / "odd.cfg").write_text(REFUSED)
    row = corpus.tried(tmp_path / "odd.cfg", macs=0.5, seed=0)
    assert not row.built
    assert row.refused.startswith("odd.cfg needs what is not supported: [crnn] (line 2), [local]")


def test_what_opencv_passes_over_is_no_disagreement(tmp_path: Path, corpus: ModuleType) -> None:
    weighted = NET + WIDER.replace("from=-2", "from=-2\nweights_type=per_feature")
    (tmp_path / "net.cfg").write_text(weighted)
    row = corpus.tried(tmp_path / "net.cfg", macs=0.6, seed=0)
    assert row.opencv == "OpenCV does not read weights of a [shortcut] (layer 2)"
    assert row.came_back


def test_the_tables_count_what_came_of_all(corpus: ModuleType) -> None:
    good = corpus.Row(
        "a.cfg", layers=5, kinds="1 yolo", opencv="agrees", macs=0.5, back=0.0, cut_opencv="agrees"
    )
    rows = [good, replace(good, opencv="differs"), corpus.Row("b.cfg", refused="b.cfg: | no")]
    lines = corpus.summary(rows).splitlines()
    assert lines[0].split() == ["3", "cfgs", "tried"]
    assert "    1  agree with OpenCV" in lines
    text = corpus.markdown(rows)
    assert "| a.cfg | 5 | 1 yolo | 0 | agrees | 0.50 | read back, OpenCV agrees |" in text
    assert "| b.cfg | b.cfg: \\| no |" in text


def test_the_command_runs_each_cfg_in_a_process_and_goes_on_after_its_time(
    tmp_path: Path,
    corpus: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "slow.cfg").write_text(NET + WIDER)
    words = [str(tmp_path), "--timeout", "0.01", "--json", str(tmp_path / "rows.json")]
    monkeypatch.setattr(sys, "argv", ["corpus.py", *words])
    assert corpus.main() == 1
    assert "slow.cfg: failed: took more than 0.01 s" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["failed"]
