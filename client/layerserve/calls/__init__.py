"""How a call is made: address, channel, token, retries, and flows, the operations without I/O."""
