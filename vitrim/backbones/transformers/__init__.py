"""Hugging Face transformers: one adapter over a table of names. Nothing here imports transformers: whoever brings a
model of it has it."""
