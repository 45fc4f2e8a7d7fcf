"""Readers of a user: one of XML, one of a file that holds its own splits, and some that lie."""

from xml.etree import ElementTree

from micro_lit.data.reader import Reader


class XmlReader(Reader):
    """Elements `pair`, whose children are columns."""

    endings = (".xml",)

    def read(self, path, split):
        for number, pair in enumerate(ElementTree.parse(path).iter("pair"), start=1):
            yield f"{path}, pair {number}", {each.tag: each.text for each in pair}


class Cached(XmlReader):
    version = "1"


class Parts(XmlReader):
    """Pairs below an element that is named by their split; every path is this reader's own."""

    endings = ()

    def splits(self, path):
        return [each.tag for each in ElementTree.parse(path).getroot()]

    def read(self, path, split):
        for number, pair in enumerate(ElementTree.parse(path).getroot().find(split), start=1):
            yield f"{path}, {split} {number}", {each.tag: each.text for each in pair}


class NoPairs(XmlReader):
    def read(self, path, split):
        yield {"prompt": "?"}


class NoMapping(XmlReader):
    def read(self, path, split):
        yield f"{path}, pair 1", ["a", "b"]


class NoNames(XmlReader):
    def read(self, path, split):
        yield f"{path}, pair 1", {1: "a"}


class Nothing(XmlReader):
    def read(self, path, split):
        return None


class Raises(XmlReader):
    def read(self, path, split):
        raise KeyError("pair")


class WrongEndings(XmlReader):
    endings = ".xml"


class WrongSplits(XmlReader):
    def splits(self, path):
        return [1]


class NoMethod(Reader):
    endings = (".xml",)


class NoReader:
    """A class of another kind."""
