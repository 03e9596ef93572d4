"""`openapi.json`, made from the operations and their models, so that it cannot say anything else than they do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Protocol

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from router.admin.models import ErrorBody

_REF = "#/components/schemas/{model}"

_ALWAYS = {400: "Not understood.", 401: "The key is missing or wrong.", 403: "Not from there.", 503: "Try again soon."}

_SOMETIMES = {404: "There is no such thing.", 409: "The bytes are gone, or no picture.", 502: "The eyes failed."}


class Operation(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def answer(self) -> Sequence[type[BaseModel]] | str: ...
    @property
    def query(self) -> type[BaseModel] | None: ...
    @property
    def body(self) -> type[BaseModel] | None: ...
    @property
    def errors(self) -> Sequence[int]: ...


def document(base: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """OpenAPI 3.1.  `base`: what stands before every path."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(base + operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Chiasm: images", "version": version("chiasm")},
        "security": [{"bearer": []}, {"key": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "session": {"type": "apiKey", "in": "cookie", "name": "chiasm_admin"},
            },
        },
    }


def _described(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": _id(operation),
        "summary": operation.summary,
        "parameters": [*_in_path(operation.path), *(_in_query(operation.query) if operation.query else ())],
        "responses": {"200": {"description": "Done.", "content": _content(operation.answer)}},
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content([operation.body])}
    for status, words in {**_ALWAYS, **{status: _SOMETIMES.get(status, "") for status in operation.errors}}.items():
        described["responses"].setdefault(
            str(status), {"description": words or _ALWAYS[status], "content": _content([ErrorBody])}
        )
    return described


def _id(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", operation.path.replace("{id}", "").replace("{n}", ""))
    alone = operation.path.endswith("}")
    return "_".join([operation.method.lower(), *words, *(["one"] if alone else [])])


def _content(answer: Sequence[type[BaseModel]] | str) -> dict[str, Any]:
    if isinstance(answer, str):
        schema: dict[str, Any] = {"type": "object"} if answer == "application/json" else {"type": "string"}
        return {answer: {"schema": schema}}
    refs = [{"$ref": _REF.format(model=model.__name__)} for model in answer]
    return {"application/json": {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}}


def _in_path(path: str) -> list[dict[str, Any]]:
    kinds = {"id": {"type": "string"}, "n": {"type": "integer", "minimum": 1}}
    return [
        {"name": name, "in": "path", "required": True, "schema": kinds[name]} for name in re.findall(r"{(\w+)}", path)
    ]


def _in_query(model: type[BaseModel]) -> list[dict[str, Any]]:
    properties = model.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            **({"description": schema["description"]} if "description" in schema else {}),
            "schema": {key: value for key, value in schema.items() if key not in ("description", "title")},
        }
        for name, schema in properties.items()
    ]


def _schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    models: list[type[BaseModel]] = [ErrorBody]
    for operation in operations:
        models += [] if isinstance(operation.answer, str) else list(operation.answer)
        models += [operation.body] if operation.body is not None else []
    unique = list(dict.fromkeys(models))
    _, schemas = models_json_schema([(model, "serialization") for model in unique], ref_template=_REF)
    defs: dict[str, Any] = schemas["$defs"]
    return defs
