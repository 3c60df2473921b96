"""The same capture without guest memory."""
