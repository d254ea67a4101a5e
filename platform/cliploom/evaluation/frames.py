"""The picture of a sample: its image, or the middle frame of its video (Radford et al. 2021, A.1, for UCF101 and
Kinetics-700)."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING

from cliploom.data.faults import BadSample
from cliploom.data.transforms import open_image
from cliploom.evaluation.datasets import Sample

if TYPE_CHECKING:
    from PIL import Image

_UNDECODABLE = "undecodable video"


def picture(sample: Sample) -> Image.Image:
    """The sample as a picture.

    Raises:
        BadSample: it has neither image nor video, or what it has can't be decoded.
    """
    if sample.image is not None:
        return open_image(sample.image)
    if sample.video is None:
        raise BadSample("no image")
    return middle_frame(sample.video)


def middle_frame(video: bytes) -> Image.Image:
    """The frame that as many are before as after; of an even number the later of the two in the middle.

    Packets are counted first, which needs no decoding. Frames before the middle are decoded, and not sought over, since
    containers may lack the times of frames that are predicted from later ones.

    Raises:
        BadSample: the video can't be decoded.
    """
    import av

    try:
        with av.open(io.BytesIO(video), "r") as container:
            count = sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
        with av.open(io.BytesIO(video), "r") as container:
            frame = next(itertools.islice(container.decode(video=0), count // 2, None), None)
            if frame is not None:
                return frame.to_image()
    except (av.FFmpegError, IndexError) as error:
        raise BadSample(_UNDECODABLE, str(error)) from None
    raise BadSample(_UNDECODABLE, "no frame in the middle")
