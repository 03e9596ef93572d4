"""Makes torchvision usable beside a CPU build of torch; run once by the Python of the environment that holds both.

    .engines/transformers/bin/python tests/engines/cpu_torchvision.py

The torchvision on PyPI for Linux is linked against CUDA.  Beside a torch without CUDA its libraries do not load, and
two things are missing: the operators that it describes on import (so the import itself fails), and the image decoder
(so every request with a picture fails).  The operators are declared here without a body, because nothing that these
models do calls them; the decoder becomes Pillow's.  Elsewhere torchvision loads by itself, and nothing is changed.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

_MARK = "# cpu_torchvision"

_OPERATORS = f"""{_MARK}
if not torchvision.extension._has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    for _operator in ("nms", "qnms"):
        _declared.define(_operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

"""
_BEFORE = '@torch.library.register_fake("torchvision::nms")'

_DECODER = f"""
{_MARK}
def decode_image(input, mode=ImageReadMode.UNCHANGED, apply_exif_orientation=False):
    import io
    import numpy
    from PIL import Image, ImageOps

    source = input if isinstance(input, str) else io.BytesIO(input.numpy().tobytes())
    try:
        picture = Image.open(source)
        picture.load()
    except Exception as error:
        raise RuntimeError(f"cannot decode image: {{error}}") from error
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).contiguous()
"""

_PROBE = "import sys, torchvision; sys.exit(0 if torchvision.extension._has_ops() else 1)"


def main() -> int:
    loads = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=False)
    if loads.returncode == 0:
        return 0
    package = Path(sysconfig.get_path("purelib")) / "torchvision"
    _change(package / "_meta_registrations.py", lambda text: text.replace(_BEFORE, _OPERATORS + _BEFORE, 1))
    _change(package / "io" / "image.py", lambda text: text + _DECODER)
    return subprocess.run([sys.executable, "-c", "import torchvision.io.image"], check=False).returncode


def _change(file: Path, change: Callable[[str], str]) -> None:
    text = file.read_text()
    if _MARK in text:
        return
    changed = change(text)
    if changed == text:
        raise SystemExit(f"cpu_torchvision: {file} is not what it was in 0.28: nothing to hold on to")
    file.write_text(changed)


if __name__ == "__main__":
    sys.exit(main())
