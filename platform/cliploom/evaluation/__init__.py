"""Evaluation: what a model in the registry can do, measured as the CLIP paper and the CLIP benchmark measure it.

`suite` says what is measured and `datasets` reads it; `features` computes embeddings with Ray Data (`preparing` and
`encoding` are its stages, `frames` decodes videos, `store` keeps what they make). The tasks are `zeroshot`, `probe` (by
`logistic`), `fewshot` and `retrieval`; `labels`, `ranks`, `metrics` and `intervals` are what they count with, `classes`
looks at zero-shot class by class, and `findings` runs those that an entry asks for. `shifts` (by `robustness`) and
`contamination` (by `duplicates`, `alignment` and `overlap`) look at several data sets, or at the training data, beside
them; `analyses` and `paper` compare. `run` puts these together; `gates` judges the outcome, and `report`, `markdown`,
`summary` and `output` show it.
"""
