"""What a chapter calls: its page, its figures, its tables."""
