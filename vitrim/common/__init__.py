"""What every room may use: files written whole, words for messages."""
