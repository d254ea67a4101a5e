"""The demonstration: a real corpus of drawings, and the whole path from it to a reviewed model."""
