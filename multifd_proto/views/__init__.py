"""Forms derived from the truth: rows of messages, specification tables, reports, test vectors."""
