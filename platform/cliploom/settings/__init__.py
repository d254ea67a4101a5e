"""The sections of the tree of settings, those of a stage in one file; `config.Config` is the tree."""
