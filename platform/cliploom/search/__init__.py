"""Searches on Ray Tune: settings, scale and objectives, the laws that their points fit, and what those recommend."""
