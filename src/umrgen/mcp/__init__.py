"""Tools for agents by the Model Context Protocol, imported only by `umrgen mcp` and by a server that offers them."""
