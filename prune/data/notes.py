"""What a conversion left out, assumed or chose: one sentence per kind of thing, with its count."""

import re
from collections import defaultdict
from collections.abc import Iterable

from prune.data import coco, coco_files, convert, voc
from prune.data.annotation import (
    AS_DISPLAYED,
    AS_STORED,
    NO_SIZE,
    RESIZED,
    SIZE_TURNED,
    SWAPPED,
    TURNED,
    UNREADABLE,
    WRONG_SIZE,
)
from prune.data.problem import BROKEN, CLIPPED, DEGENERATE, DUPLICATE, MISSING, OUTSIDE, Problem

_LONGEST = 160  # of a detail, in letters
_STRICT = "; --strict stops instead"

# Kind -> the sentence about so many of them; {one|many} follows the count.
SENTENCES = {
    BROKEN: "{image is|images are} broken and left out" + _STRICT,
    MISSING: "{image is|images are} missing" + _STRICT,
    UNREADABLE: "{file is not an image|files are not images} that prune reads, and left out"
    + _STRICT,
    NO_SIZE: "{annotation does|annotations do} not give the image's size",
    RESIZED: "{image was|images were} resized after the annotation; the boxes are scaled",
    WRONG_SIZE: "{annotation gives|annotations give} a wrong image size; the image's own is used",
    SWAPPED: "{image is|images are} left out because width and height are swapped: turned after "
    "the annotation, or a wrong size entry; correct either" + _STRICT,
    TURNED: "{image was|images were} annotated without regard to the EXIF orientation; the boxes "
    "are turned with the image",
    SIZE_TURNED: "{image has|images have} the size of the image before its EXIF orientation; boxes "
    "beyond that size show that they are drawn on the image as it is displayed",
    AS_STORED: "{image has|images have} an EXIF orientation that the size does not show; the boxes "
    "are turned with the image, as those of the other turned images are",
    AS_DISPLAYED: "{image has|images have} an EXIF orientation that the size does not show; the "
    "boxes are taken as drawn on the image as it is displayed",
    convert.LISTED_TWICE: "{image is|images are} listed twice; the boxes are joined",
    convert.TWO_SPLITS: "{image is|images are} in two splits, which makes metrics too good",
    convert.AMBIGUOUS: "{annotation is|annotations are} left out because several images have the "
    "name" + _STRICT,
    convert.BROKEN_XML: "{XML file is|XML files are} broken; the image is left out" + _STRICT,
    convert.BROKEN_BOX: "{box is|boxes are} broken and left out" + _STRICT,
    convert.NOT_WANTED: "{class is|classes are} left out, not being in --names",
    convert.ALIKE: "{class has|classes have} a name that differs from another only in upper and "
    "lower case",
    convert.NO_BOXES: "{class has|classes have} no boxes",
    "difficult box kept": "difficult {box|boxes} kept; --skip-difficult leaves them out",
    "difficult box left out": "difficult {box|boxes} left out; --keep-difficult keeps them",
    "crowd box kept": "crowd {box|boxes} kept; --skip-crowds leaves them out",
    "crowd box left out": "crowd {box|boxes} left out; --keep-crowds keeps them",
    voc.NO_XML: "{image has|images have} no XML file and {is|are} left out",
    voc.NOT_LISTED: "{image is|images are} in no split list and left out",
    voc.NO_SPLIT: "{image is|images are} in no train, val or test folder and left out",
    voc.NO_VAL: "train folder divided into train and val, because there is no val folder",
    voc.UNKNOWN_ENTRY: "{entry|entries} of the split lists without image or XML",
    coco.UNKNOWN_IMAGE: "{box is|boxes are} of an image that is not listed, and left out",
    coco.UNKNOWN_CATEGORY: "{box is|boxes are} of a category that is not listed, and left out",
    coco.FROM_OUTLINE: "{box is|boxes are} missing and taken around the outline",
    coco.RENUMBERED: "{file numbers|files number} the categories differently; the names count",
    coco.GROUP: "category left out that only groups the others (Roboflow writes it)",
    coco_files.BARE_NAME: "{image is|images are} not at the path given and found by the bare name",
    CLIPPED: "{box reaches|boxes reach} out of the image and {is|are} clipped",
    OUTSIDE: "{box lies|boxes lie} outside the image and {is|are} left out",
    DEGENERATE: "{box has|boxes have} no area and {is|are} left out",
    DUPLICATE: "{box is|boxes are} there twice; one is kept",
}


def notes(problems: Iterable[Problem]) -> list[str]:
    """Write one line per kind of problem: how many, what became of them, and the first one."""
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    return [
        f"note: {len(found)} {_numbered(SENTENCES[kind], len(found))} (e.g. {_place(found[0])})"
        for kind, found in kinds.items()
    ]


def _numbered(sentence: str, count: int) -> str:
    return re.sub(r"\{([^|}]*)\|([^}]*)\}", lambda found: found[1 if count == 1 else 2], sentence)


def _place(problem: Problem) -> str:
    line = f":{problem.line}" if problem.line else ""
    place = f"{problem.path.name or problem.path}{line}"
    detail = (
        problem.detail if len(problem.detail) <= _LONGEST else f"{problem.detail[:_LONGEST]}..."
    )
    return f"{place}: {detail}" if detail else place
