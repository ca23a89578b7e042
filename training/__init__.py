"""How the built-in model `shapes` is made and measured."""
