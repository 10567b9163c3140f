"""Arrays and what is made of them: tensors of messages, inputs by name, tables of text."""
