"""The study of chapter 8: every method trained, measured and compared."""
