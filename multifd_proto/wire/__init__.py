"""What the bytes are: layouts, differences between releases, payload methods, main stream."""
