"""Image-text pairs: shards and their manifest, the tokenizer, the image transforms, the sample plan, the stream."""
