"""Conformance: streams that are wrong in exactly one way, and what must catch them."""
