from __future__ import annotations

from pathlib import Path

import pytest

from cliploom.data import lists
from cliploom.errors import InputError


def test_a_line_each_whoever_wrote_them(tmp_path: Path) -> None:
    for data in (b"dog\nred caf\xc3\xa9\n", b"\xef\xbb\xbfdog\r\nred caf\xc3\xa9"):
        (tmp_path / "list").write_bytes(data)
        assert lists.read(str(tmp_path / "list"), "key") == ["dog", "red café"]


def test_what_is_no_list_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match=r"^some\.key: .*latin is not UTF-8 text$"):
        lists.read(str(tmp_path / "latin"), "some.key")
    with pytest.raises(InputError, match=r"^some\.key: there is no file .*none$"):
        lists.read(str(tmp_path / "none"), "some.key")
