"""What a token, a map and a place are: tensors only, no model and no method."""
