"""Embeddings of many images by a registered model, and the search among them.

`sources` says what is embedded, and evaluation's `features` runs the model over it; `store` keeps the embeddings as
parquet, shard by shard, with a manifest. `search` finds the nearest, and `sheet` shows them.
"""
