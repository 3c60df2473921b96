"""The reference sender: a complete source for a real destination."""
