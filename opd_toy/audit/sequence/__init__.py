"""What a loss of whole texts optimises."""
