"""The processes that train: started and watched by the server, and what they do."""
