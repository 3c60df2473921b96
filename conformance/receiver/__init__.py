"""The cases for receivers, one file a chapter: what is played, and what keeps a requirement."""
