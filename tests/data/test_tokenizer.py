from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ftfy
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import reference
from cliploom.data import pieces, tokenizer, vocabulary
from cliploom.data.tokenizer import Tokenizer
from cliploom.data.vocabulary import Vocabulary

NASTY = [
    "",
    " ",
    "a photo of a cat",
    "A Photo Of A CAT'S Tail, isn't it? We'll see: I'm 12.50$ ...!!!",
    "fish &amp; chips &amp;amp; &amp;amp;amp; peas &lt;b&gt; &NBSP; &",
    "&eacute; &EACUTE; &#233; &#x1F600; &#0; &#128; &bogus; &notin &copy",
    "<b>a &amp; b</b>\nc &eacute; d\n&lt;e&gt; &eacute;",
    "â€œquotedâ€\x9d naÃ¯ve cafÃ© Ã  la mode â˜ƒ voilÃ le travail ðŸ˜€",
    "“curly” ‘quotes’ ʼapostrophe’s – — … œuvre œ’s Œ.",
    "ﬁne ﬂuﬃest ﬆreet ĳssel ŉ ǆ",
    "ＦＵＬＬ　ＷＩＤＴＨ ｶﾞｷﾞ",
    "e\u0301 cafe\u0301 n\u0303 Å \u212b \u1100\u1161",
    "😀 👨‍👩‍👧 🏳️‍🌈 🏴󠁧󠁢󠁷󠁬󠁳󠁿 👍🏽 ☕️ ❤",
    "青い空と海の写真、東京タワー 一二三 ３ ⅷ ½ ² ٣ 한국어 עברית हिन्दी ไทย",
    "tab\tnew\nline\r\nret\rform\x0cvt\x0bfs\x1cgs\x1dus\x1f \x85",
    "\u2028 \u2029 \xa0 \u3000 \u200b \u200d \ufeff \ufffc end",
    "\x00\x01\x07\x08\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "\ud83d\ude00 \ud83d \ude00",
    "İSTANBUL ΟΔΥΣΣΕΥΣ ΣΑΣ Σ straße ẞ K'ſ x'ſt ſ 'Ŀ",
    "<start_of_text>a<end_of_text> <END_OF_TEXT> !<end_of_text>! <ſtart_of_text> <end_of_text",
    "<|startoftext|> <|endoftext|> </w> dog</w> Ġ",
    "'s't're've'm'll'd ''s 's's S'S",
    "1234567890 1a2b3c 3.14159 x2 ²³",
    "\U000323af \U0001fae8 \u1c89 \U00010d70 \ua7da",  # letters and symbols of the newest Unicode versions
]
FRAGMENTS = [
    *(word for text in NASTY for word in text.split(" ")),
    *"éÉàÃ©â€™œ“”‘’–…®°£²´×‚√∂",
    *" \t\n&;'",
    "&amp;",
    "&#",
    "Ã\xa0",
    "\xa0",
]
CHARACTERS = st.characters(codec=None)  # surrogates too


def mojibake(text: str) -> str:
    return text.encode("utf-8", "replace").decode("windows-1252", "replace")


ANYTHING = st.one_of(
    st.text(CHARACTERS),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(CHARACTERS, max_size=3)), max_size=30).map("".join),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x17F)).map(mojibake),
    st.text(st.sampled_from("abcz'019 .,!-<>_&\n\x1b[m"), max_size=200),
)


@pytest.fixture(scope="module", params=["clip", "own"])
def own(request: pytest.FixtureRequest) -> Vocabulary | None:
    """All tests are of CLIP's vocabulary and of one that is trained on nasty captions."""
    return vocabulary.train([*NASTY, *NASTY], 850) if request.param == "own" else None


@pytest.fixture(scope="module")
def tokenize(own: Vocabulary | None) -> Tokenizer:
    return Tokenizer(vocabulary=own)


