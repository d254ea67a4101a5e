from __future__ import annotations

import io

import av
import numpy as np
import pytest
from PIL import Image

from cliploom.data.faults import BadSample
from cliploom.evaluation.datasets import Sample
from cliploom.evaluation.frames import frames, pictures


def _video(total: int, kind: str, codec: str) -> bytes:
    """Grey frames, each brighter than the one before, with key frames and predicted ones."""
    data = io.BytesIO()
    with av.open(data, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 4
        stream.codec_context.max_b_frames = 2
        for number in range(total):
            image = Image.new("RGB", (64, 64), (8 * number + 4,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    return data.getvalue()


@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4"), ("mp4", "h264")]
)
@pytest.mark.parametrize("total", [1, 2, 9, 24])
def test_the_middle_frame_is_found(kind: str, codec: str, total: int) -> None:
    (found,) = frames(_video(total, kind, codec))
    assert np.asarray(found).mean() == pytest.approx(8 * (total // 2) + 4, abs=3)


def test_several_frames_are_the_middles_of_equal_parts() -> None:
    found = [np.asarray(frame).mean() for frame in frames(_video(24, "mp4", "h264"), 4)]
    assert found == pytest.approx([8 * n + 4 for n in (3, 9, 15, 21)], abs=3)
    assert len(frames(_video(2, "mp4", "mpeg4"), 5)) == 5, "of a short video some come several times"


def test_an_image_stands_before_a_video() -> None:
    data = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(data, "PNG")
    sample = Sample("a", data.getvalue(), None, None, _video(3, "mp4", "mpeg4"))
    assert [one.size for one in pictures(sample, 2)] == [(4, 4)] * 2
    assert [one.size for one in pictures(sample._replace(image=None), 2)] == [(64, 64)] * 2


@pytest.mark.parametrize("data", [b"", b"no video", _video(9, "mp4", "mpeg4")[:300]])
def test_a_damaged_video_is_a_bad_sample(data: bytes) -> None:
    with pytest.raises(BadSample, match="undecodable video"):
        frames(data)


def test_neither_image_nor_video_is_a_bad_sample() -> None:
    with pytest.raises(BadSample, match="no image"):
        pictures(Sample("a", None, b"0", None))
