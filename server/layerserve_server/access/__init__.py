"""Who may call what: rights of methods, callers, tokens, client certificates, quotas.

Every call passes the gate before its request is looked at. A method's right is in proto/, in `rights`, or in its
`Extension`; a server with a method without one doesn't start. Handlers call `Caller.check_model` before they look a
model up, so that errors don't reveal what exists.

What is lost opens nothing. A run keeps its owner and the callers of its model (`ownership`). A file of callers that
can't be read isn't an empty one: the model is then open to those who manage it (`reserved.UNREADABLE`).
"""
