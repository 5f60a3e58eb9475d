"""Writing what goes into requests and reading what came back."""

from xml.sax.saxutils import escape, quoteattr

import xmltree
from names import A, CIM, W, XSI


def reference(resource_uri, **keys):
    """Returns the content of an endpoint reference, as hand-written XML."""
    selectors = "".join(f'<w:Selector Name="{name}">{escape(value)}</w:Selector>' for name, value in keys.items())
    return (
        f'<a:Address xmlns:a="{A}">{A}/role/anonymous</a:Address>'
        f'<a:ReferenceParameters xmlns:a="{A}" xmlns:w="{W}">'
        f"<w:ResourceURI>{resource_uri}</w:ResourceURI><w:SelectorSet>{selectors}</w:SelectorSet>"
        f"</a:ReferenceParameters>"
    )


def cim_instance(class_name, properties):
    """Returns an embedded instance as CIM-XML text. A property is (name, type, value); a list makes an array."""
    parts = [f"<INSTANCE CLASSNAME={quoteattr(class_name)}>"]
    for name, kind, value in properties:
        if isinstance(value, list):
            items = "".join(f"<VALUE>{escape(str(item))}</VALUE>" for item in value)
            parts.append(
                f'<PROPERTY.ARRAY NAME="{name}" TYPE="{kind}"><VALUE.ARRAY>{items}</VALUE.ARRAY></PROPERTY.ARRAY>'
            )
        else:
            parts.append(f'<PROPERTY NAME="{name}" TYPE="{kind}"><VALUE>{escape(str(value))}</VALUE></PROPERTY>')
    parts.append("</INSTANCE>")
    return "".join(parts)


def read_cim_instance(text):
    """Reads an embedded instance: (class, {property: value, list or None})."""
    root = xmltree.parse(text.encode())
    instances = [element for element in root.walk() if element.name == "INSTANCE"]
    assert len(instances) == 1, f"{len(instances)} instances in {text}"
    properties = {}
    for element in instances[0].children:
        name = element.attribute(None, "NAME")
        if element.name == "PROPERTY":
            values = element.all(None, "VALUE")
            properties[name] = values[0].text if values else None
        elif element.name == "PROPERTY.ARRAY":
            arrays = element.all(None, "VALUE.ARRAY")
            properties[name] = [value.text for value in arrays[0].children] if arrays else None
    return instances[0].attribute(None, "CLASSNAME"), properties


class Item:
    """An object of a class as it came over the wire, read without regard to its type."""

    def __init__(self, element):
        self.element = element
        self.class_name = element.name
        self.uri = element.uri

    def __repr__(self):
        return f"{self.class_name}({', '.join(f'{child.name}={child.text!r}' for child in self.element.children)})"

    def __getitem__(self, name):
        """Returns the text of a scalar property, or None where it is NULL; fails where it is not there once."""
        found = [child for child in self.element.children if child.name == name]
        assert len(found) == 1, f"{self.class_name} has {len(found)} {name}"
        return text_of(found[0])

    def get(self, name):
        """Returns the text of a scalar property; None where it is NULL or the class has none of that name."""
        return self[name] if any(child.name == name for child in self.element.children) else None

    def list(self, name):
        """Returns the texts of an array property; NULL and empty are the same."""
        found = [text_of(child) for child in self.element.children if child.name == name]
        return [text for text in found if text is not None]

    def reference(self, name):
        """Returns the endpoint reference in a property or parameter; None for nil."""
        found = [child for child in self.element.children if child.name == name]
        assert len(found) == 1, f"{self.class_name} has {len(found)} {name}"
        return None if found[0].attribute(XSI, "nil") == "true" else Reference(found[0])


class Reference:
    """An endpoint reference that a host gave."""

    def __init__(self, holder):
        parameters = holder.one(A, "ReferenceParameters")
        self.uri = parameters.one(W, "ResourceURI").text
        self.keys = {
            selector.attribute(None, "Name"): selector.text for selector in parameters.one(W, "SelectorSet").children
        }

    def __repr__(self):
        return f"Reference({self.uri} {self.keys})"

    def xml(self):
        """Returns it as the content of a parameter."""
        return reference(self.uri, **self.keys)


def text_of(element):
    """Returns the value of a scalar; None where it is nil."""
    if element.attribute(XSI, "nil") == "true":
        return None
    if element.children and element.children[0].uri == CIM:
        return element.children[0].text
    return element.text


def path(host, class_name, namespace="root\\virtualization\\v2", **keys):
    """Returns a WMI object path as a host writes it in a string property."""
    shown = ",".join(f'{name}="{quoted(value)}"' for name, value in keys.items())
    return f"\\\\{host}\\{namespace}:{class_name}.{shown}"


def quoted(value):
    """Escapes a value for an object path in double quotes."""
    return value.replace("\\", "\\\\").replace('"', '\\"')


def wql(value):
    """Escapes a value for a WQL literal in single quotes."""
    return value.replace("\\", "\\\\").replace("'", "\\'")
