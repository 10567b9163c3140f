"""What a server serves: models, their nodes, files and statistics, and changes of them."""
