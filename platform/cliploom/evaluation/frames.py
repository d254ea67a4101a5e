"""The pictures of a sample: its image, or frames of its video (Radford et al. 2021, A.1: of UCF101 and Kinetics-700 the
middle one)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from cliploom.data.faults import BadSample
from cliploom.data.transforms import open_image
from cliploom.evaluation.datasets import Sample

if TYPE_CHECKING:
    from PIL import Image

_UNDECODABLE = "undecodable video"


def pictures(sample: Sample, count: int = 1) -> list[Image.Image]:
    """The sample as `count` pictures: frames of its video, or its image so many times.

    Raises:
        BadSample: it has neither image nor video, or what it has can't be decoded.
    """
    if sample.image is not None:
        return [open_image(sample.image)] * count
    if sample.video is None:
        raise BadSample("no image")
    return frames(sample.video, count)


def frames(video: bytes, count: int = 1) -> list[Image.Image]:
    """The middle frames of so many equal parts of a video; of one with fewer frames some come several times.

    With one part it is the frame that as many are before as after; of an even number the later of the two in the
    middle. Packets are counted first, which needs no decoding. Frames before the last one wanted are decoded, and not
    sought over, since containers may lack the times of frames that are predicted from later ones.

    Raises:
        BadSample: the video can't be decoded.
    """
    import av

    try:
        with av.open(io.BytesIO(video), "r") as container:
            total = sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
        wanted = [(2 * part + 1) * total // (2 * count) for part in range(count)]
        found: dict[int, Image.Image] = {}
        with av.open(io.BytesIO(video), "r") as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    found[number] = frame.to_image()
                if number >= wanted[-1]:
                    return [found[one] for one in wanted]
    except (av.FFmpegError, IndexError) as error:
        raise BadSample(_UNDECODABLE, str(error)) from None
    raise BadSample(_UNDECODABLE, "it ends too early")
