"""From text to AST, and back to canonical text: the only package that knows lark."""
