"""LV-ViT, which timm does not have: the model, its names, its token labels, its family."""
