"""The OpenAPI document that `cog build` writes into an image, made without Docker.

Cog does not import `predict.py` for it: it parses the source and silently drops what it cannot resolve. This module
parses the source too, and refuses whatever Cog would drop or misread.
Run `python -m src.serving.cog.schema` to write `.cog/openapi_schema.json`.
"""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

SCHEMA_PATH = Path(".cog/openapi_schema.json")
TEMPLATE = Path(__file__).with_name("openapi.json")
TYPES: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "Path": {"type": "string", "format": "uri"},
}
DEFAULT_TYPES: dict[str, set[type]] = {
    "string": {str},
    "integer": {int},
    "number": {int, float},
    "boolean": {bool},
    "array": {list},
}
BOUNDS = {"ge": "minimum", "le": "maximum", "min_length": "minLength", "max_length": "maxLength"}
KEYWORDS = {"default", "description", "choices", *BOUNDS}
PLAIN_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
QUOTES = ('"', "'", '"""', "'''")

Schema = dict[str, Any]


class SchemaError(ValueError):
    """Cog would misread an input; the message names it and what to write instead."""


class InputReader:
    """Parses the arguments of a predict method."""

    def __init__(self, source: str) -> None:
        self.lines = source.encode().splitlines(keepends=True)  # ast counts columns in UTF-8 bytes
        self.module = ast.parse(source)
        self.constants = {
            target.id: node.value
            for node in self.module.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def inputs(self, method: ast.FunctionDef) -> tuple[Schema, dict[str, Schema]]:
        """The `Input` schema of `method`, and an enum schema for each input with choices."""
        arguments = method.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
            raise SchemaError("predict: only plain arguments are allowed, not *, ** or /")
        parameters = arguments.args[1:]
        if len(arguments.defaults) != len(parameters):
            raise SchemaError("predict: every argument needs `= Input(...)`")
        properties: dict[str, Schema] = {}
        enums: dict[str, Schema] = {}
        for order, (parameter, value) in enumerate(zip(parameters, arguments.defaults, strict=True)):
            field = self.field(parameter, value)
            choices = field.pop("choices", None)
            if choices is not None:
                kind = field.pop("type")
                enums[parameter.arg] = {
                    "title": parameter.arg,
                    "description": "An enumeration.",
                    "enum": choices,
                    "type": kind,
                }
                field["allOf"] = [{"$ref": f"#/components/schemas/{parameter.arg}"}]
            else:
                field["title"] = parameter.arg.replace("_", " ").title()
            properties[parameter.arg] = {"x-order": order, **field}
        required = [name for name, field in properties.items() if "default" not in field and "nullable" not in field]
        schema: Schema = {"title": "Input", "type": "object", "properties": properties}
        return (schema | {"required": required} if required else schema), enums

    def field(self, parameter: ast.arg, value: ast.expr) -> Schema:
        """One property: type, bounds, default, description, and `choices` inline."""
        name = parameter.arg
        field = self.annotation(name, parameter.annotation)
        if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "Input"):
            raise SchemaError(f"{name}: write its default as Input(...)")
        if value.args:
            raise SchemaError(f"{name}: Input takes keyword arguments only; Cog drops positional ones")
        keywords = {keyword.arg or "**": keyword.value for keyword in value.keywords}
        if unknown := keywords.keys() - KEYWORDS:
            raise SchemaError(f"{name}: Input cannot have {', '.join(sorted(unknown))}")
        if "description" not in keywords:
            raise SchemaError(f"{name}: needs a description")
        field["description"] = self.text(name, "description", keywords["description"])
        field |= {BOUNDS[key]: self.number(name, key, keywords[key]) for key in BOUNDS if key in keywords}
        if "choices" in keywords:
            field["choices"] = self.choices(name, keywords["choices"])
        if "default" in keywords:
            field["default"] = self.literal(name, "default", keywords["default"])
        check_default(name, field)
        return field

    def annotation(self, name: str, node: ast.expr | None) -> Schema:
        """The JSON type of an annotation: a plain type, `Optional[...]`, `... | None` or `list[...]`."""
        match node:
            case ast.Name(id=plain) if plain in TYPES:
                return dict(TYPES[plain])
            case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
                return self.annotation(name, inner) | {"nullable": True}
            case ast.BinOp(left=inner, op=ast.BitOr(), right=ast.Constant(value=None)):
                return self.annotation(name, inner) | {"nullable": True}
            case ast.Subscript(value=ast.Name(id="list"), slice=ast.Name(id=plain)) if plain in TYPES:
                return {"type": "array", "items": dict(TYPES[plain])}
        annotation = ast.unparse(node) if node else "no type"
        allowed = ", ".join(TYPES)
        raise SchemaError(f"{name}: {annotation} is not one of {allowed}, Optional[...] or list[...]")

    def literal(self, name: str, key: str, node: ast.expr) -> Any:
        """A literal, or a constant of the same file whose value is a literal."""
        if isinstance(node, ast.Name) and node.id in self.constants:
            node = self.constants[node.id]
        match node:
            case ast.Constant(value=str()):
                return self.text(name, key, node)
            case ast.Constant(value=None | bool()):
                return node.value
            case ast.List(elts=items):
                return [self.literal(name, key, item) for item in items]
        return self.number(name, key, node)

    def text(self, name: str, key: str, node: ast.expr) -> str:
        """A single string literal; Cog does not interpret escapes or join adjacent literals."""
        if isinstance(node, ast.Name) and node.id in self.constants and key == "default":
            node = self.constants[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            segment = self.source_of(node)
            if segment in {f"{quote}{node.value}{quote}" for quote in QUOTES}:
                return node.value
        raise SchemaError(f"{name}: {key} must be one plain string literal without escapes")

    def number(self, name: str, key: str, node: ast.expr) -> int | float:
        """A plain number; Cog drops names, expressions and digits with underscores."""
        segment = self.source_of(node)
        if not PLAIN_NUMBER.fullmatch(segment):
            raise SchemaError(f"{name}: {key} must be a plain literal, not {ast.unparse(node)}")
        number: int | float = ast.literal_eval(segment)
        return number

    def source_of(self, node: ast.expr) -> str:
        """The source text of a node, as `ast.get_source_segment`, which splits the whole source at every call."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        *lines, last = self.lines[node.lineno - 1 : node.end_lineno]
        return b"".join([*lines, last[: node.end_col_offset]])[node.col_offset :].decode()

    def choices(self, name: str, node: ast.expr) -> list[Any]:
        """A list of at least two literals."""
        choices = self.literal(name, "choices", node)
        if not isinstance(choices, list) or len(choices) < 2:
            raise SchemaError(f"{name}: choices must be a list of at least two literals")
        return choices


def check_default(name: str, field: Schema) -> None:
    """SchemaError for a default that Cog would drop, or that its own type, bounds or choices do not allow."""
    if "default" not in field:
        if "nullable" in field:
            raise SchemaError(f"{name}: an Optional input needs default=None")
        return
    default = field["default"]
    if default is None:
        if "nullable" not in field:
            raise SchemaError(f"{name}: default=None needs Optional[...]; Cog would require the input")
        return
    if field.get("format") == "uri":
        raise SchemaError(f"{name}: a Path has no default other than None")
    if type(default) not in DEFAULT_TYPES[field["type"]]:
        raise SchemaError(f"{name}: default {default!r} is not of type {field['type']}")
    if default not in field.get("choices", [default]):
        raise SchemaError(f"{name}: default {default!r} is not among its choices")
    if field["type"] in {"integer", "number"} and not (
        field.get("minimum", default) <= default <= field.get("maximum", default)
    ):
        raise SchemaError(f"{name}: default {default!r} is outside its bounds")


def predict_method(module: ast.Module, class_name: str) -> ast.FunctionDef:
    """The predict method of a class; SchemaError if its names are not imported from cog, or if it is decorated."""
    imported_from = {
        alias.asname or alias.name: node.module
        for node in module.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for name in ("Input", "Path"):
        if imported_from.get(name) != "cog":
            raise SchemaError(f"{name}: must be imported by `from cog import {name}`")
    for node in module.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "predict":
                    if method.decorator_list:
                        raise SchemaError("predict: must not be decorated")
                    if not (isinstance(method.returns, ast.Name) and method.returns.id == "Path"):
                        raise SchemaError("predict: must be annotated `-> Path`")
                    return method
    raise SchemaError(f"{class_name}: there is no such class with a predict method")


def openapi(source: str, class_name: str = "Predictor") -> Schema:
    """The document for the predictor in `source`: Cog's fixed template with the predictor's inputs."""
    reader = InputReader(source)
    input_schema, enums = reader.inputs(predict_method(reader.module, class_name))
    document: Schema = json.loads(TEMPLATE.read_text(encoding="utf-8"))
    document["components"]["schemas"] |= {"Input": input_schema, **enums}
    return document


def write(folder: Path = Path(), predictor: str = "predict.py:Predictor") -> Schema:
    """Write the document for `predictor` (`file:class`) to where the server expects it in `folder`; return it."""
    file, _, class_name = predictor.partition(":")
    document = openapi((folder / file).read_text(encoding="utf-8"), class_name)
    target = folder / SCHEMA_PATH
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


if __name__ == "__main__":
    write()
    sys.stdout.write(f"{SCHEMA_PATH}\n")
