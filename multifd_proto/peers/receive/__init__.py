"""The reference receiver: a complete destination for a real source."""
