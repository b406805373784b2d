"""What OpenRPC 1.3 asks of a document (spec.open-rpc.org), as far as ours has it: JSON Schema."""

from __future__ import annotations

JSON_SCHEMA = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
DESCRIPTOR = {
    "type": "object",
    "required": ["name", "schema"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "summary": {"type": "string"},
        "description": {"type": "string"},
        "required": {"type": "boolean"},
        "deprecated": {"type": "boolean"},
        "schema": JSON_SCHEMA,
    },
}
ERROR = {
    "type": "object",
    "required": ["code", "message"],
    "additionalProperties": False,
    "properties": {"code": {"type": "integer"}, "message": {"type": "string"}, "data": {}},
}
TAG = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "summary": {"type": "string"},
        "description": {"type": "string"},
    },
}
METHOD = {
    "type": "object",
    "required": ["name", "params", "result"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "summary": {"type": "string"},
        "description": {"type": "string"},
        "tags": {"type": "array", "items": TAG},
        "paramStructure": {"enum": ["by-name", "by-position", "either"]},
        "params": {"type": "array", "items": DESCRIPTOR},
        "result": DESCRIPTOR,
        "errors": {"type": "array", "items": ERROR},
        "deprecated": {"type": "boolean"},
    },
}
DOCUMENT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["openrpc", "info", "methods"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "openrpc": {"type": "string", "pattern": r"^1\.[0-3]\.\d+$"},
        "info": {
            "type": "object",
            "required": ["title", "version"],
            "additionalProperties": False,
            "patternProperties": {"^x-": {}},
            "properties": {
                "title": {"type": "string"},
                "description": {"type": "string"},
                "version": {"type": "string"},
            },
        },
        "methods": {"type": "array", "items": METHOD},
        "components": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "schemas": {
                    "type": "object",
                    "propertyNames": {"pattern": r"^[a-zA-Z0-9._-]+$"},
                    "additionalProperties": JSON_SCHEMA,
                }
            },
        },
    },
}
