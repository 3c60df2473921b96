"""Forms derived from the truth: specification tables, test vectors, the kill matrix."""