@pytest.fixture(scope="module")
def expected(own: Vocabulary | None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    tokenizers = reference.import_open_clip().tokenizer
    if own is None:
        return tokenizers.SimpleTokenizer()
    path = tmp_path_factory.mktemp("own") / "vocabulary.bpe"
    path.write_bytes(own.pack())
    return tokenizers.SimpleTokenizer(bpe_path=str(path))


@pytest.mark.parametrize("text", NASTY)
def test_ids_are_the_reference_s(tokenize: Tokenizer, expected: Any, text: str) -> None:
    assert tokenize(text).equal(expected(text))


@given(text=ANYTHING)
@settings(max_examples=500, deadline=None)
def test_ids_are_the_reference_s_for_anything(tokenize: Tokenizer, expected: Any, text: str) -> None:
    assert tokenize(text).equal(expected(text))


@given(text=ANYTHING)
@example("œ’s")
@settings(max_examples=1000, deadline=None)
def test_passing_over_ftfy_changes_nothing(text: str) -> None:
    assert pieces._fix(text) == ftfy.fix_text(text)


@pytest.mark.parametrize("unit", ["a", "word ", "é", "写", "😀", "!", "1", "x1", "&amp;", "a&amp;b ", "<end_of_text>"])
def test_captions_of_ten_thousand_characters(tokenize: Tokenizer, expected: Any, unit: str) -> None:
    text = (unit * 10_000)[:10_000]
    assert tokenize(text).equal(expected(text))


@given(texts=st.lists(ANYTHING, max_size=8))
@settings(max_examples=50, deadline=None)
def test_a_batch_is_its_captions_one_by_one(tokenize: Tokenizer, texts: list[str]) -> None:
    batch = tokenize.encode_batch(texts)
    assert batch.dtype == np.int32
    assert batch.shape == (len(texts), 77)
    for row, text in zip(batch, texts, strict=True):
        assert np.array_equal(row, tokenize.encode_batch([text])[0])


def test_result_is_int64_with_a_row_a_caption(tokenize: Tokenizer) -> None:
    assert tokenize("one caption").shape == (1, 77)
    assert tokenize(["one", "two"]).shape == (2, 77)
    assert tokenize("one caption").dtype == torch.int64


def test_every_row_holds_start_and_end(tokenize: Tokenizer) -> None:
    batch = tokenize.encode_batch(["", "short", "long " * 100])
    assert (batch[:, 0] == tokenize.sot).all()
    assert ((batch == tokenize.eot).sum(axis=1) == 1).all()
    assert batch[2, -1] == tokenize.eot


@pytest.mark.parametrize("length", [3, 16, 80])
def test_other_context_lengths(own: Vocabulary | None, expected: Any, length: int) -> None:
    texts = ["a rather long caption of a dog, " * 5, "a dog", ""]
    assert Tokenizer(length, own)(texts).equal(expected(texts, length))


def test_end_of_text_is_the_highest_id(tokenize: Tokenizer, expected: Any) -> None:
    assert (tokenize.sot, tokenize.eot) == (expected.sot_token_id, expected.eot_token_id)
    assert tokenize.vocabulary.size == expected.vocab_size == tokenize.eot + 1
    assert tokenize(NASTY).max() == tokenize.eot


def test_pickling_keeps_the_ids(tokenize: Tokenizer) -> None:
    pickled = pickle.dumps(tokenize)
    assert len(pickled) < 10_000  # CLIP's vocabulary, which is everywhere, does not travel
    copy = pickle.loads(pickled)
    assert np.array_equal(copy.encode_batch(NASTY), tokenize.encode_batch(NASTY))


def test_threads_share_it_while_it_learns_words_and_forgets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{word}{number} {word} caption's" for number in range(500) for word in ("red", "grün", "犬")]
    expected = Tokenizer().encode_batch(texts)
    monkeypatch.setattr(tokenizer, "_MOST_KEPT", 20_000)
    shared = Tokenizer()
    with ThreadPoolExecutor(4) as threads:
        parts = [texts[first : first + 50] for first in range(0, len(texts), 50)]
        found = np.concatenate(list(threads.map(shared.encode_batch, parts)))
    assert shared._words.bytes < 60_000
    assert np.array_equal(found, expected)


def test_encoding_a_batch_needs_no_torch() -> None:
    use = "from cliploom.data.tokenizer import Tokenizer; Tokenizer().encode_batch(['a'])"
    code = f"import sys; {use}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
