"""Yggdrasil as built from source: the executable says which release it is, Debian's package does not."""
from adapters import first_line, yggdrasil


class Adapter(yggdrasil.Adapter):
    @classmethod
    def version(cls):
        return first_line([cls.bin(), "-version"], 1).removeprefix("Build version: ")
