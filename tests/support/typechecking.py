"""The type checker behind jaxtyping under pytest: shapes and types of every call are checked.

As PEP 484 has it, a whole number is taken where a float is expected.
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
