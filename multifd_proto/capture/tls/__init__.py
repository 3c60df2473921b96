"""TLS in captures: connections whose secrets are known are replaced by their plaintext."""
