"""Embeddings of many images by a registered model, and the search among them.

`sources` says what is embedded and `run` has it done by evaluation's pool of models; `store` keeps the embeddings as
parquet, shard by shard, with a manifest. `search` finds the nearest, and `sheet` shows them.
"""
