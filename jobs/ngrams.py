"""Make the dictionary for the objective ngrams."""

from __future__ import annotations

import sys

from cliploom import job
from cliploom.config import Config, require


def main(config: Config, _: list[str]) -> None:
    """Count the n-grams of the captions of data.manifest (see the keys ngrams.*), for the objective ngrams.

    Train with what comes out by objective.name=ngrams objective.ngrams=FILE. The captions are read once for each length
    of n-grams, 1 to 5 tokens; images are not read.
    """
    require(config, "data.manifest", "ngrams.output")
    from cliploom import storage
    from cliploom.data import mixture, vocabulary
    from cliploom.data.texts import Texts
    from cliploom.data.tokenizer import Tokenizer
    from cliploom.errors import InputError
    from cliploom.objectives import count_ngrams
    from cliploom.objectives.dictionary import pack

    settings = config.ngrams
    output = storage.absolute(str(settings.output))
    storage.check(storage.parent(output), "ngrams.output")
    words = vocabulary.load(config.data.vocabulary) if config.data.vocabulary else vocabulary.clip()
    data = mixture.choose(config.data)
    data.check()
    texts = Texts(data, Tokenizer(vocabulary=words))
    table = count_ngrams(texts, words.size, settings.most, settings.min_count)
    if not len(table):
        raise InputError(
            f"no n-gram occurs ngrams.min_count={settings.min_count} times: lower it, or give more captions"
        )
    storage.write(output, pack(table, words.size))
    print(f"{len(table)} n-grams of {texts.corpus.captions:,} captions: {output}")
    if texts.corpus.faults:
        print("left out: " + ", ".join(f"{count} x {cause}" for cause, count in texts.corpus.faults.most_common()))


if __name__ == "__main__":
    sys.exit(job.run(main))
