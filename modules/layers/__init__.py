"""Parts that networks of every domain are built from."""
