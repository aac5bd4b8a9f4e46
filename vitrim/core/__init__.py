"""What a token, a map and a place are: tensors only, no model and no method.

Example: four patches of one image; two are kept, and the others have no token that stands for them.
    >>> from vitrim import Keep, Tokens
    >>> tokens = Tokens(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), prefix=0, grid=(2, 2))
    >>> kept = tokens.shrink(Keep(torch.tensor([[0, 2]])))
    >>> kept.n, kept.owners().tolist(), kept.origin().tolist()
    (2, [[0, -1, 1, -1]], [[0, 2]])
"""
