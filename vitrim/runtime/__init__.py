"""A backbone and methods put together: the model, its loop, its cost, saving and loading."""
