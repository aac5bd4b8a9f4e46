"""What several methods share, and the learned parts of single ones."""
