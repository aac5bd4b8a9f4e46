"""What can be seen of tokens: figures and diagnostics."""
