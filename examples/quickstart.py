"""From a data set to a small, checked ONNX file: python examples/quickstart.py [FOLDER]."""

import sys
from pathlib import Path

from prune import Detector
from prune.data.shapes import make_shapes

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "quickstart")
data = make_shapes(folder / "shapes.yaml", images=64, size=96)  # or your own data.yaml

dense = Detector.random("yolor_csp_n", data=data, img_size=96)  # or Detector.load("best.pt")
dense = dense.train(data, epochs=2, batch_size=8, no_plots=True)
small = dense.prune(macs=0.5, data=data, reconstruct=True)  # verified, recovered
tuned = small.train(data, teacher=dense, epochs=2, batch_size=8, no_plots=True)

print(f"mAP@.5 {dense.evaluate(data).map50:.3f} dense, {tuned.evaluate(data).map50:.3f} pruned")
print(f"MACs {small.result.macs.before:,} -> {small.result.macs.after:,}")
tuned.save(folder / "small.pt")
print(f"{tuned.export(folder / 'small.onnx').out} agrees with torch")
