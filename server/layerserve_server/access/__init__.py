"""Who may call what: rights of methods, callers, tokens, client certificates, quotas."""
