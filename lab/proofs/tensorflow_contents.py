"""What a file of descriptors defines: for both halves of compare_tensorflow_serving.py."""

from __future__ import annotations


def contents(file) -> dict[str, list]:
    """Number and type of every field and enum value, and the messages of every method, of a FileDescriptorProto."""
    found: dict[str, list] = {}

    def of_enum(enum, scope):
        for value in enum.value:
            found[f"{scope}.{enum.name}.{value.name}"] = [value.number]

    def of_message(message, scope):
        name = f"{scope}.{message.name}"
        for field in message.field:
            found[f"{name}.{field.name}"] = [field.number, field.type, field.label, field.type_name]
        for enum in message.enum_type:
            of_enum(enum, name)
        for inner in message.nested_type:
            of_message(inner, name)

    for enum in file.enum_type:
        of_enum(enum, file.package)
    for message in file.message_type:
        of_message(message, file.package)
    for service in file.service:
        for method in service.method:
            types = [method.input_type, method.output_type, method.client_streaming, method.server_streaming]
            found[f"{file.package}.{service.name}.{method.name}"] = types
    return found
