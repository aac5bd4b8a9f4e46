"""timm: one file for each family of its models, and what vitrim asks of timm itself."""
