"""The type checker of _shapes_checked.py: beartype that takes a whole number where a float is asked for (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
