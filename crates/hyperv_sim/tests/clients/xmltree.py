"""A small XML reader that keeps what most readers throw away: the prefixes.

A host must write certain prefixes (a widespread client finds its results by them), and a QName in a fault is text that
only the declarations in scope can explain. So the tree holds prefix, namespace and scope of each element.
"""

import xml.parsers.expat


class Element:
    """An element; `text` is the text directly inside it, joined."""

    def __init__(self, prefix, name, uri, attributes, scope):
        self.prefix = prefix
        self.name = name
        self.uri = uri
        # (namespace or None, local name) -> (prefix, value)
        self.attributes = attributes
        self.scope = scope
        self.children = []
        self.text = ""

    def __repr__(self):
        return f"<{self.prefix}:{self.name}>" if self.prefix else f"<{self.name}>"

    def all(self, uri, name):
        """Returns the children of this name."""
        return [child for child in self.children if child.uri == uri and child.name == name]

    def one(self, uri, name):
        """Returns the only child of this name; None where there is none or there are several."""
        found = self.all(uri, name)
        return found[0] if len(found) == 1 else None

    def attribute(self, uri, name):
        """Returns the value of an attribute, or None."""
        found = self.attributes.get((uri, name))
        return found[1] if found else None

    def walk(self):
        """Returns this element and all below it, in the order of the document."""
        yield self
        for child in self.children:
            yield from child.walk()

    def resolve(self, qname):
        """Splits a QName in the text of this element into (namespace, local name)."""
        prefix, colon, name = qname.strip().partition(":")
        if not colon:
            return self.scope.get(""), prefix
        return self.scope.get(prefix), name


def parse(data):
    """Reads a document of bytes; raises ExpatError where it is none, ValueError where a prefix is not declared."""
    root = []
    open_elements = []

    def start(tag, pairs):
        attributes = dict(zip(pairs[::2], pairs[1::2]))
        scope = dict(open_elements[-1].scope) if open_elements else {"xml": "http://www.w3.org/XML/1998/namespace"}
        for key, value in attributes.items():
            if key == "xmlns":
                scope[""] = value
            elif key.startswith("xmlns:"):
                scope[key[6:]] = value
        prefix, _, name = tag.rpartition(":")
        if prefix and prefix not in scope:
            raise ValueError(f"prefix {prefix!r} of <{tag}> is not declared")
        kept = {}
        for key, value in attributes.items():
            if key == "xmlns" or key.startswith("xmlns:"):
                continue
            attribute_prefix, _, local = key.rpartition(":")
            if attribute_prefix and attribute_prefix not in scope:
                raise ValueError(f"prefix of attribute {key} in <{tag}> is not declared")
            uri = scope[attribute_prefix] if attribute_prefix else None
            kept[(uri, local)] = (attribute_prefix, value)
        element = Element(prefix, name, scope.get(prefix), kept, scope)
        if open_elements:
            open_elements[-1].children.append(element)
        else:
            root.append(element)
        open_elements.append(element)

    def end(_tag):
        open_elements.pop()

    def text(piece):
        if open_elements:
            open_elements[-1].text += piece

    parser = xml.parsers.expat.ParserCreate()
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.Parse(data, True)
    return root[0]
