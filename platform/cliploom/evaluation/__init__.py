"""Evaluation: what a model in the registry can do, measured as the CLIP benchmark measures it.

`suite` says what is measured and `datasets` reads it; `features` computes embeddings with Ray Data (`preparing` and
`encoding` are its stages, `store` keeps what they make); `zeroshot` and `retrieval` are the tasks, `ranks` and
`intervals` what they count with; `run` puts these together; `gates` judges the outcome, and `report`, `summary` and
`output` show it.
"""
