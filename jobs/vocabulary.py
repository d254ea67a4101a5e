"""Make a vocabulary of one's own."""

from __future__ import annotations

import sys

from cliploom import job
from cliploom.config import Config, require


def main(config: Config, _: list[str]) -> None:
    """Train a byte-pair vocabulary on the captions of data.manifest (see the keys vocabulary.*).

    Train a model with it by data.vocabulary=FILE; from there on it goes with the model. Images are not read.
    """
    require(config, "data.manifest", "vocabulary.output")
    from cliploom import storage
    from cliploom.data import mixture, vocabulary
    from cliploom.data.corpus import Corpus

    output = storage.absolute(str(config.vocabulary.output))
    storage.check(storage.parent(output), "vocabulary.output")
    data = mixture.choose(config.data)
    data.check()
    corpus = Corpus(data)
    made = vocabulary.train(corpus, config.vocabulary.size)
    storage.write(output, made.pack())
    print(f"{made.size} token ids of {corpus.captions:,} captions: {output}")
    if corpus.faults:
        print("left out: " + ", ".join(f"{count} x {cause}" for cause, count in corpus.faults.most_common()))


if __name__ == "__main__":
    sys.exit(job.run(main))
