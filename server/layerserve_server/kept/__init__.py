"""What is made of models once and kept in the state folder: graphs of engines."""
